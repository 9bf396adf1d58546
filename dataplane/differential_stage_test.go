// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"lvs"
	"lvs/needs"
	"lvs/oracle"
	"lvs/place"
)

// stage is where stories are played: a network namespace of the test's own thread with the program loaded, and the
// oracle beside it. Both go by one clock, which stands still unless a story moves it.
type stage struct {
	*Director
	judge   *oracle.Director
	in      *instance
	withXDP bool

	tc, xdp, out *ebpf.Program
	firewall     bool // marks packets after the hook (mustFirewall)
	cpu          int
	marks        uint32       // 1 where packets have the firewall's marks, else 0
	sides        [3]stageSide // by interface as the oracle numbers them, from 1
	clean        bool         // the last story has ended, and left nothing behind

	began, now uint32 // jiffies
	reasons    [bpfReasonREASONS]uint64
	names      map[bpfReason]string
	ways       map[uint32]way // by line
	asked      netip.Addr     // the way that the oracle asked for last
	fast       int            // packets that XDP has sent

	macs map[netip.Addr][6]byte // of those that have one of their own
}

// stageSide is an interface with the network behind it.
type stageSide struct {
	index int
	mac   [6]byte
	far   [6]byte // of everybody there
	tap   tap     // what arrives there

	own4, own6 netip.Addr // the director's
}

const (
	clientSide = 1
	serverSide = 2
	narrow4    = 600 // bytes, the MTU of some ways
	narrow6    = 1280
)

// The networks: where what begins so is. There is no way to all else.
var stageWays = []struct {
	prefix netip.Prefix
	side   int
	mtu    uint32
}{
	{netip.MustParsePrefix("10.1.0.0/16"), clientSide, 1500},
	{netip.MustParsePrefix("2001:db8::/64"), clientSide, 1500},
	{netip.MustParsePrefix("2001:db8:1::/48"), clientSide, 1500},
	{netip.MustParsePrefix("2001:db8:5::/48"), clientSide, 1500},
	{netip.MustParsePrefix("10.2.0.0/16"), serverSide, 1500},
	{netip.MustParsePrefix("2001:db8:2::/48"), serverSide, 1500},
	{netip.MustParsePrefix("10.3.0.0/16"), serverSide, narrow4},
	{netip.MustParsePrefix("2001:db8:3::/48"), serverSide, narrow6},
}

// The director's local addresses: two that all services share in a family, with few ports, so that they run out.
var stageLocals = []lvs.LocalAddr{
	{Addr: netip.MustParseAddr("10.2.0.1"), Ports: lvs.Ports{First: 3000, Last: 3004}},
	{Addr: netip.MustParseAddr("10.2.0.2"), Ports: lvs.Ports{First: 80, Last: 83}},
	{Addr: netip.MustParseAddr("2001:db8:2::1"), Ports: lvs.Ports{First: 3000, Last: 3009}},
}

// mustTurns is where the program is in its round through local ports.
func (s *stage) mustTurns(t rapid.TB) oracle.Turns {
	t.Helper()
	m, err := s.in.m(bpfMapPlans)
	mustDo(t, "plans", err)
	var all []bpfPlan
	mustDo(t, "plans", m.Lookup(uint32(0), &all))
	return oracle.Turns{Turn: all[s.cpu].Turn, CPU: uint32(s.cpu), CPUs: uint32(len(all))}
}

func (s *stage) route(a netip.Addr) (oracle.Hop, bool) {
	for _, w := range stageWays {
		if w.prefix.Contains(a) {
			side := s.sides[w.side]
			hop := oracle.Hop{Interface: w.side, Source: side.mac, Destination: side.far, MTU: w.mtu, From: side.own4}
			if a.Is6() {
				hop.From = side.own6
			}
			if own, ok := s.macs[a]; ok {
				hop.Destination = own
			}
			return hop, true
		}
	}
	return oracle.Hop{}, false
}

