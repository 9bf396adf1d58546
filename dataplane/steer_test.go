// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"strings"
	"testing"

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
		fmt.Fprintln(&text, routes)
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
