// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"testing"

	"github.com/cilium/ebpf"

	"lvs/needs"
)

// The verifier gives up after a million instructions. What it takes for a program differs much from one kernel to the next,
// and every program must stay far from there on each.
func TestVerifierEffort(t *testing.T) {
	const most = 300_000
	needs.BPF(t)
	c, err := spec(small)
	must(t, err)
	coll, err := ebpf.NewCollection(c)
	must(t, err)
	defer coll.Close()
	for name, p := range coll.Programs {
		info, err := p.Info()
		must(t, err)
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("needs a kernel that tells (Linux 5.16)")
		}
		t.Logf("%s: %d instructions", name, n)
		if n > most {
			t.Errorf("%s takes the verifier %d instructions, more than %d", name, n, most)
		}
	}
}