// The table is one segment, so that connections meet in it.
var stageSizes = Sizes{Conns: 64, Services: 16, Servers: 512}

const stageConns = segmentLines

func mustDo(t rapid.TB, doing string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", doing, err)
	}
}

func mustStage(t *testing.T, withXDP bool) *stage {
	t.Helper()
	needs.BPF(t)
	needs.NetNS(t)
	s := &stage{withXDP: withXDP, marks: 1}
	if withXDP {
		s.marks = 0 // it comes before the firewall
	}
	runtime.LockOSThread() // never unlocked: the thread and its namespace end with the test
	mustDo(t, "namespace", unix.Unshare(unix.CLONE_NEWNET))
	var all, one unix.CPUSet
	mustDo(t, "CPUs", unix.SchedGetaffinity(0, &all))
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			s.cpu = cpu
		}
	}
	one.Set(s.cpu) // routes are remembered for each CPU
	mustDo(t, "CPU", unix.SchedSetaffinity(0, &one))
	lo, err := netlink.LinkByName("lo")
	mustDo(t, "lo", err)
	mustDo(t, "lo", netlink.LinkSetUp(lo))
	s.mustSide(t, clientSide, "story-clients")
	s.mustSide(t, serverSide, "story-servers")
	s.mustWays(t)
	s.names, err = reasonNames()
	mustDo(t, "reasons", err)
	boot := bootSeconds
	t.Cleanup(func() { bootSeconds, jiffies64 = boot, kernelClock })
	s.mustLoad(t)
	t.Cleanup(func() { s.mustUnload(t) })
	return s
}

func (s *stage) mustSide(t *testing.T, n int, name string) {
	t.Helper()
	mustDo(t, name, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "'"}))
	for _, end := range []string{name + "'", name} {
		l, err := netlink.LinkByName(end)
		mustDo(t, end, err)
		mustDo(t, end, netlink.LinkSetUp(l))
		s.sides[n] = stageSide{
			index: l.Attrs().Index, mac: [6]byte(l.Attrs().HardwareAddr), far: [6]byte{2, 0, 0, 0, 0, byte(n)},
			own4: netip.AddrFrom4([4]byte{10, 254, 0, byte(n)}), own6: netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, 254, 15: byte(n)}),
		}
	}
	s.sides[n].tap = mustTap(t, name+"'")
	l, err := netlink.LinkByName(name)
	mustDo(t, name, err)
	mustAddress(t, l, s.sides[n].own4.String()+"/32")
	mustAddress(t, l, s.sides[n].own6.String()+"/128")
}

// mustWays makes the routes, and says who is there: everybody has the one address.
func (s *stage) mustWays(t *testing.T) {
	t.Helper()
	for _, w := range stageWays {
		ip := &net.IPNet{IP: w.prefix.Addr().AsSlice(), Mask: net.CIDRMask(w.prefix.Bits(), w.prefix.Addr().BitLen())}
		r := &netlink.Route{LinkIndex: s.sides[w.side].index, Dst: ip, Scope: netlink.SCOPE_LINK}
		if w.mtu != 1500 {
			r.MTU, r.MTULock = int(w.mtu), true
		}
		mustDo(t, w.prefix.String(), netlink.RouteAdd(r))
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		_, ip, _ := net.ParseCIDR(all)
		mustDo(t, "no way", netlink.RouteAdd(&netlink.Route{Dst: ip, Type: unix.RTN_UNREACHABLE}))
	}
	for _, a := range castOf(everybody) {
		hop, ok := s.route(a)
		if !ok {
			continue
		}
		side := s.sides[hop.Interface]
		mustDo(t, a.String(), netlink.NeighSet(&netlink.Neigh{
			LinkIndex: side.index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: side.far[:],
		}))
	}
}

