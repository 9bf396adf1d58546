// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"lvs"
)

// segmentSaid tells of a frame with a segment of TCP, whose checksums have to be right.
func segmentSaid(t *testing.T, frame []byte) string {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	tcp, ok := p.TransportLayer().(*layers.TCP)
	if !ok {
		t.Fatalf("no segment: %x", frame)
	}
	must(t, tcp.SetNetworkLayerForChecksum(p.NetworkLayer()))
	if err, wrong := p.VerifyChecksums(); err != nil || len(wrong) > 0 {
		t.Errorf("checksums: %v, %v", err, wrong)
	}
	src, dst := p.NetworkLayer().NetworkFlow().Endpoints()
	from, _ := netip.AddrFromSlice(src.Raw())
	to, _ := netip.AddrFromSlice(dst.Raw())
	return fmt.Sprintf("%v > %v RST %v ACK %v seq %d ack %d, %d bytes", netip.AddrPortFrom(from, uint16(tcp.SrcPort)), netip.AddrPortFrom(to, uint16(tcp.DstPort)),
		tcp.RST, tcp.ACK, tcp.Seq, tcp.Ack, len(tcp.Payload))
}

// TestResets: a packet of either end tells both, with their own addresses, once the server is removed; and so many as ICMP messages may be sent.
func TestResets(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	ends := map[bool]tap{false: mustTap(t, "clients-end"), true: mustTap(t, "servers-end")}
	const seq, ack = 1000, 2000 // of each packet
	for n, p := range []path{tcp4.service("203.0.113.10:90", "10.0.0.11:8090"), tcp6.service("[2001:db8:f::10]:90", "[fd00::11]:8090")} {
		p = p.from(uint16(3000 + n))
		for _, answer := range []bool{false, true} {
			w.mustUpdate(addService(p.id(), "rr", p.server))
			for _, one := range []packet{p.in("S"), p.out("SA"), p.in("A")} {
				w.run(w.tc, w.side(one), one.frame(t))
			}
			w.mustUpdate(without(p))
			last := packet{path: p, flags: "PA", payload: []byte("data"), answer: answer}
			before := w.mustReasons()
			verdict, out := w.run(w.tc, w.side(last), last.frame(t))
			if verdict != tcRedirect || w.mustReasons()[bpfReasonREASON_RESET] != before[bpfReasonREASON_RESET]+1 {
				t.Errorf("%v, by the server: %v: the verdict is %d", p.id(), answer, int32(verdict))
			}
			// back, and on
			want := [2][2]netip.AddrPort{{p.virtual, p.client}, {p.client, p.server}}
			if answer {
				want = [2][2]netip.AddrPort{{p.client, p.server}, {p.virtual, p.client}}
			}
			if got, want := segmentSaid(t, ends[answer].mustSegment(t)), fmt.Sprintf("%v > %v RST true ACK false seq %d ack 0, 0 bytes", want[0][0], want[0][1], ack); got != want {
				t.Errorf("its sender hears\n%s\nwant\n%s", got, want)
			}
			if got, want := segmentSaid(t, out), fmt.Sprintf("%v > %v RST true ACK true seq %d ack %d, 0 bytes", want[1][0], want[1][1], seq, ack); got != want {
				t.Errorf("the other end hears\n%s\nwant\n%s", got, want)
			}
			w.mustUpdate(func(t *lvs.Table) error { return t.DeleteService(p.id()) })
			w.setClock(w.settings.Now + 1000*w.mustLook().hz)
		}
	}
	p := tcp4.service("203.0.113.10:91", "10.0.0.11:8091").from(3010)
	w.mustUpdate(addService(p.id(), "rr", p.server))
	w.run(w.tc, w.clients, p.in("S").frame(t))
	w.mustUpdate(without(p))
	w.settings.IcmpBurst, w.settings.IcmpEvery = 2, 1<<30
	w.setClock(w.settings.Now)
	budgets, err := w.mustLook().m(bpfMapIcmpBudgets)
	must(t, err)
	var left []bpfIcmpBudget
	must(t, budgets.Lookup(uint32(0), &left))
	for i := range left {
		left[i] = bpfIcmpBudget{Left: 2, Since: w.settings.Now}
	}
	must(t, budgets.Put(uint32(0), left))
	for n, want := range []uint32{tcRedirect, tcRedirect, tcDrop} {
		before := w.mustReasons()
		if verdict, _ := w.run(w.tc, w.clients, p.in("A").frame(t)); verdict != want {
			t.Errorf("packet %d: the verdict is %d, want %d", n, int32(verdict), int32(want))
		}
		if quiet := w.mustReasons()[bpfReasonREASON_RESET_QUIET] - before[bpfReasonREASON_RESET_QUIET]; quiet != 0 != (want == tcDrop) {
			t.Errorf("packet %d: reset_quiet counts %d", n, quiet)
		}
	}
}
