// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
)

// arrival is a packet at the interface that it would come in by.
type arrival struct {
	family  lvs.Family
	ifindex uint32
	name    string
	local   bool // it is of the director's own, and on its way out
	frame   []byte
	notes   []string
}

// arrival finds where a packet comes in: by the interface that its answer would go out of.
func (in *instance) arrival(q Question) (*arrival, error) {
	from, to := q.From.Addr(), q.To.Addr()
	switch {
	case from.Is4() != to.Is4():
		return nil, fmt.Errorf("%v and %v are of two families", from, to)
	case q.Protocol != lvs.TCP && q.Protocol != lvs.UDP:
		return nil, fmt.Errorf("the program knows TCP and UDP, not %v", q.Protocol)
	}
	a := &arrival{family: lvs.IPv6, ifindex: 1, name: "lo"}
	if from.Is4() {
		a.family = lvs.IPv4
	}
	routes, err := netlink.RouteGet(from.AsSlice())
	if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
		a.local = true
		a.notes = append(a.notes, "the packet is one of the director's own")
		routes, err = netlink.RouteGet(to.AsSlice())
	}
	var mine, theirs net.HardwareAddr
	switch {
	case err != nil || len(routes) == 0:
		a.name = "none"
		a.notes = append(a.notes, fmt.Sprintf("there is no route to %v", map[bool]netip.Addr{true: to, false: from}[a.local]))
	default:
		if mine, theirs, err = in.enters(a, &routes[0], from); err != nil {
			return nil, err
		}
	}
	a.frame = frameOf(q, mine, theirs)
	return a, nil
}

// enters finds the interface of a route, and the MAC addresses of what comes in there from an address.
func (in *instance) enters(a *arrival, r *netlink.Route, from netip.Addr) (mine, theirs net.HardwareAddr, err error) {
	l, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return nil, nil, err
	}
	device, err := in.device(r.LinkIndex)
	if err != nil {
		return nil, nil, err
	}
	a.name = l.Attrs().Name
	attached := device.Tc
	if a.local {
		attached = device.Out
	}
	if attached < bpfAttachmentATTACH_TCX {
		a.notes = append(a.notes, fmt.Sprintf("the program is not attached to %s, so it does not see the packet: `director attach %s`", a.name, a.name))
		return nil, nil, nil
	}
	a.ifindex = uint32(r.LinkIndex)
	next := net.IP(from.AsSlice())
	if r.Gw != nil {
		next = r.Gw
	}
	return l.Attrs().HardwareAddr, neighbour(l, next), nil
}

func neighbour(l netlink.Link, next net.IP) net.HardwareAddr {
	all, _ := netlink.NeighList(l.Attrs().Index, 0)
	for _, n := range all {
		if n.IP.Equal(next) {
			return n.HardwareAddr
		}
	}
	return nil
}

var tcpLetters = []struct {
	letter string
	bit    byte
	name   string
}{{"S", 2, "SYN"}, {"A", 16, "ACK"}, {"F", 1, "FIN"}, {"R", 4, "RST"}}

// frameOf builds the packet, without payload.
func frameOf(q Question, to, from net.HardwareAddr) []byte {
	eth := make([]byte, 14)
	copy(eth, to)
	copy(eth[6:], from)
	payload := []byte{12: 5 << 4, 14: 0xfa, 15: 0xf0, 19: 0} // TCP, with a window of 64240
	if q.Protocol == lvs.UDP {
		payload = []byte{5: 8, 7: 0}
	} else {
		for _, l := range tcpLetters {
			if strings.Contains(q.Flags, l.letter) {
				payload[13] |= l.bit
			}
		}
	}
	put16(payload, q.From.Port())
	put16(payload[2:], q.To.Port())
	source, destination := q.From.Addr().AsSlice(), q.To.Addr().AsSlice()
	sum := sumOf(source) + sumOf(destination) + uint32(q.Protocol) + uint32(len(payload)) + sumOf(payload)
	at := 16
	if q.Protocol == lvs.UDP {
		at = 6
	}
	put16(payload[at:], ^folded(sum))
	var ip []byte
	if q.From.Addr().Is4() {
		put16(eth[12:], 0x0800)
		ip = []byte{0: 0x45, 6: 0x40, 8: 64, 9: byte(q.Protocol), 19: 0}
		put16(ip[2:], uint16(20+len(payload)))
		copy(ip[12:], source)
		copy(ip[16:], destination)
		put16(ip[10:], ^folded(sumOf(ip)))
	} else {
		put16(eth[12:], 0x86dd)
		ip = []byte{0: 0x60, 6: byte(q.Protocol), 7: 64, 39: 0}
		put16(ip[4:], uint16(len(payload)))
		copy(ip[8:], source)
		copy(ip[24:], destination)
	}
	return append(append(eth, ip...), payload...)
}

