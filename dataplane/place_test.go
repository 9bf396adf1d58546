// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
	"lvs/needs"
	"lvs/place"
)

// onThread runs f on a thread of its own, which ends with whatever f has changed about it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

// TestDeadNamespaces has namespaces come and go with services in them, and nobody to clear up.
func TestDeadNamespaces(t *testing.T) {
	needs.BPF(t)
	needs.NetNS(t)
	tiny := Sizes{Conns: 64, Services: 1, Servers: 1}
	var dirs []string
	for range 30 {
		onThread(func() {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Error(err)
				return
			}
			d, err := Open(tiny)
			if err != nil {
				t.Error(err)
				return
			}
			dirs = append(dirs, d.place.Path)
			if err := d.Update(addService(tcp4.id(), "rr", tcp4.server)); err != nil {
				t.Error(err)
			}
		})
	}
	mustEndOf(t, dirs)
	mustNamespace(t)
	d, err := Open(tiny)
	must(t, err)
	must(t, d.Update(func(*lvs.Table) error { return nil }))
	defer func() {
		if err := d.Unload(); err != nil {
			t.Error(err)
		}
	}()
	for _, dir := range dirs {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left of a namespace that is gone", dir)
		}
	}
	if _, err := os.Stat(d.place.Path); err != nil {
		t.Errorf("the namespace that is there has lost its own: %v", err)
	}
}

// mustEndOf waits for the kernel to have taken namespaces down, which it does after their last thread has ended.
func mustEndOf(t testing.TB, dirs []string) {
	t.Helper()
	for _, dir := range dirs {
		for deadline := time.Now().Add(time.Minute); place.Alive(dir); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: its namespace does not end", dir)
			}
		}
	}
}

// An instance whose links cannot be looked at just now is not taken for dead, and swept away.
func TestRefusedIsNotDead(t *testing.T) {
	w := mustWorld(t, small)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}))
	anchored, err := place.Anchored(w.place.Path)
	alive := place.Alive(w.place.Path)
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if anchored || !errors.Is(err, unix.EMFILE) {
		t.Errorf("without a descriptor to look with: %v, %v", anchored, err)
	}
	if !alive {
		t.Error("it counts as one whose namespace is gone")
	}
}

// surroundings is what attaching changes about a namespace.
func surroundings(t testing.TB) string {
	t.Helper()
	links, err := netlink.LinkList()
	must(t, err)
	var text strings.Builder
	for _, l := range links {
		a := l.Attrs()
		fmt.Fprintf(&text, "%s: XDP %v\n", a.Name, a.Xdp != nil && a.Xdp.Attached)
		qdiscs, err := netlink.QdiscList(l)
		must(t, err)
		for _, q := range qdiscs {
			fmt.Fprintf(&text, "  qdisc %s\n", q.Type())
			if q.Type() != "clsact" {
				continue
			}
			filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
			must(t, err)
			for _, f := range filters {
				fmt.Fprintf(&text, "    filter %s %d\n", f.Type(), f.Attrs().Priority)
			}
		}
	}
	for _, l := range loSettings {
		file := l.file
		value, err := os.ReadFile(file)
		must(t, err)
		fmt.Fprintf(&text, "%s %s", file, value)
	}
	return text.String()
}

// Unloading leaves a namespace as it was before the first change.
func TestUnloadRestores(t *testing.T) {
	for forwarding := range 3 {
		t.Run(fmt.Sprintf("forwarding %02b", forwarding), func(t *testing.T) {
			mustNamespace(t)
			mustInterface(t, "clients", 1500)
			mustInterface(t, "servers", 1500)
			for bit, l := range loSettings {
				must(t, os.WriteFile(l.file, []byte{'0' + byte(forwarding>>bit&1)}, 0))
			}
			before := surroundings(t)
			d, err := Open(small)
			must(t, err)
			must(t, d.Attach(nil, XDPNative))
			must(t, d.Update(states[0].become))
			if now := surroundings(t); now == before || !strings.Contains(now, "clients: XDP true") {
				t.Errorf("attached:\n%s", now)
			}
			must(t, d.Detach([]string{"clients"}))
			if now := surroundings(t); !strings.Contains(now, "clients: XDP false") || !strings.Contains(now, "servers: XDP true") {
				t.Errorf("detached from one:\n%s", now)
			}
			must(t, d.Unload())
			if now := surroundings(t); now != before {
				t.Errorf("before:\n%s\nafterwards:\n%s", before, now)
			}
		})
	}
}

// Where there is no tcx, a clsact qdisc is added and taken away; one of somebody else stays, with his filters.
func TestClsactRestores(t *testing.T) {
	w := mustWorld(t, small)
	other := mustInterface(t, "others", 1500)
	qdisc := netlink.QdiscAttrs{LinkIndex: other.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}
	must(t, netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: qdisc}))
	must(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: other.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 7, Protocol: unix.ETH_P_ALL,
		},
		Fd: w.tc.FD(), Name: "somebody's", DirectAction: true,
	}))
	own := mustInterface(t, "own", 1500)
	before := surroundings(t)
	in := w.mustLook()
	for _, l := range []netlink.Link{own, other} {
		must(t, in.attachClsact(l, w.tc, bpfDevice{Tc: bpfAttachmentATTACH_CLSACT}, netlink.HANDLE_MIN_INGRESS))
	}
	if now := surroundings(t); strings.Count(now, "clsact") != 2 || strings.Count(now, "filter bpf") != 3 {
		t.Errorf("attached:\n%s", now)
	}
	must(t, w.Detach([]string{"own", "others"}))
	if now := surroundings(t); now != before {
		t.Errorf("before:\n%s\nafterwards:\n%s", before, now)
	}
}
