// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lvs"
)

var (
	books = []string{"10.9.0.1:80", "10.9.0.2:80", "[2001:db8:9::1]:80"} // services
	shelf = map[string][]string{                                         // their servers
		books[0]: {"10.2.0.11:80", "10.2.0.12:80", "10.2.0.13:8080"},
		books[1]: {"10.2.0.11:80", "10.2.0.12:80"},
		books[2]: {"[2001:db8:2::1]:80", "[2001:db8:2::2]:8080"},
	}
)

// TestBooksBalance tells random stories, and looks after each step whether loads and connections agree.
func TestBooksBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := New(Options{Size: rapid.IntRange(1, 12).Draw(t, "size"), Route: route})
		var seen []frame // frames towards servers, to be answered
		t.Repeat(map[string]func(*rapid.T){
			"edit": func(t *rapid.T) { _ = d.Update(drawEdit(t)) }, // many make no sense, and are refused
			"packet": func(t *rapid.T) {
				f := drawFrame(t)
				if r := d.Packet(f.mustPacket(t)); mustMakeSense(t, r) == Forward {
					p, _ := parse(r.Frame)
					seen = append(seen, frame{from: p.destination.String(), to: f.from, udp: f.udp})
				}
			},
			"answer": func(t *rapid.T) {
				if len(seen) == 0 {
					t.Skip("nothing to answer")
				}
				f := rapid.SampledFrom(seen).Draw(t, "answer")
				f.flags = rapid.SampledFrom([]string{"SA", "A", "FA", "R"}).Draw(t, "flags")
				mustMakeSense(t, d.Packet(f.mustPacket(t)))
			},
			"time": func(t *rapid.T) {
				d.Advance(time.Duration(rapid.IntRange(1, 400).Draw(t, "seconds")) * time.Second)
			},
			"": func(t *rapid.T) { balance(t, d) },
		})
	})
}

func mustMakeSense(t rapid.TB, r Result) Verdict {
	t.Helper()
	switch r.Verdict {
	case Forward, Answer:
		mustChecksums(t, r.Frame)
	case Drop:
		if r.Reason == "" {
			t.Fatal("dropped without a reason")
		}
	}
	return r.Verdict
}

func drawEdit(t *rapid.T) func(*lvs.Table) error {
	p := rapid.SampledFrom([]lvs.Protocol{lvs.TCP, lvs.UDP}).Draw(t, "protocol")
	s := rapid.SampledFrom(books).Draw(t, "service")
	r := rapid.SampledFrom(shelf[s]).Draw(t, "server")
	c := nat(rapid.Int32Range(0, 3).Draw(t, "weight"))
	c.Upper = rapid.Uint32Range(0, 4).Draw(t, "upper")
	switch rapid.IntRange(0, 9).Draw(t, "edit") {
	case 0:
		return func(t *lvs.Table) error { return t.DeleteService(serviceID(p, s)) }
	case 1, 2:
		c := lvs.ServiceConfig{Scheduler: rapid.SampledFrom(lvs.Schedulers).Draw(t, "scheduler"), Netmask: 0xffffffff}
		if strings.HasPrefix(s, "[") {
			c.Netmask = 64
		}
		c.Persistent = rapid.SampledFrom([]uint32{0, 0, 30, 300}).Draw(t, "persistent")
		return func(t *lvs.Table) error { return t.AddService(serviceID(p, s), c) }
	case 3, 4:
		return deleteServer(p, s, r)
	case 5, 6:
		return editServer(p, s, r, c)
	}
	return addServer(p, s, r, c)
}

func drawFrame(t *rapid.T) frame {
	f := frame{
		to:    rapid.SampledFrom(books).Draw(t, "service"),
		udp:   rapid.Bool().Draw(t, "udp"),
		flags: rapid.SampledFrom([]string{"S", "S", "A", "PA", "FA", "R", ""}).Draw(t, "flags"),
		ttl:   rapid.SampledFrom([]uint8{64, 64, 64, 2, 1}).Draw(t, "ttl"),
	}
	n := rapid.IntRange(1, 6).Draw(t, "client")
	f.from = fmt.Sprintf("10.1.0.%d:2000", n)
	if strings.HasPrefix(f.to, "[") {
		f.from = fmt.Sprintf("[2001:db8:1::%d]:2000", n)
	}
	return f
}

func balance(t *rapid.T, d *Director) {
	type key struct {
		svc  lvs.ServiceID
		real lvs.ServerID
	}
	want, lost := map[key]lvs.Load{}, map[netip.Addr]uint32{}
	n := 0
	for c := range d.Conns() {
		n++
		if c.Expires <= 0 {
			t.Fatalf("past its time: %+v", c)
		}
		if c.Template && c.Virtual.Port() == lostPort { // it does not tell the port of its server
			lost[c.Server.Addr()]++
			continue
		}
		k := key{serviceID(c.Protocol, c.Virtual.String()), serverID(c.Server.String())}
		load := want[k]
		switch {
		case c.Template:
			load.Persistent++
		case c.State.Active(c.Protocol):
			load.Active++
		default:
			load.Inactive++
		}
		want[k] = load
	}
	if n > d.Size() {
		t.Fatalf("%d connections in a table for %d", n, d.Size())
	}
	table, err := d.Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range table.Services() {
		for _, r := range s.Servers {
			w := want[key{s.ServiceID, r.ServerID}]
			if more := r.Load.Persistent - w.Persistent; more <= lost[r.Addr] {
				w.Persistent += more
			}
			if r.Load != w {
				t.Fatalf("%v %v: load %+v, connections %+v", s.ServiceID, r.ServerID, r.Load, w)
			}
		}
	}
}

// FuzzPacket: no frame whatsoever is more than a packet.
func FuzzPacket(f *testing.F) {
	for _, seed := range []frame{
		{from: client, to: vip, flags: "S", options: true},
		{from: client, to: vip, udp: true, payload: "question"},
		{from: client6, to: vip6, flags: "S", options: true},
		{from: real, to: client, flags: "SA"},
	} {
		f.Add(seed.mustPacket(f).Frame)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := mustDirector(t)
		before := bytes.Clone(b)
		r := d.Packet(Packet{Interface: 1, Frame: b})
		if !bytes.Equal(b, before) {
			t.Error("the frame that came in was written to")
		}
		if r.Verdict == Forward && len(r.Frame) != len(b) {
			t.Errorf("%d bytes became %d", len(b), len(r.Frame))
		}
		if (r.Frame != nil) != (r.Verdict == Forward || r.Verdict == Answer) {
			t.Errorf("%v with a frame of %d bytes", r.Verdict, len(r.Frame))
		}
	})
}
