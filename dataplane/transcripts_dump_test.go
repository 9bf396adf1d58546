// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"lvs"
)

// sighting is a packet as tcpdump tells of it, with what it carries: a tunnelled packet, or the one that an ICMP error is about.
type sighting struct {
	device string // c0 or s0, where more than one was listened at
	layers []layer
}

// layer is an IP header, and the line about what comes behind it.
type layer struct {
	tos, ttl, protocol byte
	id, offset, length int
	flags              string
	from, to           netip.AddrPort
	says               string
}

const (
	protocolICMP, protocolIPIP, protocolGRE = 1, 4, 47

	guePort = 6080 // of the recordings
)

var (
	dumpedHeader = regexp.MustCompile(`tos (0x\w+), ttl (\d+), id (\d+), offset (\d+), flags \[(.*?)\], proto \w+ \((\d+)\), length (\d+)`)
	dumpedWay    = regexp.MustCompile(`(?m)^    ([\d.]+) > ([\d.]+): (.*)`)
	dumpedTCP    = regexp.MustCompile(`Flags (\[.*?\]).*, (length \d+)`)
)

// mustDumps reads the lines that a capture has left.
func mustDumps(t *testing.T, lines []string) (all []sighting) {
	t.Helper()
	var packets []string
	for _, l := range lines {
		if l[0] == ' ' || l[0] == '\t' {
			packets[len(packets)-1] += "\n" + l
		} else {
			packets = append(packets, l)
		}
	}
	for _, text := range packets {
		d := sighting{device: strings.TrimSuffix(text[:2], "IP")}
		ways := dumpedWay.FindAllStringSubmatch(text, -1)
		for i, h := range dumpedHeader.FindAllStringSubmatch(text, -1) {
			var n [8]int
			for at, field := range h[1:] {
				v, _ := strconv.ParseInt(field, 0, 32)
				n[at] = int(v)
			}
			l := layer{tos: byte(n[0]), ttl: byte(n[1]), id: n[2], offset: n[3], flags: h[5], protocol: byte(n[5]), length: n[6],
				from: mustEnd(t, ways[i][1]), to: mustEnd(t, ways[i][2])}
			switch m := dumpedTCP.FindStringSubmatch(ways[i][3]); {
			case m != nil && l.protocol == byte(lvs.TCP):
				l.says = m[1] + " " + m[2]
			case l.protocol == protocolICMP:
				l.says = ways[i][3]
			}
			d.layers = append(d.layers, l)
		}
		all = append(all, d)
	}
	return all
}

// mustEnd reads an address with or without a port behind the last point.
func mustEnd(t *testing.T, s string) netip.AddrPort {
	t.Helper()
	parts := strings.SplitN(s, ".", 5)
	a, err := netip.ParseAddr(strings.Join(parts[:4], "."))
	must(t, err)
	port := 0
	if len(parts) == 5 {
		port, err = strconv.Atoi(parts[4])
		must(t, err)
	}
	return netip.AddrPortFrom(a, uint16(port))
}

// tell is what tcpdump would say about an IPv4 packet of ours.
func tell(b []byte) (layers []layer) {
	l := layer{tos: b[1], length: int(binary.BigEndian.Uint16(b[2:])), id: int(binary.BigEndian.Uint16(b[4:])), offset: int(b[6]&0x1f)<<11 | int(b[7])<<3,
		ttl: b[8], protocol: b[9], flags: map[byte]string{0: "none", 2: "DF", 1: "+"}[b[6]>>5]}
	from, to := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	rest := b[20:]
	port := func(at int) uint16 { return binary.BigEndian.Uint16(rest[at:]) }
	var inner []byte
	switch l.protocol {
	case byte(lvs.TCP), byte(lvs.UDP):
		l.from, l.to = netip.AddrPortFrom(from, port(0)), netip.AddrPortFrom(to, port(2))
	default:
		l.from, l.to = netip.AddrPortFrom(from, 0), netip.AddrPortFrom(to, 0)
	}
	switch l.protocol {
	case byte(lvs.TCP):
		if len(rest) >= 20 { // not where an error quotes less
			l.says = fmt.Sprintf("[%s] length %d", letters(rest[13]), l.length-20-int(rest[12]>>4)*4)
		}
	case protocolIPIP:
		inner = rest
	case protocolGRE:
		inner = rest[4:]
	case protocolICMP:
		inner = rest[8:]
		l.says = tellError(rest, l.length-20)
	}
	if layers = []layer{l}; inner != nil {
		layers = append(layers, tell(inner)...)
	}
	return layers
}

// tellError is the line about an ICMP error of so many bytes.
func tellError(b []byte, length int) string {
	about := tell(b[8:])[0]
	switch b[1] {
	case 3:
		name := map[byte]string{byte(lvs.TCP): "tcp", byte(lvs.UDP): "udp"}[about.protocol]
		return fmt.Sprintf("ICMP %v %s port %d unreachable, length %d", about.to.Addr(), name, about.to.Port(), length)
	case 4:
		return fmt.Sprintf("ICMP %v unreachable - need to frag (mtu %d), length %d", about.to.Addr(), binary.BigEndian.Uint16(b[6:]), length)
	}
	return fmt.Sprintf("ICMP type %d code %d, length %d", b[0], b[1], length)
}

var dumpedFlags = []struct {
	letter byte
	flag   byte
}{{'F', fin}, {'S', syn}, {'R', rst}, {'P', psh}, {'.', ack}}

func letters(flags byte) (s string) {
	for _, f := range dumpedFlags {
		if flags&f.flag != 0 {
			s += string(f.letter)
		}
	}
	return s
}

// wire is the packet of a layer, but for what it carries.
func (l layer) wire() wire {
	w := wire{protocol: lvs.Protocol(l.protocol), from: l.from, to: l.to, tos: l.tos, ttl: l.ttl, payload: l.length - 28}
	if l.flags == "DF" {
		w.fragment = 0x4000
	}
	if l.id != 0 {
		w.id = 1
	}
	if w.protocol != lvs.TCP {
		return w
	}
	flags, length, _ := strings.Cut(l.says, " length ")
	w.payload, _ = strconv.Atoi(length)
	w.words = (l.length - 40 - w.payload) / 4
	for _, f := range dumpedFlags {
		if strings.IndexByte(flags, f.letter) >= 0 {
			w.flags |= f.flag
		}
	}
	return w
}

// same is a text of all that is to be the same: of the identification whether there is one, and nothing of what chance decides. Errors of
// the director itself have none, for nobody fragments them.
func (d sighting) same() string {
	var b strings.Builder
	for i, l := range d.layers {
		if l.to.Port() == guePort {
			l.from = netip.AddrPortFrom(l.from.Addr(), 0)
		}
		l.id = min(l.id, 1)
		if i == 0 && l.protocol == protocolICMP && l.ttl == 64 {
			l.id = 0
		}
		fmt.Fprintf(&b, "%v > %v: protocol %d, tos %#x, ttl %d, id %d, offset %d, [%s], length %d %s\n",
			l.from, l.to, l.protocol, l.tos, l.ttl, l.id, l.offset, l.flags, l.length, l.says)
	}
	return b.String()
}
