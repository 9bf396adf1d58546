// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// The kernel's answer about a route is "forwarding is off" unless it is on for the interface that the packet is said
// to come from. The program says lo, where nothing comes from that would have to be forwarded.

var forwardingFiles = []string{"/proc/sys/net/ipv4/conf/lo/forwarding", "/proc/sys/net/ipv6/conf/lo/forwarding"}

// forwardLo switches forwarding on for lo, and remembers what it was.
func (in *instance) forwardLo() error {
	s, err := in.settings()
	if err != nil {
		return err
	}
	for bit, file := range forwardingFiles {
		was, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(was)) != "0" {
			s.LoForwarding |= 1 << bit
			continue
		}
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return fmt.Errorf("forwarding on lo, for route look-ups: %w", err)
		}
	}
	return in.putSettings(s)
}

func (in *instance) restoreForwarding() error {
	s, err := in.settings()
	if err != nil {
		return err
	}
	for bit, file := range forwardingFiles {
		if s.LoForwarding&(1<<bit) != 0 {
			continue
		}
		if err := os.WriteFile(file, []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
