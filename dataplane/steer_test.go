// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
)

// steering tells of all that is changed for marks: rules, interfaces, routes.
func steering(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, f := range families {
		rules, err := netlink.RuleList(f.number)
		must(t, err)
		for _, r := range rules {
			fmt.Fprintf(&text, "%d: %d mark %x/%x from %q goto %d table %d protocol %d\n", f.number, r.Priority, r.Mark, maskOf(r), r.IifName, r.Goto, r.Table, r.Protocol)
		}
		routes, err := netlink.RouteListFiltered(f.number, &netlink.Route{Table: markTable}, netlink.RT_FILTER_TABLE)
		must(t, err)
		for _, r := range routes {
			fmt.Fprintln(&text, r.Dst, r.Table)
		}
	}
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		fmt.Fprintln(&text, l.Attrs().Name)
	}
	return text.String()
}

func addMark(f lvs.Family, mark uint32) func(*lvs.Table) error {
	return addService(lvs.ServiceID{Family: f, Mark: mark}, "rr")
}

func deleteMark(f lvs.Family, mark uint32) func(*lvs.Table) error {
	return func(t *lvs.Table) error { return t.DeleteService(lvs.ServiceID{Family: f, Mark: mark}) }
}

// The first service by mark has packets led to the program, the last one ends that; where either is cut short, the next
// change goes on.
func TestSteeringCutAnywhere(t *testing.T) {
	w := mustWorld(t, small)
	before := steering(t)
	steps := 0
	for _, first := range []bool{true, false} {
		for n := 1; ; n++ {
			w.mustUpdate(addMark(lvs.IPv4, 7))
			w.mustUpdate(deleteMark(lvs.IPv4, 7))
			change := func(t *lvs.Table) error {
				return errors.Join(addMark(lvs.IPv4, 5)(t), addMark(lvs.IPv6, 6)(t))
			}
			if !first {
				w.mustUpdate(change)
				change = func(t *lvs.Table) error {
					return errors.Join(deleteMark(lvs.IPv4, 5)(t), deleteMark(lvs.IPv6, 6)(t))
				}
			}
			was, err := cutAfter(n, func() error { return w.Update(change) })
			must(t, err)
			w.mustUpdate(func(t *lvs.Table) error { t.Clear(); return nil })
			if now := steering(t); now != before {
				t.Fatalf("cut after step %d, and cleared:\n%s\nwant\n%s", n, now, before)
			}
			if !was {
				break
			}
			steps++
		}
	}
	t.Logf("%d steps", steps)
}

// Each mark has a rule while it has a service, and rules of others stay as they are.
func TestSteeringLeavesOthersAlone(t *testing.T) {
	w := mustWorld(t, small)
	others := netlink.NewRule()
	others.Family, others.Priority, others.Table, others.Mark = unix.AF_INET, 2000, 100, 9
	must(t, netlink.RuleAdd(others))
	before := steering(t)
	w.mustUpdate(addMark(lvs.IPv4, 5), addMark(lvs.IPv4, 0xffffffff))
	w.mustUpdate(deleteMark(lvs.IPv4, 5))
	now := steering(t)
	for _, line := range []string{"2: 2 mark ffffffff/ffffffff ", "2: 3 mark 0/0 ", "2: 2000 mark 9/ffffffff "} {
		if !strings.Contains(now, line) {
			t.Errorf("no rule %q in\n%s", line, now)
		}
	}
	if strings.Contains(now, "2: 2 mark 5/") || strings.Contains(now, "2: 0 mark") || strings.Contains(now, "10: 2 mark") {
		t.Errorf("too many rules:\n%s", now)
	}
	must(t, w.Detach(nil))
	if now := steering(t); now != before {
		t.Errorf("detached:\n%s\nwant\n%s", now, before)
	}
	must(t, w.Attach(nil, XDPNone))
	if again := steering(t); again != now {
		t.Errorf("attached again:\n%s\nwant\n%s", again, now)
	}
	must(t, w.Unload())
	if now := steering(t); now != before {
		t.Errorf("unloaded:\n%s\nwant\n%s", now, before)
	}
}

