// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"lvs"
)

// nothing is a change that changes nothing.
func nothing(*lvs.Table) error { return nil }

// mustState tells how an interface is attached to, as the status does; nil if it does not mention it.
func (w *world) mustAttached(name string) *Interface {
	w.t.Helper()
	s, err := w.Status()
	must(w.t, err)
	at := slices.IndexFunc(s.Interfaces, func(i Interface) bool { return i.Name == name })
	if at < 0 {
		return nil
	}
	return &s.Interfaces[at]
}

// onTC is how interfaces are attached to on tc by this kernel.
func onTC() string {
	if haveTCX() {
		return "tcx"
	}
	return "clsact"
}

func (w *world) checkAttached(name, tc, xdp string) {
	w.t.Helper()
	if i := w.mustAttached(name); i == nil || i.TC != tc || i.XDP != xdp || i.Missing {
		w.t.Errorf("%s: %+v, want %q and %q", name, i, tc, xdp)
	}
}

// checkDevices holds the pins and the map of devices to the interfaces that there are.
func (w *world) checkDevices() {
	w.t.Helper()
	links, err := netlink.LinkList()
	must(w.t, err)
	in := w.mustLook()
	devices, err := in.devices()
	must(w.t, err)
	for ifindex := range devices {
		if byIndex(links, int(ifindex)) == nil {
			w.t.Errorf("interface %d is gone, and not forgotten", ifindex)
		}
	}
	pinned, err := pinnedLinks(in.dir)
	must(w.t, err)
	for _, l := range pinned {
		if l.cut {
			w.t.Errorf("link %s leads nowhere", l.pin)
		}
	}
}

func mustDelete(t testing.TB, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkDel(l))
	return l.Attrs().Index
}

func mustRun(t testing.TB, words ...string) {
	t.Helper()
	if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", words, err, out)
	}
}

// What was attached to by name is attached to again when it comes back, whichever index it has, and goes with a new name.
func TestInterfacesComeBack(t *testing.T) {
	w := mustWorld(t, small)
	native := string(XDPNative)
	w.checkAttached("clients", onTC(), native)
	before := mustDelete(t, "clients")
	w.mustUpdate(nothing)
	w.checkDevices()
	if i := w.mustAttached("clients"); i == nil || !i.Missing || i.Advice == "" {
		t.Errorf("gone: %+v", i)
	}
	l := mustInterface(t, "clients", 1500, "198.51.100.1/24")
	if l.Attrs().Index == before {
		t.Error("it has its old index")
	}
	w.mustUpdate(nothing)
	w.checkAttached("clients", onTC(), native)

	index := mustDelete(t, "clients")
	mustRun(t, "ip", "link", "add", "clients", "index", strconv.Itoa(index), "type", "veth", "peer", "name", "clients-end")
	mustRun(t, "ip", "link", "set", "clients", "up")
	w.mustUpdate(nothing) // nobody has looked while it was away
	w.checkAttached("clients", onTC(), native)

	mustRun(t, "ip", "link", "set", "clients", "down")
	mustRun(t, "ip", "link", "set", "clients", "name", "outside", "up")
	w.mustUpdate(nothing)
	w.checkAttached("outside", onTC(), native)
	if i := w.mustAttached("clients"); i != nil {
		t.Errorf("under its old name: %+v", i)
	}
	w.checkDevices()
}

func TestInterfacesThatComeLater(t *testing.T) {
	w := mustWorld(t, small)
	must(t, w.Await([]string{"later"}, XDPGeneric))
	if i := w.mustAttached("later"); i == nil || !i.Missing {
		t.Errorf("before: %+v", i)
	}
	mustInterface(t, "later", 1500)
	mustInterface(t, "other", 1500)
	w.mustUpdate(nothing)
	w.checkAttached("later", onTC(), string(XDPGeneric))
	w.checkAttached("other", onTC(), "")

	// what is to be left alone stays so, and of what nobody has named nothing is left
	must(t, w.Detach([]string{"later"}))
	mustDelete(t, "later")
	mustDelete(t, "other")
	w.mustUpdate(nothing)
	for _, name := range []string{"later", "other"} {
		if i := w.mustAttached(name); i != nil {
			t.Errorf("gone: %+v", i)
		}
	}
	mustInterface(t, "later", 1500)
	w.mustUpdate(nothing)
	w.checkAttached("later", "", "")
	must(t, w.Attach(nil, XDPNone))
	w.checkAttached("later", onTC(), "")
	w.checkDevices()
}

// What somebody else takes off is told, and put back by the next change.
func TestProgramsTakenOff(t *testing.T) {
	w := mustWorld(t, small)
	in := w.mustLook()
	ifindex := w.clients.Attrs().Index
	for _, pin := range []string{tcPin(ifindex), xdpPin(ifindex), outPin(1)} {
		if !haveTCX() && pin != xdpPin(ifindex) {
			for _, name := range []string{"clients", "lo"} {
				mustRun(t, "tc", "qdisc", "replace", "dev", name, "clsact")
				mustRun(t, "tc", "qdisc", "del", "dev", name, "clsact")
			}
			continue
		}
		l, err := link.LoadPinnedLink(in.dir+"/"+pin, nil)
		must(t, err)
		must(t, l.Detach())
		l.Close()
	}
	if i := w.mustAttached("clients"); i.TC != lost || i.XDP != lost || i.Advice == "" {
		t.Errorf("taken off: %+v", i)
	}
	if i := w.mustAttached("lo"); i.Egress != lost {
		t.Errorf("taken off: %+v", i)
	}
	w.mustUpdate(nothing)
	w.checkAttached("clients", onTC(), string(XDPNative))
	if i := w.mustAttached("lo"); i.Egress != onTC() {
		t.Errorf("not put back: %+v", i)
	}

	own := mustInterface(t, "own", 1500)
	must(t, in.attachClsact(own, w.tc, bpfDevice{Tc: bpfAttachmentATTACH_CLSACT}, netlink.HANDLE_MIN_INGRESS))
	w.checkAttached("own", "clsact", "")
	mustRun(t, "tc", "filter", "del", "dev", "own", "ingress")
	w.checkAttached("own", lost, "")
	w.mustUpdate(nothing)
	w.checkAttached("own", onTC(), "")

	must(t, netlink.LinkSetHardwareAddr(w.clients, net.HardwareAddr{2, 0, 0, 0, 0, 99}))
	w.mustUpdate(nothing)
	m, err := in.m(bpfMapMacs)
	must(t, err)
	var mac [8]byte
	must(t, m.Lookup(uint32(ifindex), &mac))
	if mac[5] != 99 {
		t.Errorf("XDP knows the address %x", mac)
	}
	w.checkDevices()
}

// Watching attaches to what comes, with nobody changing anything.
func TestWatch(t *testing.T) {
	w := mustWorld(t, small)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	watching := *w.Director
	w.onThreads(2, func(n int) {
		if n == 0 {
			if err := watching.Watch(ctx, func(err error) { t.Error(err) }); err != nil {
				t.Error(err)
			}
			return
		}
		defer stop()
		mustRun(t, "ip", "link", "add", "comes", "type", "veth", "peer", "name", "comes-end")
		mustRun(t, "ip", "link", "set", "comes", "up")
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			i := w.mustAttached("comes")
			if i != nil && i.TC == onTC() {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%+v", i)
				return
			}
		}
	})
}
