// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"lvs/needs"
)

// effort is the most instructions that the verifier may take for a program. It gives up after a million, and takes more or less from
// one kernel to the next; what a change adds is seen by bounds that are some 30 percent above what Linux 6.18 or 6.1 takes. Raise
// one when that is what a change is worth.
var effort = map[string]uint32{
	bpfProgDirectorXdp: 124_000, bpfProgDirectorTc: 124_000, bpfProgDirectorOut: 62_000,
	bpfProgDirectorRestXdp: 86_000, bpfProgDirectorRest: 121_000, bpfProgDirectorRelated: 111_000, bpfProgDirectorFragment: 115_000,
	bpfProgDirectorReset: 22_000, bpfProgDirectorStart: 36_000, bpfProgDirectorAnchor: 2,
}

// Every program must stay below its bound, and on any kernel far from where the verifier gives up.
func TestVerifierEffort(t *testing.T) {
	needs.BPF(t)
	c, err := spec(small)
	must(t, err)
	coll, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	must(t, err)
	defer coll.Close()
	for name, p := range coll.Programs {
		info, err := p.Info()
		must(t, err)
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Fatal("the kernel does not tell, as all do from Linux 5.16 on")
		}
		t.Logf("%s: %d instructions", name, n)
		if n > effort[name] {
			t.Errorf("%s takes the verifier %d instructions, more than %d", name, n, effort[name])
		}
		if depth, chain := deepest(t, c.Programs[name].Instructions, p.VerifierLog); depth > 512 {
			t.Errorf("%s needs %d bytes of stack on Linux 6.1, more than 512: %v", name, depth, chain)
		}
	}
}

// deepest is the most stack that a chain of functions needs. Linux 6.1 gives each of them a multiple of 32 bytes, where later
// kernels give 16 or less.
func deepest(t *testing.T, program asm.Instructions, log string) (most int, chain []string) {
	t.Helper()
	_, sizes, ok := strings.Cut(log, "stack depth ")
	if !ok {
		t.Fatal("the verifier does not tell of the stack")
	}
	frames := strings.Split(strings.Fields(sizes)[0], "+")
	var names []string // in the order of the frames
	size, calls := map[string]int{}, map[string][]string{}
	for _, ins := range program {
		if s := ins.Symbol(); s != "" {
			n, err := strconv.Atoi(frames[len(names)])
			must(t, err)
			names, size[s] = append(names, s), max(1, (n+31)/32)*32
		}
		if at := names[len(names)-1]; ins.IsFunctionReference() {
			calls[at] = append(calls[at], ins.Reference())
		}
	}
	var down func(f string) (int, []string)
	down = func(f string) (int, []string) {
		below, chain := 0, []string(nil)
		for _, called := range calls[f] {
			if n, c := down(called); n > below {
				below, chain = n, c
			}
		}
		return size[f] + below, append([]string{fmt.Sprintf("%s %d", f, size[f])}, chain...)
	}
	return down(names[0])
}
