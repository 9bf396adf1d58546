// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"

	"lvs"
)

// What is set for lo while an instance is loaded. The kernel's answer about a route is "forwarding is off" unless it is on for the
// interface that the packet is said to come from: the program says lo, where nothing comes from that would have to be
// forwarded. Answers to local clients are handed in by lo, too, with a sender that is an address of the director itself.
var loSettings = []struct {
	file string
	want byte
}{
	{"/proc/sys/net/ipv4/conf/lo/forwarding", '1'},
	{"/proc/sys/net/ipv6/conf/lo/forwarding", '1'},
	{"/proc/sys/net/ipv4/conf/lo/accept_local", '1'},
	{"/proc/sys/net/ipv4/conf/lo/rp_filter", '2'},
}

// setLo makes the settings of lo, and remembers what they were.
func (in *instance) setLo() error {
	s, err := in.settings()
	if err != nil {
		return err
	}
	for i, l := range loSettings {
		was, err := os.ReadFile(l.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
		if len(was) == 0 || was[0] >= l.want || was[0] < '0' {
			continue
		}
		s.LoBefore |= uint32(was[0]-'0'+1) << (4 * i)
		if err := os.WriteFile(l.file, []byte{l.want}, 0); err != nil {
			return fmt.Errorf("%s: %w", l.file, err)
		}
	}
	return in.putSettings(s)
}

func (in *instance) restoreLo() error {
	s, err := in.settings()
	if err != nil {
		return err
	}
	for i, l := range loSettings {
		was := s.LoBefore >> (4 * i) & 15
		if was == 0 {
			continue
		}
		if err := os.WriteFile(l.file, []byte{byte(was - 1 + '0')}, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// sourceTowards gives the director's own address for packets to a server, as the kernel's route to it has it now; zero if
// there is no route. It is asked when the server is added or edited.
func sourceTowards(server netip.Addr) [2]uint64 {
	routes, err := netlink.RouteGet(server.AsSlice())
	if err != nil || len(routes) == 0 {
		return [2]uint64{}
	}
	source, ok := netip.AddrFromSlice(routes[0].Src)
	if !ok {
		return [2]uint64{}
	}
	return toAddr(source.Unmap())
}

// followRoutes has tunnels begin at the addresses that the routes of today give.
func (in *instance) followRoutes() {
	for i := range in.servers {
		d := &in.servers[i]
		if bpfSlotUse(d.Use) != bpfSlotUseSLOT_LIVE || lvs.Forward(d.Forward) != lvs.Tunnel {
			continue
		}
		if now := sourceTowards(fromAddr(d.Addr)); now != d.TunnelSource && now != [2]uint64{} {
			d.TunnelSource = now
		}
	}
}
