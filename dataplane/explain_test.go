// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"lvs"
	"lvs/sched"
)

// mustDump gives all that packets and commands can change, but for what a program works in for itself and the sweep's place.
// Of lists it gives those of some services, or, if none is named, all, and the routes that are remembered.
func (w *world) mustDump(slots ...uint32) map[string]string {
	w.t.Helper()
	in := w.mustLook()
	table, err := in.entries()
	must(w.t, err)
	all := map[string]string{
		bpfMapConns: raw(table.lines), bpfMapLinks: raw(table.links), bpfMapServices: raw(in.services), bpfMapServers: raw(in.servers),
		bpfMapLoads: raw(in.loads), bpfMapCounters: raw(in.counters), bpfMapReasons: fmt.Sprint(w.mustReasons()),
	}
	dump := func(name string, m *ebpf.Map) {
		var key, value []byte
		var text []string
		for i := m.Iterate(); i.Next(&key, &value); {
			text = append(text, string(key)+"="+string(value))
		}
		slices.Sort(text)
		all[name] = strings.Join(text, " ")
	}
	names := []string{bpfMapGuards, bpfMapServiceSlots, bpfMapPlaces, bpfMapOurs, bpfMapDevices, settingsPin}
	if len(slots) == 0 {
		names = append(names, bpfMapRoutes)
		for slot := range in.live() {
			slots = append(slots, slot)
		}
	}
	for _, name := range names {
		m, err := in.m(name)
		must(w.t, err)
		dump(name, m)
	}
	for _, name := range []string{bpfMapLists, bpfMapContests} {
		m, err := in.m(name)
		must(w.t, err)
		for _, slot := range slots {
			var inner *ebpf.Map
			if err := m.Lookup(slot, &inner); errors.Is(err, ebpf.ErrKeyNotExist) && name == bpfMapContests {
				continue
			} else {
				must(w.t, err)
			}
			dump(fmt.Sprintf("%s of %d", name, slot), inner)
			inner.Close()
		}
	}
	return all
}

func raw[T any](s []T) string {
	return string(unsafe.Slice((*byte)(unsafe.Pointer(&s[0])), len(s)*int(unsafe.Sizeof(s[0]))))
}

func (w *world) checkSame(what string, before map[string]string, slots ...uint32) {
	w.t.Helper()
	after := w.mustDump(slots...)
	for name := range maps.Keys(before) {
		if before[name] != after[name] {
			w.t.Errorf("%s: map %s has changed", what, name)
		}
	}
}

// TestDryRunsForetell: under each scheduler, in the midst of a random story, a dry run changes nothing, and tells which server the
// next packet gets, and what that packet looks like then.
func TestDryRunsForetell(t *testing.T) {
	w := mustWorld(t, Sizes{Conns: 256, Services: 64, Servers: 256})
	w.mustEverywhere()
	w.settings.SweepSlice = 0 // nothing changes by itself
	w.setClock(w.settings.Now)
	sweepers, err := w.mustLook().m(bpfMapSweepers)
	must(t, err)
	must(t, sweepers.Put(uint32(0), bpfSweeper{PlacesSwept: 1 << 62}))
	dry, err := w.mustLook().rehearse()
	must(t, err)
	defer dry.Close()
	for n, scheduler := range lvs.Schedulers {
		r := rand.New(rand.NewPCG(9, uint64(n)))
		c := lvs.ServiceConfig{Scheduler: scheduler, SchedulerFlags: lvs.SchedulerFlags(n % 4), Netmask: 0xffffffff}
		virtual := netip.AddrPortFrom(tcp4.virtual.Addr(), uint16(100+n))
		if n%3 == 1 {
			c.Persistent = 60
		}
		j := w.mustJudge(c, virtual)
		foretold := 0
		for range 60 {
			w.tellOne(dry, j, r, &foretold)
		}
		if foretold < 10 {
			t.Errorf("%s: only %d packets were foretold", scheduler, foretold)
		}
		w.mustExpire()
	}
}

