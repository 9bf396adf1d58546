// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

func mustStage(t *testing.T, name string, o Options, servers int) *stage {
	t.Helper()
	sc, err := find(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newStage(sc, o, servers)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whatever the scenario and the number of servers: the network can be built, and each name has an address that some host has.
func TestScenariosAreWhole(t *testing.T) {
	for _, sc := range scenarios {
		for _, servers := range []int{1, mostServers} {
			for _, ipv6 := range []bool{false, true} {
				s := mustStage(t, sc.name, Options{IPv6: ipv6}, servers)
				if _, err := s.network.plan(); err != nil {
					t.Errorf("%s: %v", sc.name, err)
				}
				for _, one := range s.servers {
					s.names[one.host.Name] = one.addr
				}
				for name, a := range s.names {
					if a.Is6() != ipv6 || !slices.ContainsFunc(s.network.Hosts, func(h *Host) bool { return h.has(a) }) {
						t.Errorf("%s: no host has %s %v", sc.name, name, a)
					}
				}
			}
		}
	}
}

func TestExpand(t *testing.T) {
	for _, c := range []struct {
		line       string
		ipv4, ipv6 string
	}{
		{"-t VIP:80 -s rr", "-t 172.16.50.50:80 -s rr", "-t [2001:db8:16::50:50]:80 -s rr"},
		{"-a -f 5 FAMILY -r RIP -g", "-a -f 5 -r 172.16.200.10 -g|-a -f 5 -r 172.16.200.11 -g",
			"-a -f 5 -6 -r 2001:db8:16::200:10 -g|-a -f 5 -6 -r 2001:db8:16::200:11 -g"},
		{"server{i}# start --vip VIP", "server1# start --vip 172.16.50.50|server2# start --vip 172.16.50.50",
			"server1# start --vip 2001:db8:16::50:50|server2# start --vip 2001:db8:16::50:50"},
	} {
		for i, want := range []string{c.ipv4, c.ipv6} {
			s := mustStage(t, "dr", Options{IPv6: i == 1}, 2)
			if got := strings.Join(s.expand(c.line), "|"); got != want {
				t.Errorf("%s becomes %s, not %s", c.line, got, want)
			}
		}
	}
}

func TestPictures(t *testing.T) {
	for _, c := range []struct {
		name    string
		servers int
		want    string
	}{
		{"nat", 2, `
  client               director                    servers, whose gateway is the DIP
  172.16.249.10 ────── VIP 172.16.249.57
                       DIP 192.168.100.1 ─────┬─── 192.168.100.2  server1
                                              └─── 192.168.100.3  server2
`},
		{"nat", 1, `
  client               director                    servers, whose gateway is the DIP
  172.16.249.10 ────── VIP 172.16.249.57
                       DIP 192.168.100.1 ───────── 192.168.100.2  server1
`},
		{"dr", 3, `
  client                  one network: the director, and servers with the VIP on lo
  172.16.249.10 ─────┬─── 172.16.50.50   director, the VIP
                     ├─── 172.16.200.10  server1
                     ├─── 172.16.200.11  server2
                     └─── 172.16.200.12  server3
`},
		{"tun", 1, `
  client               router                    other networks: the director, and servers with the VIP on lo
  172.16.249.10 ────── GW 172.16.249.1 ─────┬─── 172.16.50.50   director, the VIP
                                            └─── 192.168.100.2  server1
`},
	} {
		var b bytes.Buffer
		Screen{Out: &b}.picture(mustStage(t, c.name, Options{}, c.servers))
		if b.String() != c.want {
			t.Errorf("%s with %d servers:%s", c.name, c.servers, b.String())
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	Screen{Out: &b}.picture(mustStage(t, "nat", Options{}, 2))
	if !bytes.Contains(readme, b.Bytes()) {
		t.Errorf("README.md shows another picture than%s", b.String())
	}
}

func TestWordsOfACommand(t *testing.T) {
	got := words("nft 'add chain inet lab marks { type filter; }' more  words")
	want := []string{"nft", "add chain inet lab marks { type filter; }", "more", "words"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// The way of FULLNAT passes the router twice, and the director both ways; the sockets may give the frames in any order.
func TestFramesAreFollowedInAnyOrder(t *testing.T) {
	s := mustStage(t, "fullnat", Options{}, 2)
	mac := func(host string, i int) string { return s.host(host).Interfaces[i].MAC }
	cip, vip, lip, rip := at(s.names["CIP"], 40000), at(s.names["VIP"], 80), at(s.names["LIP"], 1024), at(s.servers[1].addr, 80)
	pass := func(from, to string, source, destination netip.AddrPort, flags string) frame {
		return frame{mac: [2]string{from, to}, ip: [2]netip.AddrPort{source, destination}, flags: flags}
	}
	client, director, server := mac("client", 0), mac("director", 0), mac("server2", 0)
	all := []frame{
		pass(client, mac("router", 0), cip, vip, "SYN"), pass(mac("router", 1), director, cip, vip, "SYN"),
		pass(director, mac("router", 1), lip, rip, "SYN"), pass(mac("router", 2), server, lip, rip, "SYN"),
		pass(server, mac("router", 2), rip, lip, "SYN+ACK"), pass(mac("router", 1), director, rip, lip, "SYN+ACK"),
		pass(director, mac("router", 1), vip, cip, "SYN+ACK"), pass(mac("router", 0), client, vip, cip, "SYN+ACK"),
		pass("02:00:00:00:77:00", client, vip, cip, "SYN+ACK"), // of a stranger
	}
	want := "client router director router server2 router director router client"
	for range 200 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		got := "client"
		for _, h := range (&watch{stage: s, frames: all}).hops() {
			got += " " + h.To
		}
		if got != want {
			t.Fatalf("%s, and not %s", got, want)
		}
	}
}