// mustLoad loads an instance that goes by the stage's clock.
func (s *stage) mustLoad(t rapid.TB) {
	t.Helper()
	c, err := spec(stageSizes)
	mustDo(t, "spec", err)
	mustDo(t, "clock", c.Variables[bpfVarTestClock].Set(true))
	p, err := place.Find("")
	mustDo(t, "place", err)
	mustDo(t, "load", p.Create(func(dir string) error { return build(dir, c) }))
	s.Director = &Director{place: p, sizes: stageSizes}
	mustDo(t, "attach", s.Attach([]string{"story-clients", "story-servers"}, XDPNative))
	s.mustLook(t)
	s.tc, err = s.in.program("tc")
	mustDo(t, "tc", err)
	s.xdp, err = s.in.program("xdp")
	mustDo(t, "xdp", err)
	s.out, err = s.in.program("out")
	mustDo(t, "out", err)
	// the clients' side sends what goes back there by XDP_TX
	mustDo(t, "XDP_TX", s.in.putDevice(s.sides[clientSide].index, bpfDevice{Tc: bpfAttachmentATTACH_TCX, Xdp: bpfAttachmentATTACH_XDP_NATIVE, XdpTx: 1}))
	s.clean = true
}

// mustLook opens the maps, without a lock.
func (s *stage) mustLook(t rapid.TB) {
	t.Helper()
	s.in = &instance{dir: s.place.Path, pinned: map[string]*ebpf.Map{}}
	mustDo(t, "open", s.in.open())
}

// routeLine is where the program remembers the way to an address.
func (s *stage) routeLine(a netip.Addr) uint32 {
	words := toAddr(a)
	return uint32(s.cpu*routesPerCPU) + uint32((words[0]^words[1])*0x9e3779b97f4a7c15>>54)
}

// spread tells connections apart as the program does it.
func spread(client, virtual netip.AddrPort) uint64 {
	words := toAddr(client.Addr())
	return (words[0] ^ words[1] ^ (uint64(toPort(client.Port()))<<16 | uint64(toPort(virtual.Port())))) * 0x9e3779b97f4a7c15
}

func (s *stage) mustUnload(t rapid.TB) {
	t.Helper()
	s.tc.Close()
	s.xdp.Close()
	s.out.Close()
	s.in.close()
	mustDo(t, "unload", s.Unload())
}

// mustSet changes the settings in the way that a test needs: a clock, no limit of ICMP messages, a sweep without pause.
func (s *stage) mustSet(t rapid.TB) {
	t.Helper()
	settings, err := s.in.settings()
	mustDo(t, "settings", err)
	settings.Now, settings.IcmpBurst, settings.IcmpEvery, settings.SweepEvery = s.now, 1<<30, 1, 100_000
	settings.Wraps = s.wraps()
	mustDo(t, "settings", s.in.putSettings(settings))
}

// wraps is how often the clock has gone through all of its 32 bits.
func (s *stage) wraps() uint32 {
	if s.now < s.began {
		return 1
	}
	return 0
}

// mustAdvance moves the clock, and waits until what is past its time is out of the table. It stops where a template's time is
// over, for whether it goes on depends on the connections that are there.
func (s *stage) mustAdvance(t rapid.TB, jiffies uint32) {
	t.Helper()
	for jiffies > 0 {
		step := jiffies
		for c := range s.judge.Conns() {
			if c.Template {
				step = min(step, s.jiffies(c.Expires))
			}
		}
		jiffies -= step
		s.now += step
		s.mustSet(t)
		s.mustSweep(t)
		s.judge.Advance(time.Duration(step) * time.Second / time.Duration(s.in.hz))
	}
}

func (s *stage) jiffies(d time.Duration) uint32 {
	return uint32(d * time.Duration(s.in.hz) / time.Second)
}