// tellOne tells a step of the story.
func (w *world) tellOne(dry *rehearsal, j *judged, r *rand.Rand, foretold *int) {
	w.t.Helper()
	id := serverOf(lvs.IPv4, 1+r.IntN(6))
	c := lvs.ServerConfig{Forward: lvs.Masq, Weight: r.Int32N(4), Upper: r.Uint32N(2) * 4}
	known := slices.ContainsFunc(j.servers(), func(s sched.Server) bool { return s.ID == id })
	switch edit := r.IntN(10); {
	case edit < 2 && known && len(j.servers()) > 2:
		w.mustUpdate(func(t *lvs.Table) error { return t.DeleteServer(j.id(), id) })
	case edit < 3 && known:
		w.mustUpdate(func(t *lvs.Table) error { return t.EditServer(j.id(), id, c) })
	case edit < 4 && !known:
		w.mustUpdate(func(t *lvs.Table) error { return t.AddServer(j.id(), id, c) })
	case edit < 5:
		w.setClock(w.settings.Now + uint32(r.IntN(200))*w.mustLook().hz)
	}
	j.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, 0, 0, byte(r.IntN(8))}), uint16(1000+r.IntN(40)))
	frame := j.path.in([]string{"S", "S", "S", "A", "R"}[r.IntN(5)]).frame(w.t)
	before := w.mustDump(j.slot)
	told, err := dry.run(frame, false, uint32(w.clients.Attrs().Index), 0)
	must(w.t, err)
	w.checkSame(j.scheduler, before, j.slot)

	reasons := w.mustReasons()
	verdict, out := w.run(w.tc, w.clients, frame)
	for why, n := range w.mustReasons() {
		if counted := n > reasons[why]; counted != (told.reason == bpfReason(why) && why != 0) {
			w.t.Fatalf("%s: reason %d was not foretold, but %d; verdict %d, %+v", j.scheduler, why, told.reason, int32(verdict), told)
		}
	}
	if told.fate() == Reset && verdict == tcRedirect {
		return // by whom else, a dry run does not say
	}
	if verdict != told.verdict {
		w.t.Fatalf("%s: verdict %d was not foretold, but %d (%+v)", j.scheduler, int32(verdict), int32(told.verdict), told.plan.Decision)
	}
	if new := told.plan.Decision.At == noLine; j.scheduler == "twos" && new && told.plan.Template == noLine {
		return
	}
	if !bytes.Equal(out[14:], told.out[14:]) {
		w.t.Fatalf("%s: what leaves was not foretold:\n%x\n%x\n%+v", j.scheduler, out, told.out, told.plan.Decision)
	}
	if verdict == tcRedirect {
		*foretold++
	}
}

