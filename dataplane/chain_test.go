// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// A chain is the way of a packet as a card would give it: a program makes packets and sends them into the far end of a veth pair, XDP on the
// near end sends them on through another pair, and at the far end of that they are dropped. The kernel runs all of it on one CPU, in the
// thread that makes them, or in its own thread for what that leaves. What a program costs is the difference to one
// in its place that only sends on.
type chain struct {
	w        *world
	beside   netlink.Link // in which programs stand that are compared with
	ksoftirq string       // where the kernel tells what its thread has spent
}

func (w *world) mustChain(b *testing.B) *chain {
	b.Helper()
	c := &chain{w: w}
	if l, err := netlink.LinkByName("beside"); err == nil {
		c.beside = l
	} else {
		c.beside = mustInterface(b, "beside", 1500)
	}
	drop := mustAssemble(b, ebpf.XDP, asm.Instructions{asm.Mov.Imm(asm.R0, xdpDropped), asm.Return()})
	must(b, w.Detach([]string{"clients-end", "servers-end"}))
	for _, name := range []string{"clients-end", "servers-end", "beside-end"} {
		l, err := netlink.LinkByName(name)
		must(b, err)
		mustStand(b, drop, l)
	}
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	must(b, err)
	for _, name := range names {
		if comm, _ := os.ReadFile(name); string(comm) == "ksoftirqd/0\n" {
			c.ksoftirq = filepath.Join(filepath.Dir(name), "schedstat")
		}
	}
	if c.ksoftirq == "" {
		b.Skip("the kernel's threads are not to be seen from here")
	}
	return c
}

func mustStand(b *testing.B, p *ebpf.Program, on netlink.Link) {
	b.Helper()
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: on.Attrs().Index, Flags: link.XDPDriverMode})
	must(b, err)
	b.Cleanup(func() { l.Close() })
}

// mustSend is a program that sends packets on through an interface.
func mustSend(b *testing.B, to netlink.Link) *ebpf.Program {
	return mustAssemble(b, ebpf.XDP, append(sendOn(to), asm.Return()))
}

func sendOn(to netlink.Link) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R1, int32(to.Attrs().Index)), asm.Mov.Imm(asm.R2, 0), asm.FnRedirect.Call()}
}

// mustInto is a program that makes packets and sends them into the far end of an interface.
func (a again) mustInto(b *testing.B, near netlink.Link) *ebpf.Program {
	b.Helper()
	far, err := netlink.LinkByName(near.Attrs().Name + "-end")
	must(b, err)
	return a.mustAgain(b, mustSend(b, far))
}

// spend has packets go through the chain, and gives the nanoseconds of one.
func (c *chain) spend(b *testing.B, p *ebpf.Program, frame []byte, times int) float64 {
	b.Helper()
	const liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES
	before := threadTime(b) + c.kernelTime(b)
	_, err := p.Run(&ebpf.RunOptions{Data: frame, Repeat: uint32(times), Flags: liveFrames})
	must(b, err)
	return float64(threadTime(b)+c.kernelTime(b)-before) / float64(times)
}

func (c *chain) kernelTime(b *testing.B) (ns int64) {
	text, err := os.ReadFile(c.ksoftirq)
	must(b, err)
	_, err = fmt.Sscan(strings.Fields(string(text))[0], &ns)
	must(b, err)
	return ns
}

// race has packets go through the director, and in turn through programs in its place, and reports as race does.
func (c *chain) race(b *testing.B, a again) {
	b.Helper()
	own := a.mustInto(b, c.w.clients)
	aside := a.mustInto(b, c.beside)
	stand := map[string]*ebpf.Program{"": mustSend(b, c.w.servers), "exact": a.mustExact(b, ebpf.XDP, sendOn(c.w.servers)...)}
	times := map[string][]float64{}
	in := func(name string) {
		l, err := link.AttachXDP(link.XDPOptions{Program: stand[name], Interface: c.beside.Attrs().Index, Flags: link.XDPDriverMode})
		must(b, err)
		defer l.Close()
		c.spend(b, aside, a.frame, runs/10)
		times[name] = append(times[name], c.spend(b, aside, a.frame, runs))
	}
	for b.Loop() {
		in("")
		in("exact")
		c.spend(b, own, a.frame, runs/10)
		times["own"] = append(times["own"], c.spend(b, own, a.frame, runs))
	}
	report(b, times[""], times["own"], map[string][]float64{"exact": times["exact"]})
}