// mustSweep waits for a sweep that began after the call. The first new round may be one that was under way, and the end of
// a round shows by the beginning of the next.
func (s *stage) mustSweep(t rapid.TB) {
	t.Helper()
	var status Status
	mustDo(t, "sweeper", s.in.readSweeper(&status))
	first := status.Sweeps
	for deadline := time.Now().Add(10 * time.Second); status.Sweeps-first < 3; {
		if time.Now().After(deadline) {
			t.Fatal("the sweep stands still")
		}
		mustDo(t, "sweeper", s.in.readSweeper(&status))
	}
}

// mustBegin sets the stage for a story that begins at some time.
func (s *stage) mustBegin(t rapid.TB, at uint32) {
	t.Helper()
	if !s.clean {
		s.mustUnload(t)
		s.mustLoad(t)
	}
	s.in.close()
	s.mustLook(t)
	s.clean = false
	s.began, s.now = at, at
	bootSeconds = func() uint32 { return 1000 + (s.now-s.began)/s.in.hz }
	jiffies64 = func(uint32) uint64 { return uint64(s.wraps())<<32 | uint64(s.now) }
	ask := func(a netip.Addr) (oracle.Hop, bool) { s.asked = a; return s.route(a) }
	s.judge = oracle.New(oracle.Options{
		Size: stageConns, Route: ask, Spread: spread, Early: s.withXDP, Turns: func() oracle.Turns { return s.mustTurns(t) },
		Towards: ownTowards, Here: isHere,
	})
	mustDo(t, "settings", s.Set(func(all *lvs.Settings) error {
		*all = lvs.DefaultSettings
		all.DropEntry = 0 // a full table is to be full
		return nil
	}))
	s.mustSet(t)
	routes, err := s.in.m(bpfMapRoutes)
	mustDo(t, "routes", err)
	s.ways = map[uint32]way{}
	for _, a := range castOf(everybody) {
		mustDo(t, "routes", routes.Put(s.routeLine(a), bpfRoute{}))
	}
	leads, err := s.in.m(bpfMapLeads) // of an earlier story, which began at the same time
	mustDo(t, "leads", err)
	var key bpfFragmentKey
	for leads.NextKey(nil, &key) == nil {
		mustDo(t, "leads", leads.Delete(key))
	}
	m, err := s.in.m(bpfMapIcmpBudgets)
	mustDo(t, "ICMP budget", err)
	cpus, err := ebpf.PossibleCPU()
	mustDo(t, "ICMP budget", err)
	budgets := make([]bpfIcmpBudget, cpus)
	for i := range budgets {
		budgets[i] = bpfIcmpBudget{Left: 1 << 30, Since: at}
	}
	mustDo(t, "ICMP budget", m.Put(uint32(0), budgets))
	s.reasons = s.mustReasons(t)
}

// ownTowards is the director's own address towards a server, if there is one.
func ownTowards(server netip.Addr) netip.Addr {
	if a := sourceTowards(server); a != [2]uint64{} {
		return fromAddr(a)
	}
	return netip.Addr{}
}

// isHere says whether an address is the director's own, or has no way.
func isHere(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	return err != nil || len(routes) == 0 || routes[0].Type == unix.RTN_LOCAL
}

// mustEnd clears everything away in the way of an operator and of time, and looks whether anything stays.
func (s *stage) mustEnd(t rapid.TB) {
	t.Helper()
	last := lvs.ServiceID{Family: lvs.IPv4, Protocol: lvs.TCP, Addr: netip.MustParseAddr("10.9.9.9"), Port: 1}
	mustDo(t, "clear", s.Update(func(t *lvs.Table) error {
		t.Clear()
		t.SetTimeouts(lvs.DefaultTimeouts)
		return t.AddService(last, lvs.ServiceConfig{Scheduler: "rr"})
	}))
	for range 2 { // entries end, and then their lines are free
		s.mustAdvance(t, 10_000*s.in.hz)
	}
	mustDo(t, "clear", s.Update(func(t *lvs.Table) error { t.Clear(); return nil }))
	mustDo(t, "reclaim", s.in.reclaim()) // as the next change would
	s.checkNothingLeft(t)
	s.clean = true
}
