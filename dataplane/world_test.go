// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"iter"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
	"lvs/needs"
	"lvs/place"
)

// world is a network namespace of a director, entered by the test's own thread, with an instance loaded that goes by a
// clock that stands still. Interfaces towards clients and servers exist, so that there are routes; nobody is behind them.
type world struct {
	*Director
	t                testing.TB
	clients, servers netlink.Link
	tc, xdp          *ebpf.Program
	tools            *ebpf.Collection
	settings         bpfSetting
	look             *instance
}

var (
	clientMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	serverMAC = net.HardwareAddr{2, 0, 0, 0, 0, 2}

	client4, client6 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:c::7")
	server4, server6 = netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("fd00::11")
	other4           = netip.MustParseAddr("10.0.0.12")
)

const serverMTU = 1400

var small = Sizes{Conns: 1024, Services: 64, Servers: 256}

// mustNamespace takes the test's thread into a network namespace of its own, which ends with the test. The test stays on
// one CPU, as what is remembered of routes is.
func mustNamespace(t testing.TB) {
	t.Helper()
	needs.BPF(t)
	needs.NetNS(t)
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	must(t, pin(0))
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
}

// pin keeps the thread on a CPU.
func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mustWorld makes a world; what the program is loaded with can be changed.
func mustWorld(t testing.TB, s Sizes, change ...func(*ebpf.CollectionSpec)) *world {
	t.Helper()
	mustNamespace(t)
	w := &world{t: t}
	w.clients = mustInterface(t, "clients", 1500, "198.51.100.1/24", "2001:db8:c::1/64")
	w.servers = mustInterface(t, "servers", serverMTU, "10.0.0.1/24", "fd00::1/64")
	for _, a := range []netip.Addr{client4, client6} {
		mustNeighbour(t, w.clients, a, clientMAC)
	}
	for _, a := range []netip.Addr{server4, server6, other4} {
		mustNeighbour(t, w.servers, a, serverMAC)
	}
	w.mustLoad(s, change...)
	return w
}

// kernelClock is the one by which commands go that are processes of their own.
var kernelClock = jiffies64

// mustLoad loads an instance, of which there is none.
func (w *world) mustLoad(s Sizes, change ...func(*ebpf.CollectionSpec)) {
	t := w.t
	t.Helper()
	c, err := spec(s)
	must(t, err)
	must(t, c.Variables[bpfVarTestClock].Set(true))
	for _, f := range change {
		f(c)
	}
	p, err := place.Find("")
	must(t, err)
	must(t, p.Create(func(dir string) error { return build(dir, c) }))
	w.Director = &Director{place: p, sizes: s}
	jiffies64 = func(uint32) uint64 { return w.now64() }
	t.Cleanup(func() { jiffies64 = kernelClock })
	t.Cleanup(func() {
		if err := w.Unload(); err != nil {
			t.Error(err)
		}
	})
	w.look, w.tools = nil, nil
	must(t, w.Attach(nil, XDPNative))
	in := w.mustLook()
	tc, err := in.program("tc")
	must(t, err)
	xdp, err := in.program("xdp")
	must(t, err)
	t.Cleanup(func() { tc.Close(); xdp.Close() })
	w.tc, w.xdp = tc, xdp
	w.settings, err = in.settings()
	must(t, err)
	w.settings.IcmpBurst = 1 << 30
	w.setClock(1 << 20)
}

func mustInterface(t testing.TB, name string, mtu int, addrs ...string) netlink.Link {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: mtu, HardwareAddr: routerMAC}, PeerName: name + "-end"}))
	for _, n := range []string{name, name + "-end"} {
		l, err := netlink.LinkByName(n)
		must(t, err)
		must(t, netlink.LinkSetUp(l))
	}
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetHardwareAddr(l, routerMAC))
	l, err = netlink.LinkByName(name)
	must(t, err)
	for _, a := range addrs {
		mustAddress(t, l, a)
	}
	return l
}

func mustAddress(t testing.TB, l netlink.Link, address string) {
	t.Helper()
	a, err := netlink.ParseAddr(address)
	must(t, err)
	if strings.Contains(address, ":") {
		a.Flags = unix.IFA_F_NODAD
	}
	must(t, netlink.AddrAdd(l, a))
}

func mustNeighbour(t testing.TB, l netlink.Link, a netip.Addr, mac net.HardwareAddr) {
	t.Helper()
	must(t, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
	}))
}

