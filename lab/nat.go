// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
)

// Name is the network that the scenarios of `director lab` use: one of them at a time.
const Name = "lab"

const mostServers = 200

// NAT plays the tutorial's chapter on NAT: a client in 172.16.249.0/24, a director with the virtual address
// outside and 192.168.100.1 inside, and servers in 192.168.100.0/24 whose gateway is the director. It answers
// [ErrBroken] if the answers were not what a scheduler promises; the results up to there are given all the same.
func NAT(ctx context.Context, o Options, screen Screen) ([]Result, error) {
	acts, err := o.acts()
	if err != nil {
		return nil, err
	}
	if o.IPv6 && !haveIPv6() {
		return nil, errors.New("this kernel has IPv6 switched off")
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := natStage(len(acts[0].weights), o.IPv6)
	s.program, s.screen = program, screen
	return s.play(ctx, acts, o)
}

// natStage describes the network, in both address families at once.
func natStage(servers int, ipv6 bool) *stage {
	outside, inside := "172.16.249.", "192.168.100."
	if ipv6 {
		outside, inside = "2001:db8:249::", "2001:db8:100::"
	}
	client := &Host{
		Name: "client",
		Interfaces: []Interface{{Name: "eth0", Segment: "outside",
			Addrs: []string{"172.16.249.10/24", "2001:db8:249::10/64"}}},
	}
	director := &Host{
		Name: "director",
		Interfaces: []Interface{
			{Name: "eth0", Segment: "outside", Addrs: []string{"172.16.249.57/24", "2001:db8:249::57/64"}},
			{Name: "eth1", Segment: "inside", Addrs: []string{"192.168.100.1/24", "2001:db8:100::1/64"}},
		},
		Sysctls: []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"},
	}
	s := &stage{
		scenario: "nat",
		network:  Network{Name: Name, Hosts: []*Host{client, director}},
		client:   client,
		director: director,
		cip:      netip.MustParseAddr(outside + "10"),
		dip:      netip.MustParseAddr(inside + "1"),
		vip:      netip.AddrPortFrom(netip.MustParseAddr(outside+"57"), 80),
		forward:  "-m",
	}
	for i := range servers {
		last := i + 2
		host := &Host{
			Name: fmt.Sprintf("server%d", i+1),
			Interfaces: []Interface{{Name: "eth0", Segment: "inside",
				Addrs: []string{fmt.Sprintf("192.168.100.%d/24", last), fmt.Sprintf("2001:db8:100::%d/64", last)}}},
			Routes: []string{"default via 192.168.100.1", "default via 2001:db8:100::1"},
		}
		s.network.Hosts = append(s.network.Hosts, host)
		addr := netip.MustParseAddr(fmt.Sprintf("%s%d", inside, last))
		s.servers = append(s.servers, server{host, netip.AddrPortFrom(addr, 80)})
	}
	return s
}
