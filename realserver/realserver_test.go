// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var modes = []Mode{DR, Tunnel, FullNAT}

func mustRead(t *testing.T, ns namespace) (s *Status) {
	t.Helper()
	ns.must(t, func() (err error) {
		s, err = Read()
		return err
	})
	return s
}

func TestStopReturnsEverything(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			ns := mustServer(t)
			before := mustSnapshot(t, ns)
			o := Options{Mode: mode, VIPs: []netip.Addr{vip4}}
			ns.must(t, func() error { return Start(o) })
			once := mustSnapshot(t, ns)
			if once == before {
				t.Fatal("nothing has changed")
			}
			ns.must(t, func() error { return Start(o) })
			if twice := mustSnapshot(t, ns); twice != once {
				t.Errorf("a second start: %s", difference(once, twice))
			}
			more := Options{Mode: mode, VIPs: []netip.Addr{vip6}}
			ns.must(t, func() error { return Start(more) })
			s := mustRead(t, ns)
			if !s.Running || !s.Complete || !slices.Equal(s.VIPs, []netip.Addr{vip4, vip6}) || !slices.Equal(s.Modes, []Mode{mode}) || len(s.Missing) > 0 {
				t.Errorf("status: %+v", s)
			}
			ns.must(t, func() error { return Stop([]netip.Addr{vip6}) })
			if one := mustSnapshot(t, ns); one != once {
				t.Errorf("after the second address went: %s", difference(once, one))
			}
			ns.must(t, func() error { return Stop(nil) })
			if after := mustSnapshot(t, ns); after != before {
				t.Errorf("after stop: %s", difference(before, after))
			}
			if s := mustRead(t, ns); s.Running {
				t.Errorf("status: %+v", s)
			}
		})
	}
}

// TestStopLeavesWhatWasThere: an operator's own address and settings are not ours to take away.
func TestStopLeavesWhatWasThere(t *testing.T) {
	ns := mustServer(t)
	mustSetUp(t, ns, "lo", vip4.String()+"/32")
	ns.must(t, func() error { return writeSetting("net/ipv4/conf/all/arp_ignore", "2") })
	ns.must(t, func() error { return writeSetting("net/ipv4/conf/all/arp_announce", "2") })
	before := mustSnapshot(t, ns)
	ns.must(t, func() error { return Start(Options{Mode: Tunnel, VIPs: []netip.Addr{vip4, vip6}}) })
	ns.must(t, func() error { return Stop(nil) })
	if after := mustSnapshot(t, ns); after != before {
		t.Errorf("after stop: %s", difference(before, after))
	}
}

func TestModesAddUp(t *testing.T) {
	ns := mustServer(t)
	before := mustSnapshot(t, ns)
	for _, mode := range modes {
		ns.must(t, func() error { return Start(Options{Mode: mode, VIPs: []netip.Addr{vip4}}) })
	}
	if s := mustRead(t, ns); !slices.Equal(s.Modes, modes) || len(s.Tunnelled) != int(bpfDecapDECAPS) || len(s.Clients) != int(bpfToaTOAS) {
		t.Errorf("status: %+v", s)
	}
	ns.must(t, func() error { return Stop([]netip.Addr{vip4}) })
	if s := mustRead(t, ns); !s.Running || len(s.VIPs) > 0 {
		t.Errorf("without an address: %+v", s)
	}
	ns.must(t, func() error { return Stop(nil) })
	if after := mustSnapshot(t, ns); after != before {
		t.Errorf("after stop: %s", difference(before, after))
	}
}

// TestStatusTellsWhatIsMissing: a program of the host's may take away what start did.
func TestStatusTellsWhatIsMissing(t *testing.T) {
	ns := mustServer(t)
	ns.must(t, func() error { return Start(Options{Mode: DR, VIPs: []netip.Addr{vip4}}) })
	ns.must(t, func() error { return writeSetting("net/ipv4/conf/all/arp_ignore", "0") })
	if s := mustRead(t, ns); !slices.Equal(s.Missing, []string{"net.ipv4.conf.all.arp_ignore = 1"}) {
		t.Errorf("missing: %q", s.Missing)
	}
	ns.must(t, func() error { return Start(Options{Mode: DR, VIPs: []netip.Addr{vip4}}) })
	if s := mustRead(t, ns); len(s.Missing) > 0 {
		t.Errorf("after another start: %q", s.Missing)
	}
}

