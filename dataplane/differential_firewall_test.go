// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"pgregory.net/rapid"

	"lvs"
	"lvs/oracle"
)

// The firewall marks packets between our hook and routing. So what the program at ingress leaves to the kernel gets its mark then, loses
// a hop, and is routed out of our device if a service has this mark, or if that program has asked for the packet.

// mustFirewall has the stage go so.
func (s *stage) mustFirewall(t *testing.T) {
	t.Helper()
	for _, f := range families {
		mustDo(t, f.forwarding, os.WriteFile(f.forwarding, []byte("1"), 0))
	}
	s.firewall, s.marks = true, 1
}

// mustRoute takes a packet that was left to the kernel with a mark to the egress of our device, if it leads there. That it goes on as it
// was says little: it may be on its way to a server by direct routing.
func (s *stage) mustRoute(t rapid.TB, side int, frame []byte, mark uint32) oracle.Result {
	t.Helper()
	settings, err := s.in.settings()
	mustDo(t, "settings", err)
	left := oracle.Result{Verdict: oracle.Pass, Packet: oracle.Packet{Frame: frame}}
	routed := s.routed(frame)
	if routed == nil || settings.Device == 0 || settings.Device == noDeviceYet || !s.leads(t, frame, mark) {
		return left
	}
	o := &ebpf.RunOptions{Data: routed, DataOut: make([]byte, len(frame)+512)}
	o.Context = [48]uint32{2: mark, 9: uint32(s.sides[side].index), 10: settings.Device} // struct __sk_buff: mark, ingress_ifindex, ifindex
	verdict, err := s.out.Run(o)
	mustDo(t, "run", err)
	switch {
	case verdict == tcShot:
		return oracle.Result{Verdict: oracle.Drop}
	case bytes.Equal(o.DataOut, routed):
		return left
	}
	return oracle.Result{Verdict: oracle.Forward, Packet: oracle.Packet{Frame: o.DataOut}}
}

// leads says whether there is a rule for a mark.
func (s *stage) leads(t rapid.TB, frame []byte, mark uint32) bool {
	t.Helper()
	id := lvs.ServiceID{Family: lvs.IPv4, Mark: mark &^ markAsk}
	if frame[12] == 0x86 {
		id.Family = lvs.IPv6
	}
	table, err := s.judge.Table()
	mustDo(t, "table", err)
	return mark&markAsk != 0 || id.Mark != 0 && table.Service(id) != nil
}

// routed is what the kernel makes of a packet that it forwards, or nil.
func (s *stage) routed(frame []byte) []byte {
	b := slices.Clone(frame)
	if !slices.ContainsFunc(s.sides[1:], func(side stageSide) bool { return bytes.Equal(side.mac[:], b[:6]) }) {
		return nil
	}
	switch ip := b[14:]; {
	case b[12] == 8 && b[13] == 0 && len(ip) >= 20:
		length := int(ip[0]&15) * 4
		whole := int(binary.BigEndian.Uint16(ip[2:]))
		if ip[0]>>4 != 4 || length < 20 || len(ip) < length || whole < length || whole > len(ip) || sum16(ip[:length]) != 0xffff || ip[8] < 2 {
			return nil
		}
		ip[8]--
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:length]))
	case b[12] == 0x86 && b[13] == 0xdd && len(ip) >= 40:
		if ip[0]>>4 != 6 || int(binary.BigEndian.Uint16(ip[4:])) > len(ip)-40 || ip[7] < 2 {
			return nil
		}
		ip[7]--
	default:
		return nil
	}
	return b
}

// asIfRouted takes the hop that the packet has lost out of what an ICMP error quotes of it.
func asIfRouted(b []byte) {
	switch {
	case len(b) >= 54 && b[12] == 8 && b[23] == 1:
		icmp := b[14+int(b[14]&15)*4:]
		if len(icmp) < 28 {
			return
		}
		icmp[8+8], icmp[8+10], icmp[8+11] = 0, 0, 0
		icmp[2], icmp[3] = 0, 0
	case len(b) >= 94 && b[12] == 0x86 && b[20] == 58:
		icmp := b[54:]
		icmp[8+7] = 0
		icmp[2], icmp[3] = 0, 0
	}
}