func put16(b []byte, v uint16) { b[0], b[1] = byte(v>>8), byte(v) }

func get16(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

func sumOf(b []byte) (sum uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(get16(b[i:]))
	}
	return sum
}

func folded(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// hopOf is where a packet goes next.
func hopOf(f *bpfFinding) *Hop {
	h := &Hop{Interface: fmt.Sprint(f.Route.Ifindex), Via: fromAddr(f.Route.Via).String(), MTU: int(f.Route.Mtu)}
	if l, err := netlink.LinkByIndex(int(f.Route.Ifindex)); err == nil {
		h.Interface = l.Attrs().Name
	}
	if f.Routed == bpfRoutedROUTED {
		h.MAC = net.HardwareAddr(f.Route.DstMac[:]).String()
	}
	return h
}

// headersOf gives the headers of a frame in words, the outermost first. Packets to the UDP port gue are tunnels.
func headersOf(frame []byte, gue uint16) (lines []string) {
	if len(frame) < 14 {
		return nil
	}
	lines = append(lines, fmt.Sprintf("ethernet %v > %v", net.HardwareAddr(frame[6:12]), net.HardwareAddr(frame[:6])))
	next := map[uint16]uint8{0x0800: 4, 0x86dd: 41}[get16(frame[12:])]
	for b := frame[14:]; ; {
		line, rest, inner := header(next, b, gue)
		if line == "" {
			return lines
		}
		lines = append(lines, line)
		next, b = inner, rest
	}
}

// header gives a header in words, what follows it, and that one's protocol number; 0 is the end. Numbers are those of IP: 4 is
// IPv4 and 41 is IPv6.
func header(protocol uint8, b []byte, gue uint16) (line string, rest []byte, next uint8) {
	ether := func(kind uint16) uint8 { return map[uint16]uint8{0x0800: 4, 0x86dd: 41}[kind] }
	switch {
	case protocol == 4 && len(b) >= 20 && len(b) >= int(b[0]&15)*4 && b[0]&15 >= 5:
		from, to := netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		return fmt.Sprintf("ipv4 %v > %v, ttl %d, %d bytes", from, to, b[8], get16(b[2:])), b[int(b[0]&15)*4:], b[9]
	case protocol == 41 && len(b) >= 40:
		from, to := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		return fmt.Sprintf("ipv6 %v > %v, hop limit %d, %d bytes", from, to, b[7], 40+int(get16(b[4:]))), b[40:], b[6]
	case protocol == 6 && len(b) >= 20:
		var flags []string
		for _, l := range tcpLetters {
			if b[13]&l.bit != 0 {
				flags = append(flags, l.name)
			}
		}
		return fmt.Sprintf("tcp %d > %d, %s", get16(b), get16(b[2:]), strings.Join(flags, " ")), nil, 0
	case protocol == 17 && len(b) >= 12 && gue != 0 && get16(b[2:]) == gue:
		return fmt.Sprintf("udp %d > %d, gue", get16(b), gue), b[12:], b[9]
	case protocol == 17 && len(b) >= 8:
		return fmt.Sprintf("udp %d > %d", get16(b), get16(b[2:])), nil, 0
	case protocol == 47 && len(b) >= 4:
		return "gre", b[4:], ether(get16(b[2:]))
	case (protocol == 1 || protocol == 58) && len(b) >= 8:
		quoted := map[uint8]uint8{1: 4, 58: 41}[protocol]
		return fmt.Sprintf("%s type %d code %d, about", map[uint8]string{1: "icmp", 58: "icmpv6"}[protocol], b[0], b[1]), b[8:], quoted
	}
	return "", nil, 0
}