// TestExplain asks about one packet of each kind.
func TestExplain(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	must(t, os.WriteFile(families[0].forwarding, []byte("1"), 0))
	tunnel, route := tcp4.service("203.0.113.10:91", "10.0.0.11:91"), tcp6.service("[2001:db8:f::10]:92", "[fd00::11]:92")
	sticky := tcp4.service("203.0.113.10:93", "10.0.0.11:8093")
	stranger := sticky
	stranger.client = netip.MustParseAddrPort("198.51.100.8:1")
	w.mustUpdate(
		func(t *lvs.Table) error {
			return errors.Join(addService(tunnel.id(), "wlc")(t), t.AddServer(tunnel.id(), realServer(tunnel.server),
				lvs.ServerConfig{Forward: lvs.Tunnel, Weight: 2, Tunnel: lvs.TunnelConfig{Type: lvs.GUE, Port: 6080}}))
		},
		func(t *lvs.Table) error {
			return errors.Join(addService(route.id(), "sed")(t), t.AddServer(route.id(), realServer(route.server), lvs.ServerConfig{Forward: lvs.Route, Weight: 1}))
		},
		func(t *lvs.Table) error {
			return errors.Join(t.AddService(sticky.id(), lvs.ServiceConfig{Scheduler: "rr", Persistent: 300, Netmask: 0xffffffff}),
				t.AddServer(sticky.id(), realServer(sticky.server), lvs.ServerConfig{Forward: lvs.Masq, Weight: 1}))
		})
	w.run(w.tc, w.clients, tcp4.from(7000).in("S").frame(t))
	w.run(w.tc, w.clients, sticky.from(7000).in("S").frame(t))
	w.run(w.tc, w.clients, removed.from(7001).in("S").frame(t))
	w.mustUpdate(func(t *lvs.Table) error { return t.DeleteServer(removed.id(), realServer(removed.server)) })
	mac := fmt.Sprintf("ethernet %v > ", routerMAC)
	for _, c := range []struct {
		what  string
		p     path
		port  uint16
		back  bool
		flags string
		fate  string
		by    string
		why   string
		after string
	}{
		{"a new connection, NAT", tcp4, 6000, false, "S", Forwarded, ByScheduler, "", mac + "02:00:00:00:00:02; ipv4 198.51.100.7 > 10.0.0.11, ttl 63, 40 bytes; tcp 6000 > 8080, SYN"},
		{"the same for UDP", udp6, 6000, false, "", Forwarded, ByScheduler, "", mac + "02:00:00:00:00:02; ipv6 2001:db8:c::7 > fd00::11, hop limit 63, 48 bytes; udp 6000 > 5353"},
		{"by a tunnel", tunnel, 6000, false, "S", Forwarded, ByScheduler, "",
			mac + "02:00:00:00:00:02; ipv4 10.0.0.1 > 10.0.0.11, ttl 63, 72 bytes; udp 65280 > 6080, gue; ipv4 198.51.100.7 > 203.0.113.10, ttl 63, 40 bytes; tcp 6000 > 91, SYN"},
		{"by direct routing", route, 6000, false, "S", Forwarded, ByScheduler, "", mac + "02:00:00:00:00:02; ipv6 2001:db8:c::7 > 2001:db8:f::10, hop limit 63, 60 bytes; tcp 6000 > 92, SYN"},
		{"a known connection", tcp4, 7000, false, "A", Forwarded, ByConn, "", mac + "02:00:00:00:00:02; ipv4 198.51.100.7 > 10.0.0.11, ttl 63, 40 bytes; tcp 7000 > 8080, ACK"},
		{"its answer", tcp4, 7000, true, "SA", Forwarded, ByConn, "", mac + "02:00:00:00:00:01; ipv4 203.0.113.10 > 198.51.100.7, ttl 63, 40 bytes; tcp 80 > 7000, SYN ACK"},
		{"a client that has a template", sticky, 7002, false, "S", Forwarded, ByTemplate, "", mac + "02:00:00:00:00:02; ipv4 198.51.100.7 > 10.0.0.11, ttl 63, 40 bytes; tcp 7002 > 8093, SYN"},
		{"one that has none", stranger, 7002, false, "S", Forwarded, ByScheduler, "", ""},
		{"the server is the director", local, 6000, false, "S", Delivered, ByScheduler, "", ""},
		{"no server takes it", serverless4, 6000, false, "S", Answered, "", "no_server", mac + "02:00:00:00:00:01; ipv4 203.0.113.10 > 198.51.100.7, ttl 64, 68 bytes; icmp type 3 code 3, about; ipv4 198.51.100.7 > 203.0.113.10, ttl 64, 40 bytes; tcp 6000 > 81, SYN"},
		{"no way to the server", unreachable, 6000, false, "S", Answered, ByScheduler, "no_route", ""},
		{"the server was removed", removed, 7001, false, "A", Reset, ByConn, "reset", ""},
		{"no connection and no SYN", tcp4, 6000, false, "A", Left, "", "no_conn", ""},
		{"no such port", noService, 6000, false, "S", Left, "", "", ""},
		{"no such address", noAddress, 6000, false, "S", Left, "", "", ""},
	} {
		q := Question{Protocol: c.p.protocol, From: netip.AddrPortFrom(c.p.client.Addr(), c.port), To: c.p.virtual, Flags: c.flags}
		if c.back {
			q.From, q.To = c.p.server, q.From
		}
		before := w.mustDump()
		x, err := w.Explain(q)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		w.checkSame(c.what, before)
		after := strings.Join(x.After, "; ")
		if x.Fate != c.fate || x.By != c.by || x.Reason != c.why || (c.after != "" && after != c.after) || (c.why != "") != (x.Meaning != "") {
			t.Errorf("%s: %+v\n%s", c.what, *x, after)
		}
		if (c.fate == Forwarded) != (x.Hop != nil) || x.Hop != nil && x.Hop.MAC == "" && c.after != "" {
			t.Errorf("%s: next hop %+v", c.what, x.Hop)
		}
		if chosen := slices.IndexFunc(x.Servers, func(s Candidate) bool { return s.Chosen }); (c.by != "" && c.by != ByConn) != (chosen >= 0) && c.by != ByConn {
			t.Errorf("%s: servers %+v", c.what, x.Servers)
		}
	}
}

