// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"lvs"
	"lvs/oracle"
)

const twoWeights = `-A -t 10.0.0.1:80 -s rr
-a -t 10.0.0.1:80 -r 192.168.0.1:80 -m -w 3
-a -t 10.0.0.1:80 -r 192.168.0.2:80 -m -w 0
-A -t 10.0.0.2:80 -s rr
-a -t 10.0.0.2:80 -r 192.168.0.1:80 -m -w 7
-a -t 10.0.0.2:80 -r 192.168.0.1:81 -m -w 2
`

// stand is a director whose connections have no time-outs but those that a test lets pass.
type stand struct {
	*testing.T
	*oracle.Director
}

func mustStand(t *testing.T, table string) stand {
	d := oracle.New(oracle.Options{Size: 1000, Route: func(netip.Addr) (oracle.Hop, bool) { return oracle.Hop{Interface: 1}, true }})
	want := mustRead(t, table)
	if err := d.Update(func(t *lvs.Table) error { return t.Follow(want, true) }); err != nil {
		t.Fatal(err)
	}
	return stand{t, d}
}

// mustSend sends a segment of a client.
func (s stand) mustSend(from, to string, set func(*layers.TCP)) {
	s.Helper()
	client, virtual := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: client.Addr().AsSlice(), DstIP: virtual.Addr().AsSlice()}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(client.Port()), DstPort: layers.TCPPort(virtual.Port()), Window: 1000}
	set(tcp)
	tcp.SetNetworkLayerForChecksum(ip)
	b := gopacket.NewSerializeBuffer()
	ether := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: layers.EthernetTypeIPv4}
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ether, ip, tcp); err != nil {
		s.Fatal(err)
	}
	if r := s.Packet(oracle.Packet{Interface: 1, Frame: b.Bytes()}); r.Verdict != oracle.Forward {
		s.Fatalf("%s to %s: %v %v", from, to, r.Verdict, r.Reason)
	}
}

func (s stand) mustConnect(from, to string) {
	s.Helper()
	s.mustSend(from, to, func(t *layers.TCP) { t.SYN = true })
	s.mustSend(from, to, func(t *layers.TCP) { t.ACK = true })
}

func (s stand) mustReset(from, to string) {
	s.Helper()
	s.mustSend(from, to, func(t *layers.TCP) { t.RST = true })
}

// weights are those of a server, by service in the table's order, each with its last one.
func (s stand) weights(server string) (all [][2]int32) {
	t, err := s.Table()
	if err != nil {
		s.Fatal(err)
	}
	for _, v := range t.Services() {
		if d := v.Server(serverAt(server)); d != nil {
			all = append(all, [2]int32{d.Weight, d.LastWeight})
		}
	}
	return all
}

func serverAt(text string) lvs.ServerID {
	at := netip.MustParseAddrPort(text)
	return lvs.ServerID{Addr: at.Addr(), Port: at.Port()}
}