// Where the first preferences are taken, or the name of the device is, nothing changes.
func TestSteeringRefused(t *testing.T) {
	w := mustWorld(t, small)
	others := netlink.NewRule()
	others.Family, others.Priority, others.Table = unix.AF_INET, preferMark, 100
	must(t, netlink.RuleAdd(others))
	before := steering(t)
	if err := w.Update(addMark(lvs.IPv4, 5)); !errors.Is(err, unix.EEXIST) {
		t.Errorf("the preference is taken: %v", err)
	}
	if now := steering(t); now != before {
		t.Errorf("refused:\n%s\nwant\n%s", now, before)
	}
	must(t, netlink.RuleDel(others))
	mustInterface(t, markDevice, 1500)
	before = steering(t)
	if err := w.Update(addMark(lvs.IPv4, 5)); err == nil {
		t.Error("the name of the device is taken, and nobody says so")
	}
	w.mustUpdate(func(t *lvs.Table) error { t.Clear(); return nil })
	if now := steering(t); now != before {
		t.Errorf("refused:\n%s\nwant\n%s", now, before)
	}
}

// marked runs a SYN with a mark through a program as if at an interface; it gives the verdict, where the packet goes then, and
// with which mark.
func (w *world) marked(p *ebpf.Program, at netlink.Link, frame []byte, mark uint32) (verdict uint32, to netip.Addr, after uint32) {
	w.t.Helper()
	skb, now := contextOf(p, at, frame, 0).([48]uint32), [48]uint32{}
	skb[2] = mark
	if p != w.tc {
		skb[9] = 0 // a packet that leaves came in elsewhere, or nowhere
	}
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: skb, ContextOut: &now}
	verdict, err := p.Run(o)
	must(w.t, err)
	to, _ = netip.AddrFromSlice(o.DataOut[30:34])
	return verdict, to, now[2]
}

// While there are services by mark, a connection begins on the egress of the device, by mark or else by address.
func TestMarkBeforeAddress(t *testing.T) {
	w := mustWorld(t, small)
	must(t, os.WriteFile(families[0].forwarding, []byte("1"), 0))
	along := tcp4
	w.mustUpdate(addService(along.id(), "rr", netip.AddrPortFrom(server4, 80)))
	if verdict, to, _ := w.marked(w.tc, w.clients, along.from(4000).in("S").frame(t), 0); verdict != tcRedirect || to != server4 {
		t.Errorf("without services by mark the verdict is %d, to %v", verdict, to)
	}
	w.mustUpdate(addService(lvs.ServiceID{Family: lvs.IPv4, Mark: 5}, "rr", netip.AddrPortFrom(other4, 0)))
	out, err := w.look.program("out")
	must(t, err)
	defer out.Close()
	device, err := netlink.LinkByName(markDevice)
	must(t, err)
	virtual := along.virtual.Addr()
	for i, c := range []struct {
		what    string
		p       *ebpf.Program
		at      netlink.Link
		mark    uint32
		verdict uint32
		to      netip.Addr
		after   uint32
	}{
		{"at ingress it goes up, with a bit", w.tc, w.clients, 0, tcPass, virtual, markAsk},
		{"the bit alone is for the address", out, device, markAsk, tcRedirect, server4, markAsk},
		{"a mark is for its service", out, device, 5, tcRedirect, other4, 5},
		{"also with the bit", out, device, 5 | markAsk, tcRedirect, other4, 5 | markAsk},
		{"another mark does not hide the address", out, device, 6, tcRedirect, server4, 6},
		{"a local client is not asked for a mark", out, w.clients, 0, tcRedirect, server4, 0},
	} {
		verdict, to, after := w.marked(c.p, c.at, along.from(uint16(4001+i)).in("S").frame(t), c.mark)
		if verdict != c.verdict || to != c.to || after != c.after {
			t.Errorf("%s: verdict %d to %v with mark %x", c.what, verdict, to, after)
		}
	}
	if verdict, to, _ := w.marked(w.tc, w.clients, along.from(4003).in("A").frame(t), 0); verdict != tcRedirect || to != other4 {
		t.Errorf("the connection of a mark goes on at ingress: verdict %d to %v", verdict, to)
	}
	if verdict, to, _ := w.marked(out, device, along.from(5000).in("A").frame(t), 5); verdict != tcRedirect || to != virtual {
		t.Errorf("what nobody knows comes in again as it was: verdict %d to %v", verdict, to)
	}
}