// TestKilledHalfWay kills start, and then stop, after each step that they take.
func TestKilledHalfWay(t *testing.T) {
	for _, mode := range []Mode{Tunnel, FullNAT} { // DR is a part of both
		t.Run(string(mode), func(t *testing.T) {
			ns := mustServer(t)
			before := mustSnapshot(t, ns)
			mustRun(t, ns, "start", mode, 1000)
			started := mustSnapshot(t, ns)
			mustRun(t, ns, "stop", mode, 1000)
			steps := 0
			for ; !mustRun(t, ns, "start", mode, steps); steps++ {
				if s := mustRead(t, ns); s.Complete {
					t.Errorf("killed after %d steps of start, it says that all is done", steps)
				}
				if steps%2 == 0 {
					mustRun(t, ns, "start", mode, 1000)
					if now := mustSnapshot(t, ns); now != started {
						t.Errorf("started again after %d steps: %s", steps, difference(started, now))
					}
				}
				mustRun(t, ns, "stop", mode, 1000)
				if now := mustSnapshot(t, ns); now != before {
					t.Fatalf("stopped after %d steps of start: %s", steps, difference(before, now))
				}
			}
			if steps < 4 {
				t.Errorf("start has %d steps only", steps)
			}
			for steps = 0; !mustRun(t, ns, "stop", mode, steps); steps++ {
				if steps%2 == 0 {
					mustRun(t, ns, "start", mode, 1000)
					if now := mustSnapshot(t, ns); now != started {
						t.Errorf("started after %d steps of stop: %s", steps, difference(started, now))
					}
				} else {
					mustRun(t, ns, "stop", mode, 1000)
					if now := mustSnapshot(t, ns); now != before {
						t.Errorf("stopped after %d steps of stop: %s", steps, difference(before, now))
					}
				}
				mustRun(t, ns, "start", mode, 1000)
			}
			if now := mustSnapshot(t, ns); now != before {
				t.Errorf("in the end: %s", difference(before, now))
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, test := range []struct {
		says string
		o    Options
	}{
		{"mode", Options{VIPs: []netip.Addr{vip4}}},
		{"without a virtual address", Options{Mode: DR}},
		{"clients send to", Options{Mode: DR, VIPs: []netip.Addr{netip.MustParseAddr("224.0.0.1")}}},
		{"clients send to", Options{Mode: DR, VIPs: []netip.Addr{netip.MustParseAddr("fe80::1")}}},
		{"clients send to", Options{Mode: DR, VIPs: []netip.Addr{netip.MustParseAddr("0.0.0.0")}}},
		{"GUE port 0", Options{Mode: Tunnel, VIPs: []netip.Addr{vip4}, GUEPorts: []uint16{0}}},
		{"decapsulation by", Options{Mode: Tunnel, VIPs: []netip.Addr{vip4}, Decap: "nobody"}},
		{"directors", Options{Mode: FullNAT, Directors: []netip.Prefix{{}}}},
	} {
		err := Start(test.o)
		if !errors.Is(err, ErrOptions) || !strings.Contains(fmt.Sprint(err), test.says) {
			t.Errorf("%+v: %v", test.o, err)
		}
	}
}

// difference gives the lines that only one of two texts has.
func difference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out strings.Builder
	for _, l := range as {
		if !slices.Contains(bs, l) {
			fmt.Fprintf(&out, "\n- %s", l)
		}
	}
	for _, l := range bs {
		if !slices.Contains(as, l) {
			fmt.Fprintf(&out, "\n+ %s", l)
		}
	}
	return out.String()
}
