// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"lvs"
)

// The only place where the words of package lvs meet the layouts of C: byte order, v4-mapped addresses, enums.

func toAddr(a netip.Addr) [2]uint64 {
	if !a.IsValid() {
		return [2]uint64{}
	}
	b := a.As16()
	return [2]uint64{binary.NativeEndian.Uint64(b[:8]), binary.NativeEndian.Uint64(b[8:])}
}

func fromAddr(a [2]uint64) netip.Addr { return fromAddr16(a).Unmap() }

func fromAddr16(a [2]uint64) netip.Addr {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:8], a[0])
	binary.NativeEndian.PutUint64(b[8:], a[1])
	return netip.AddrFrom16(b)
}

func toPort(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

func fromPort(p uint16) uint16 { return toPort(p) }

func toKey(id lvs.ServiceID) bpfServiceKey {
	return bpfServiceKey{
		Addr: toAddr(id.Addr), Mark: id.Mark, Port: toPort(id.Port), Protocol: uint8(id.Protocol), Family: uint8(id.Family),
	}
}

func fromKey(k bpfServiceKey) lvs.ServiceID {
	id := lvs.ServiceID{Family: lvs.Family(k.Family), Protocol: lvs.Protocol(k.Protocol), Port: fromPort(k.Port), Mark: k.Mark}
	switch {
	case k.Protocol == 0:
	case id.Family == lvs.IPv4:
		id.Addr = fromAddr(k.Addr)
	default: // a service may have even a v4-mapped address
		id.Addr = fromAddr16(k.Addr)
	}
	return id
}

// schedulers are in the order of C's enum scheduler.
var schedulers = append(slices.Clone(lvs.Schedulers), lvs.NoScheduler)

var engines = []string{"", "sip"}

// toService gives the part of a service's slot that an operator decides.
func toService(id lvs.ServiceID, c lvs.ServiceConfig) (bpfService, error) {
	scheduler, engine := slices.Index(schedulers, c.Scheduler), slices.Index(engines, c.PE)
	if scheduler < 0 || engine < 0 {
		return bpfService{}, fmt.Errorf("%v: %w", id, lvs.ErrNoScheduler)
	}
	s := bpfService{
		Key: toKey(id), Use: bpfSlotUseSLOT_LIVE, Scheduler: bpfScheduler(scheduler), SchedulerFlags: uint32(c.SchedulerFlags),
		Persistent: c.Persistent, Netmask: c.Netmask, Engine: uint32(engine), OnDead: uint8(c.OnDead),
	}
	if c.OnePacket {
		s.OnePacket = 1
	}
	return s, nil
}

func fromService(s *bpfService) (lvs.ServiceID, lvs.ServiceConfig) {
	c := lvs.ServiceConfig{
		SchedulerFlags: lvs.SchedulerFlags(s.SchedulerFlags), Persistent: s.Persistent, Netmask: s.Netmask, OnePacket: s.OnePacket != 0, OnDead: lvs.OnDead(s.OnDead),
	}
	if int(s.Scheduler) < len(schedulers) {
		c.Scheduler = schedulers[s.Scheduler]
	}
	if int(s.Engine) < len(engines) {
		c.PE = engines[s.Engine]
	}
	return fromKey(s.Key), c
}

// toServer gives the part of a server's slot that an operator decides.
func toServer(id lvs.ServerID, c lvs.ServerConfig) bpfServer {
	return bpfServer{
		Addr: toAddr(id.Addr), Port: toPort(id.Port), Forward: uint8(c.Forward), Use: uint8(bpfSlotUseSLOT_LIVE),
		Upper: c.Upper, Lower: c.Lower, Weight: c.Weight,
		TunnelType: uint8(c.Tunnel.Type), TunnelChecksum: uint8(c.Tunnel.Checksum), TunnelPort: toPort(c.Tunnel.Port),
	}
}

func fromServer(s *bpfServer) (lvs.ServerID, lvs.ServerConfig) {
	return serverID(s), lvs.ServerConfig{
		Forward: lvs.Forward(s.Forward), Upper: s.Upper, Lower: s.Lower, Weight: s.Weight,
		Tunnel: lvs.TunnelConfig{Type: lvs.TunnelType(s.TunnelType), Port: fromPort(s.TunnelPort), Checksum: lvs.Checksum(s.TunnelChecksum)},
	}
}

func serverID(s *bpfServer) lvs.ServerID {
	return lvs.ServerID{Addr: fromAddr(s.Addr), Port: fromPort(s.Port)}
}

func fromLoad(l bpfLoad) lvs.Load {
	return lvs.Load{Active: uint32(max(l.Active, 0)), Inactive: uint32(max(l.Inactive, 0)), Persistent: uint32(max(l.Persistent, 0))}
}

func toCounts(s lvs.Stats) bpfCounts {
	return bpfCounts{Conns: s.Conns, InPackets: s.InPackets, OutPackets: s.OutPackets, InBytes: s.InBytes, OutBytes: s.OutBytes}
}

func fromCounts(c bpfCounts) lvs.Stats {
	return lvs.Stats{Conns: c.Conns, InPackets: c.InPackets, OutPackets: c.OutPackets, InBytes: c.InBytes, OutBytes: c.OutBytes}
}
