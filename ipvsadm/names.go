// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lvs"
)

// names turns names into numbers and back, first by the files of /etc, then by DNS. It reads the files when
// it is first asked.
type names struct {
	etc      string
	dns      *net.Resolver // nil for none
	hosts    []hostLine
	services []serviceLine
	addrs    map[netip.Addr]string // what name asked for before
}

type hostLine struct {
	addr  netip.Addr
	names []string // the first is the canonical one
}

type serviceLine struct {
	port  uint16
	proto string
	names []string
}

// endpoint is an address with or without a port.
type endpoint struct {
	addr    netip.Addr
	port    uint16
	hasPort bool
}

// endpoint reads host[:port], [ipv6]:port or an IPv6 address alone. The host may be a name that has an IPv4
// address, the port one that the protocol knows.
func (n *names) endpoint(s string, p lvs.Protocol) (endpoint, bool) {
	if strings.Trim(s, "0123456789") == "" {
		return endpoint{}, false // a number alone is no address here
	}
	var e endpoint
	var port string
	if strings.HasPrefix(s, "[") {
		var ok bool
		if s, port, ok = strings.Cut(s[1:], "]"); !ok || !strings.HasPrefix(port, ":") {
			return endpoint{}, false
		}
		port, e.hasPort = port[1:], true
	}
	var ok bool
	if e.addr, ok = parseIPv6(s); !ok {
		port, e.hasPort = "", false // what follows the brackets counts for IPv6 only
		if i := strings.LastIndexByte(s, ':'); i >= 0 {
			s, port, e.hasPort = s[:i], s[i+1:], true
		}
		if e.addr, ok = n.host4(s); !ok {
			return endpoint{}, false
		}
	}
	if e.hasPort {
		e.port, ok = n.port(port, p)
	}
	return e, ok
}

func (n *names) port(s string, p lvs.Protocol) (uint16, bool) {
	if v, ok := parseNumber(s); ok && v >= 0 && v <= 65535 {
		return uint16(v), true
	}
	proto := strings.ToLower(p.String())
	for _, l := range n.serviceLines() {
		if l.proto == proto && slices.Contains(l.names, s) {
			return l.port, true
		}
	}
	return 0, false
}

// host4 reads an IPv4 address, or looks up a name that has one.
func (n *names) host4(s string) (netip.Addr, bool) {
	if addr, ok := parseIPv4(s); ok {
		return addr, true
	}
	if strings.Trim(s, "0123456789.") == "" {
		return netip.Addr{}, false // looks like an address, so is not asked for
	}
	called := func(name string) bool { return strings.EqualFold(name, s) }
	for _, l := range n.hostLines() {
		if addr := inIPv4(l.addr); addr.IsValid() && slices.ContainsFunc(l.names, called) {
			return addr, true
		}
	}
	if n.dns != nil {
		if addrs, err := n.dns.LookupNetIP(context.Background(), "ip4", s); err == nil && len(addrs) > 0 {
			return addrs[0].Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// inIPv4 gives the IPv4 address that a line of the hosts file stands for when one is asked for, as the C
// library reads it: the loopback address and mapped addresses of IPv6 have a counterpart.
func inIPv4(addr netip.Addr) netip.Addr {
	switch addr = addr.Unmap(); {
	case addr.Is4():
		return addr
	case addr == netip.IPv6Loopback():
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.Addr{}
}

// host gives the name of an address, or the address itself.
func (n *names) host(addr netip.Addr) string {
	if s, ok := n.addrs[addr]; ok {
		return s
	}
	if n.addrs == nil {
		n.addrs = map[netip.Addr]string{}
	}
	s := n.lookUpHost(addr)
	n.addrs[addr] = s
	return s
}

func (n *names) lookUpHost(addr netip.Addr) string {
	for _, l := range n.hostLines() {
		if l.addr == addr || addr.Is4() && inIPv4(l.addr) == addr {
			return l.names[0]
		}
	}
	if n.dns != nil {
		if found, err := n.dns.LookupAddr(context.Background(), addr.String()); err == nil && len(found) > 0 {
			return strings.TrimSuffix(found[0], ".")
		}
	}
	return formatAddr(addr)
}

// service gives the name of a port, or its number.
func (n *names) service(port uint16, p lvs.Protocol) string {
	proto := strings.ToLower(p.String())
	for _, l := range n.serviceLines() {
		if l.port == port && l.proto == proto {
			return l.names[0]
		}
	}
	return strconv.Itoa(int(port))
}

func (n *names) hostLines() []hostLine {
	if n.hosts == nil {
		n.hosts = []hostLine{}
		for fields := range n.lines("hosts") {
			if addr, err := netip.ParseAddr(fields[0]); err == nil && len(fields) > 1 {
				n.hosts = append(n.hosts, hostLine{addr, fields[1:]})
			}
		}
	}
	return n.hosts
}

func (n *names) serviceLines() []serviceLine {
	if n.services == nil {
		n.services = []serviceLine{}
		for fields := range n.lines("services") {
			if len(fields) < 2 {
				continue
			}
			port, proto, _ := strings.Cut(fields[1], "/")
			if v, err := strconv.ParseUint(port, 10, 16); err == nil {
				n.services = append(n.services, serviceLine{uint16(v), proto, append(fields[:1:1], fields[2:]...)})
			}
		}
	}
	return n.services
}

// lines gives the words of each line of a file, without comments. A file that cannot be read has no lines.
func (n *names) lines(file string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		text, _ := os.ReadFile(filepath.Join(n.etc, file))
		for line := range strings.Lines(string(text)) {
			line, _, _ = strings.Cut(line, "#")
			if fields := strings.Fields(line); len(fields) > 0 && !yield(fields) {
				return
			}
		}
	}
}
