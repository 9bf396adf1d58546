// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lvs/lab"
	"lvs/needs"
)

// BenchmarkBulk carries a TCP stream through the director, and for comparison through the same network when it only
// forwards. The ratio is what counts: both are measured in turn, on whatever the machine is busy with.
func BenchmarkBulk(b *testing.B) {
	needs.NetNS(b)
	needs.BPF(b)
	bin := mustBuild(b)
	needs.Programs(b, "iperf3")
	for _, family := range []struct{ name, vip, server string }{
		{"IPv4", "10.1.0.1", "10.2.0.2"},
		{"IPv6", "2001:db8:1::1", "2001:db8:2::2"},
	} {
		b.Run(family.name, func(b *testing.B) {
			hosts := mustNetwork(b)
			client, director := hosts[0], hosts[1]
			if err := begin(hosts[2].Command(b.Context(), "iperf3", "--server", "--forceflush"), "Server listening"); err != nil {
				b.Fatal(err)
			}
			vip, server := "["+family.vip+"]:5201", "["+family.server+"]:5201"
			if family.name == "IPv4" {
				vip, server = family.vip+":5201", family.server+":5201"
			}
			var plain, through float64
			forward := func() { plain += mustStream(b, client, family.server) }
			direct := func() {
				mustRun(b, director, filepath.Join(bin, "ipvsadm"), "-A", "-t", vip, "-s", "rr")
				mustRun(b, director, filepath.Join(bin, "ipvsadm"), "-a", "-t", vip, "-r", server, "-m")
				through += mustStream(b, client, family.vip)
				mustRun(b, director, filepath.Join(bin, "director"), "unload")
			}
			streams := 0.0
			for b.Loop() {
				for range 2 { // who comes first has no advantage
					forward()
					direct()
					direct()
					forward()
					streams += 2
				}
			}
			b.ReportMetric(plain/streams/1e9, "forwarding-Gbit/s")
			b.ReportMetric(through/streams/1e9, "director-Gbit/s")
			b.ReportMetric(through/plain, "ratio")
		})
	}
}

// BenchmarkConnections opens and closes TCP connections through the director, and for comparison through the same network when it only
// forwards: what is to be seen is that the director takes nothing away from what the ends can do.
func BenchmarkConnections(b *testing.B) {
	needs.NetNS(b)
	needs.BPF(b)
	bin := mustBuild(b)
	hosts := mustNetwork(b)
	client, director, server := hosts[0], hosts[1], hosts[2]
	// another port each: the client's clock is another for another address, which the server's TIME_WAIT would take for an old packet's
	const virtual, real, other = "10.1.0.1:80", "10.2.0.2:80", "10.2.0.2:81"
	mustGreet(b, server, real)
	mustGreet(b, server, other)
	var plain, through, rounds float64
	forward := func() { plain += mustConnect(b, client, other) }
	direct := func() {
		mustRun(b, director, filepath.Join(bin, "ipvsadm"), "-A", "-t", virtual, "-s", "rr")
		mustRun(b, director, filepath.Join(bin, "ipvsadm"), "-a", "-t", virtual, "-r", real, "-m")
		through += mustConnect(b, client, virtual)
		mustRun(b, director, filepath.Join(bin, "director"), "unload")
	}
	for b.Loop() {
		forward()
		direct()
		direct()
		forward()
		rounds += 2
	}
	b.ReportMetric(plain/rounds, "forwarding-conns/s")
	b.ReportMetric(through/rounds, "director-conns/s")
	b.ReportMetric(through/plain, "ratio")
}

// mustGreet has a host send a byte to whoever connects, and close, until the benchmark is over.
func mustGreet(b *testing.B, h *lab.Host, address string) {
	b.Helper()
	l, err := h.Listen("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	var greeting sync.WaitGroup
	for range 2 {
		greeting.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return // the listener is closed
				}
				c.Write([]byte{'.'})
				c.Close()
			}
		})
	}
	b.Cleanup(func() {
		l.Close()
		greeting.Wait()
	})
}

// mustConnect gives the rate, in connections a second, at which clients of a host are greeted, 16 at a time, for two seconds.
func mustConnect(b *testing.B, h *lab.Host, address string) float64 {
	b.Helper()
	const clients, long = 16, 2 * time.Second
	d := net.Dialer{Timeout: long}
	one := func() error {
		c, err := d.Dial("tcp", address) // the name of no host, so by this thread
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(long)); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1))
		return err
	}
	var greeted atomic.Int64
	var connecting sync.WaitGroup
	begun := time.Now()
	for range clients {
		connecting.Go(func() {
			err := h.Do(func() error {
				for time.Since(begun) < long {
					if err := one(); err != nil {
						return err
					}
					greeted.Add(1)
				}
				return nil
			})
			if err != nil {
				b.Error(err)
			}
		})
	}
	connecting.Wait()
	return float64(greeted.Load()) / time.Since(begun).Seconds()
}

// mustNetwork is a client, a director that nothing is loaded on, and a server.
func mustNetwork(b *testing.B) []*lab.Host {
	b.Helper()
	hosts, err := lab.Parse(`
		client interface eth0 outside 10.1.0.2/24 2001:db8:1::2/64
		client route 10.2.0.0/24 via 10.1.0.1
		client route 2001:db8:2::/64 via 2001:db8:1::1
		director interface eth0 outside 10.1.0.1/24 2001:db8:1::1/64
		director interface eth1 inside 10.2.0.1/24 2001:db8:2::1/64
		director sysctl net.ipv4.ip_forward=1
		director sysctl net.ipv6.conf.all.forwarding=1
		server interface eth0 inside 10.2.0.2/24 2001:db8:2::2/64
		server route default via 10.2.0.1
		server route default via 2001:db8:2::1`)
	if err != nil {
		b.Fatal(err)
	}
	n := &lab.Network{Name: fmt.Sprintf("labtest-%d-bench", os.Getpid()), Hosts: hosts}
	if err := n.Up(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := n.Down(); err != nil {
			b.Error(err)
		}
	})
	return hosts
}

func mustRun(b *testing.B, h *lab.Host, name string, args ...string) []byte {
	b.Helper()
	out, err := h.Command(b.Context(), name, args...).CombinedOutput()
	if err != nil {
		b.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return out
}

// mustStream gives the rate, in bits a second, at which a stream of two seconds is received.
func mustStream(b *testing.B, client *lab.Host, address string) float64 {
	b.Helper()
	var report struct {
		End struct {
			Received struct {
				Rate float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	text, err := carry(client, address, "--time", "2", "--json")
	if err != nil {
		b.Fatal(err)
	}
	if err := json.Unmarshal(text, &report); err != nil {
		b.Fatalf("iperf3: %v: %s", err, text)
	}
	return report.End.Received.Rate
}