func mustDrainee(t testing.TB, server, service string) (v drainee) {
	t.Helper()
	err := v.Server.UnmarshalText([]byte(server))
	if service != "" {
		err = errors.Join(err, v.Service.UnmarshalText([]byte(service)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// drain is a drain that goes on by itself.
type drain struct {
	stop context.CancelFunc
	said strings.Builder
	done chan struct{}
	r    drained
	err  error
}

func (s stand) drain(v drainVerb) *drain {
	ctx, stop := context.WithCancel(context.Background())
	d := &drain{stop: stop, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		d.r, d.err = v.drain(ctx, s.Director, &progress{out: &d.said})
	}()
	synctest.Wait()
	return d
}

// pass has both clocks move on, second by second: the director's, and that of the test's bubble, which takes no time.
func (s stand) pass(by time.Duration) {
	for by > 0 {
		step := min(by, time.Second)
		s.Advance(step)
		time.Sleep(step)
		synctest.Wait()
		by -= step
	}
}

func (d *drain) ended() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}

func TestDrainEndsWhenEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustStand(t, twoWeights)
		s.mustConnect("172.16.0.1:1000", "10.0.0.1:80")
		s.mustConnect("172.16.0.1:1000", "10.0.0.2:80")
		s.mustConnect("172.16.0.1:1001", "10.0.0.2:80")
		d := s.drain(drainVerb{drainee: mustDrainee(t, "192.168.0.1", ""), Deadline: time.Hour})
		if got := s.weights("192.168.0.1:80"); !slices.Equal(got, [][2]int32{{0, 3}, {0, 7}}) {
			t.Errorf("while it drains, weights are %v", got)
		}
		if d.ended() {
			t.Fatalf("it ends with connections: %+v, %v", d.r, d.err)
		}
		s.pass(61 * time.Second)
		if lines := strings.Split(d.said.String(), "\n"); len(lines) != 8 || lines[0] != "192.168.0.1: 3 left (3 active, 0 inactive, 0 persistent), 1h0m0s to the deadline" ||
			lines[6] != "192.168.0.1: 3 left (3 active, 0 inactive, 0 persistent), the longest idle for 1m0s, 59m0s to the deadline" {
			t.Errorf("it says %q", lines)
		}
		s.mustReset("172.16.0.1:1000", "10.0.0.1:80")
		s.mustReset("172.16.0.1:1000", "10.0.0.2:80")
		s.pass(10 * time.Second)
		if d.ended() {
			t.Fatalf("it ends with a connection: %+v, %v", d.r, d.err)
		}
		s.mustReset("172.16.0.1:1001", "10.0.0.2:80")
		s.pass(11 * time.Second)
		if !d.ended() || d.err != nil || d.r.End != endEmpty || d.r.Removed || len(d.r.Servers) != 3 || d.r.Servers[0].LastWeight != 3 || d.r.status() != nil {
			t.Errorf("it ends %v as %+v, %v", d.ended(), d.r, d.err)
		}
	})
}

func TestDrainEndsAtItsDeadline(t *testing.T) {
	for _, then := range []string{"none", "remove", "reset"} {
		synctest.Test(t, func(t *testing.T) {
			s := mustStand(t, twoWeights)
			s.mustConnect("172.16.0.1:1000", "10.0.0.1:80")
			d := s.drain(drainVerb{drainee: mustDrainee(t, "192.168.0.1:80", "10.0.0.1"), Deadline: 1500 * time.Millisecond, Then: then})
			s.pass(time.Second)
			if d.ended() {
				t.Fatalf("it ends early: %+v, %v", d.r, d.err)
			}
			s.pass(time.Second / 2)
			if !d.ended() || d.err != nil || d.r.End != endDeadline || d.r.status() != exitDeadline || sum(d.r.Servers).active != 1 || d.r.Removed != (then == "remove") {
				t.Errorf("then %s: it ends %v as %+v, %v", then, d.ended(), d.r, d.err)
			}
			want := [][2]int32{{0, 3}, {7, 7}}
			if then == "remove" {
				want = want[1:]
			}
			if got := s.weights("192.168.0.1:80"); !slices.Equal(got, want) {
				t.Errorf("then %s: weights are %v", then, got)
			}
		})
	}
}

func TestDrainGoesOnAfterAnInterruption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustStand(t, twoWeights)
		s.mustConnect("172.16.0.1:1000", "10.0.0.2:80")
		s.mustConnect("172.16.0.1:1001", "10.0.0.2:80")
		v := drainVerb{drainee: mustDrainee(t, "192.168.0.1:80", ""), Deadline: time.Hour, Then: "remove"}
		d := s.drain(v)
		d.stop()
		synctest.Wait()
		if !d.ended() || d.err != nil || d.r.End != endInterrupted || d.r.Removed || d.r.status() != exit(1) {
			t.Fatalf("it ends %v as %+v, %v", d.ended(), d.r, d.err)
		}
		if again := "`director drain 192.168.0.1:80` waits again"; !strings.Contains(d.r.text(v.again()), again) {
			t.Errorf("it says %s", d.r.text(v.again()))
		}
		d = s.drain(v)
		if got := s.weights("192.168.0.1:80"); d.ended() || !slices.Equal(got, [][2]int32{{0, 3}, {0, 7}}) {
			t.Errorf("again, it has ended %v, with weights %v", d.ended(), got)
		}
		s.mustReset("172.16.0.1:1000", "10.0.0.2:80")
		s.mustReset("172.16.0.1:1001", "10.0.0.2:80")
		s.pass(11 * time.Second)
		if !d.ended() || d.r.End != endEmpty || !d.r.Removed || len(s.weights("192.168.0.1:80")) != 0 {
			t.Errorf("again, it ends %v as %+v, %v", d.ended(), d.r, d.err)
		}
	})
}