// setClock sets the jiffies that the program goes by.
func (w *world) setClock(jiffies uint32) {
	w.t.Helper()
	in := w.mustLook()
	w.settings.Now = jiffies
	must(w.t, in.putSettings(w.settings))
}

// Conns gives the connections by the clock that the program goes by; that of the kernel may be anywhere.
func (w *world) Conns() iter.Seq2[lvs.Conn, error] {
	return func(yield func(lvs.Conn, error) bool) { w.mustLook().conns(uint32(w.settings.Now), yield) }
}

// mustLook opens the maps without a lock, until the test ends: for looking at them, and for what no product does.
func (w *world) mustLook() *instance {
	w.t.Helper()
	if w.look == nil {
		in := &instance{dir: w.place.Path, pinned: map[string]*ebpf.Map{}}
		must(w.t, in.open())
		w.t.Cleanup(in.close)
		w.look = in
	}
	return w.look
}

// mustUpdate changes the table.
func (w *world) mustUpdate(changes ...func(*lvs.Table) error) {
	w.t.Helper()
	must(w.t, w.Update(func(t *lvs.Table) error {
		for _, change := range changes {
			if err := change(t); err != nil {
				return err
			}
		}
		return nil
	}))
}

func serviceID(p lvs.Protocol, a netip.AddrPort) lvs.ServiceID {
	id := lvs.ServiceID{Family: lvs.IPv4, Protocol: p, Addr: a.Addr(), Port: a.Port()}
	if a.Addr().Is6() {
		id.Family = lvs.IPv6
	}
	return id
}

func realServer(a netip.AddrPort) lvs.ServerID { return lvs.ServerID{Addr: a.Addr(), Port: a.Port()} }

// addService is a change that adds a service with servers of weight 1.
func addService(id lvs.ServiceID, scheduler string, servers ...netip.AddrPort) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		c := lvs.ServiceConfig{Scheduler: scheduler, Netmask: 0xffffffff}
		if id.Family == lvs.IPv6 {
			c.Netmask = 128
		}
		if err := t.AddService(id, c); err != nil {
			return err
		}
		for _, s := range servers {
			if err := t.AddServer(id, realServer(s), lvs.ServerConfig{Forward: lvs.Masq, Weight: 1}); err != nil {
				return err
			}
		}
		return nil
	}
}

// addPersistent is a change that adds a persistent service with a server.
func addPersistent(id lvs.ServiceID, server netip.AddrPort) func(*lvs.Table) error {
	return func(t *lvs.Table) error {
		if err := t.AddService(id, lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff, Persistent: 60, PE: "sip"}); err != nil {
			return err
		}
		return t.AddServer(id, realServer(server), lvs.ServerConfig{Forward: lvs.Masq, Weight: 1})
	}
}

// mustReasons gives the counters of packets that were not forwarded.
func (w *world) mustReasons() (counted [bpfReasonREASONS]uint64) {
	w.t.Helper()
	m, err := ebpf.LoadPinnedMap(w.place.Path+"/"+bpfMapReasons, nil)
	must(w.t, err)
	defer m.Close()
	for r := range counted {
		var n []uint64
		must(w.t, m.Lookup(uint32(r), &n))
		for _, v := range n {
			counted[r] += v
		}
	}
	return counted
}

// The answers of the programs.
const (
	tcPass, tcDrop, tcRedirect    = ^uint32(0), 2, 7
	xdpDrop, xdpPass, xdpRedirect = 1, 2, 4
)

// run hands a frame that came in by an interface to a program.
func (w *world) run(p *ebpf.Program, from netlink.Link, frame []byte) (verdict uint32, out []byte) {
	w.t.Helper()
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: contextOf(p, from, frame, 0)}
	verdict, err := p.Run(o)
	if err != nil {
		w.t.Fatalf("run: %v", err)
	}
	return verdict, o.DataOut
}

// contextOf is the context of a frame (struct __sk_buff or xdp_md of linux/bpf.h); gso, if not 0, is its segments' size.
func contextOf(p *ebpf.Program, from netlink.Link, frame []byte, gso uint32) any {
	ifindex := uint32(from.Attrs().Index)
	if p.Type() == ebpf.XDP {
		return [6]uint32{1: uint32(len(frame)), 3: ifindex}
	}
	skb := [48]uint32{9: ifindex, 10: ifindex} // ingress_ifindex, ifindex
	skb[44] = gso                              // gso_size
	return skb
}