// TestExplainMarks: while there are services by mark, the firewall decides first.
func TestExplainMarks(t *testing.T) {
	w := mustWorld(t, small)
	must(t, os.WriteFile(families[0].forwarding, []byte("1"), 0))
	w.mustUpdate(addService(tcp4.id(), "rr", netip.AddrPortFrom(server4, 80)))
	w.mustUpdate(addService(lvs.ServiceID{Family: lvs.IPv4, Mark: 5}, "rr", netip.AddrPortFrom(other4, 0)))
	for _, c := range []struct {
		what    string
		to      netip.AddrPort
		mark    uint32
		service string
		server  string
	}{
		{"a mark is for its service", tcp4.virtual, 5, "FWM 5", "10.0.0.12"},
		{"whatever the address is", noAddress.virtual, 5, "FWM 5", "10.0.0.12"},
		{"without a mark it is for the address", tcp4.virtual, 0, "TCP 203.0.113.10:80", "10.0.0.11"},
		{"and with another one", tcp4.virtual, 6, "TCP 203.0.113.10:80", "10.0.0.11"},
		{"another mark, another address", noAddress.virtual, 6, "", ""},
	} {
		before := w.mustDump()
		x, err := w.Explain(Question{Protocol: lvs.TCP, From: tcp4.from(6000).client, To: c.to, Mark: c.mark, Flags: "S"})
		must(t, err)
		w.checkSame(c.what, before)
		want := Forwarded
		if c.service == "" {
			want = Left
		}
		if x.Fate != want || x.Service != c.service || c.server != "" && !strings.Contains(strings.Join(x.After, " "), " > "+c.server+",") {
			t.Errorf("%s: %+v", c.what, *x)
		}
	}
}

// TestExplainRefuses: what cannot be told is said.
func TestExplainRefuses(t *testing.T) {
	w := mustWorld(t, small)
	w.mustUpdate(addService(tcp4.id(), "rr", tcp4.server))
	question := Question{Protocol: lvs.TCP, From: tcp4.from(6000).client, To: tcp4.virtual, Flags: "S"}
	for want, q := range map[string]Question{
		"are of two families": {Protocol: lvs.TCP, From: question.From, To: tcp6.virtual},
		"knows TCP and UDP":   {Protocol: lvs.Protocol(47), From: question.From, To: question.To},
	} {
		if _, err := w.Explain(q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	must(t, w.Detach([]string{"clients"}))
	x, err := w.Explain(question)
	must(t, err)
	if len(x.Notes) != 1 || !strings.Contains(x.Notes[0], "not attached to clients, so") || x.Fate != Forwarded {
		t.Errorf("not attached: %+v", *x)
	}
	// as if something else ran
	out, err := w.look.program("out")
	must(t, err)
	defer out.Close()
	must(t, os.Remove(w.place.Path+"/"+restPin))
	must(t, out.Pin(w.place.Path+"/"+restPin))
	if _, err := w.Explain(question); !errors.Is(err, ErrDamaged) {
		t.Errorf("another program: %v", err)
	}
	must(t, w.Unload())
	if _, err := w.Explain(question); err == nil || !strings.Contains(err.Error(), "nothing is loaded") {
		t.Errorf("nothing loaded: %v", err)
	}
}

// TestDryRunsForetellLocals: with FULLNAT, a dry run tells the local address and port that the next connection gets on this CPU, or
// that there is none.
func TestDryRunsForetellLocals(t *testing.T) {
	w := mustWorld(t, small)
	p := fullPaths[0]
	w.mustUpdate(addFull(p, lvs.Ports{First: 5000, Last: 5003}))
	dry, err := w.mustLook().rehearse()
	must(t, err)
	defer dry.Close()
	at := uint32(w.clients.Attrs().Index)
	for n := range 6 {
		frame := p.from(uint16(7000 + n)).in("S").frame(t)
		before := w.mustDump()
		told, err := dry.run(frame, false, at, 0)
		must(t, err)
		w.checkSame("FULLNAT", before)
		verdict, out := w.run(w.tc, w.clients, frame)
		if verdict != told.verdict || !bytes.Equal(out[14:], told.out[14:]) {
			t.Fatalf("connection %d was not foretold:\n%x\n%x\n%+v", n, out, told.out, told.plan.Decision)
		}
		full := n >= 4
		if (told.reason == bpfReasonREASON_NO_LOCAL_PORT) != full || (told.fate() == Forwarded) == full {
			t.Errorf("connection %d: %s, reason %d", n, told.fate(), told.reason)
		}
	}
	x, err := w.Explain(Question{Protocol: lvs.TCP, From: p.from(8000).client, To: p.virtual, Flags: "S"})
	must(t, err)
	if x.Fate != Answered || x.Reason != "no_local_port" || !slices.Contains(x.Notes, "local address 10.0.0.1, ports 5000 to 5003") {
		t.Errorf("%+v", *x)
	}
	x, err = w.Explain(Question{Protocol: lvs.TCP, From: p.from(7000).client, To: p.virtual, Flags: "A"})
	must(t, err)
	if x.Fate != Forwarded || x.By != ByConn || !strings.Contains(strings.Join(x.After, " "), "ipv4 10.0.0.1 > 10.0.0.11") {
		t.Errorf("%+v", *x)
	}
}