func TestDrainTellsThatSomebodyElseEndsIt(t *testing.T) {
	for how, change := range map[string]func(*lvs.Table, member) error{
		"the weight 5": func(t *lvs.Table, m member) error { return m.weigh(t, 5) },
		"removed":      func(t *lvs.Table, m member) error { return t.DeleteServer(m.service, m.server) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := mustStand(t, twoWeights)
			s.mustConnect("172.16.0.1:1000", "10.0.0.1:80")
			v := drainVerb{drainee: mustDrainee(t, "192.168.0.1", "10.0.0.1:80"), Deadline: time.Hour, Then: "remove"}
			d := s.drain(v)
			err := s.Update(func(t *lvs.Table) error {
				all, err := v.members(t)
				return errors.Join(err, change(t, all[0]))
			})
			if err != nil {
				t.Fatal(err)
			}
			s.pass(time.Second)
			if !d.ended() || d.err == nil || !strings.Contains(d.err.Error(), how) {
				t.Errorf("%s: it ends %v, %v", how, d.ended(), d.err)
			}
		})
	}
}

func TestPersistentClientsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustStand(t, "-A -t 10.0.0.1:80 -s rr -p 300\n-a -t 10.0.0.1:80 -r 192.168.0.1:80 -m -w 1\n")
		s.mustConnect("172.16.0.1:1000", "10.0.0.1:80")
		s.mustReset("172.16.0.1:1000", "10.0.0.1:80")
		d := s.drain(drainVerb{drainee: mustDrainee(t, "192.168.0.1", ""), Deadline: time.Hour})
		s.pass(200 * time.Second)
		if d.ended() {
			t.Fatalf("it ends with a persistent client: %+v, %v", d.r, d.err)
		}
		if line := "1 left (0 active, 0 inactive, 1 persistent), "; !strings.Contains(d.said.String(), line) {
			t.Errorf("it says %s", d.said.String())
		}
		s.pass(200 * time.Second)
		if !d.ended() || d.r.End != endEmpty {
			t.Errorf("it ends %v as %+v, %v", d.ended(), d.r, d.err)
		}
	})
}

func TestUndrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustStand(t, twoWeights)
		if d := s.drain(drainVerb{drainee: mustDrainee(t, "192.168.0.1", ""), NoWait: true}); !d.ended() || d.r.End != endEmpty {
			t.Fatalf("%v, %+v, %v", d.ended(), d.r, d.err)
		}
		for _, c := range []struct {
			server, service string
			said            []string
			weights         [][2]int32 // of 192.168.0.1:80
		}{
			{"192.168.0.1:80", "tcp/10.0.0.2:80", []string{"tcp/10.0.0.2:80 192.168.0.1:80: weight 7 again"}, [][2]int32{{0, 3}, {7, 7}}},
			{"192.168.0.1", "", []string{"tcp/10.0.0.1:80 192.168.0.1:80: weight 3 again", "tcp/10.0.0.2:80 192.168.0.1:81: weight 2 again",
				"tcp/10.0.0.2:80 192.168.0.1:80: weight 7 as before"}, [][2]int32{{3, 3}, {7, 7}}},
		} {
			said, err := undrainVerb{mustDrainee(t, c.server, c.service)}.undrain(s)
			if got := s.weights("192.168.0.1:80"); err != nil || !slices.Equal(said, c.said) || !slices.Equal(got, c.weights) {
				t.Errorf("undrain %s of %s: %q, %v, and weights %v", c.server, c.service, said, err, got)
			}
		}
		for server, want := range map[string]string{"192.168.0.2": "never had a weight but 0", "192.168.0.9": "192.168.0.9: No such destination"} {
			if _, err := (undrainVerb{mustDrainee(t, server, "")}).undrain(s); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("undrain %s: %v", server, err)
			}
		}
	})
}

func TestProgressInPlace(t *testing.T) {
	var said strings.Builder
	p := progress{out: &said, inPlace: true}
	p.end()
	for _, line := range []string{"ten left", "one left"} {
		if !p.due() {
			t.Errorf("%s is not due", line)
		}
		p.print(line)
	}
	p.end()
	if want := "\rten left\x1b[K\rone left\x1b[K\n"; said.String() != want {
		t.Errorf("%q", said.String())
	}
}
