// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"lvs"
)

// Whose a packet of a server is that no connection has is asked by services that go by SIP calls, which servers may begin as well, and by
// nat_icmp_send. So the map of real servers follows from the table, and is filled only where anybody asks.

// realProtocols are what a server of a service by mark may speak.
var realProtocols = []lvs.Protocol{lvs.TCP, lvs.UDP, lvs.SCTP}

// followReals makes the map say what the table says.
func (in *instance) followReals() error {
	reals, err := in.m(bpfMapReals)
	if err != nil {
		return err
	}
	s, err := in.settings()
	if err != nil {
		return err
	}
	want := map[bpfServiceKey]bpfReal{}
	if s.Calls != 0 || s.NatIcmpSend != 0 {
		want = in.reals(s.NatIcmpSend != 0)
	}
	var key bpfServiceKey
	var is bpfReal
	var gone []bpfServiceKey
	i := reals.Iterate()
	for i.Next(&key, &is) {
		switch to, ok := want[key]; {
		case !ok:
			gone = append(gone, key)
		case to == is:
			delete(want, key)
		}
	}
	if err := i.Err(); err != nil {
		return fmt.Errorf("real servers: %w", err)
	}
	for _, key := range gone {
		if err := reals.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("real servers: %w", err)
		}
	}
	for key, to := range want {
		if err := reals.Put(key, to); err != nil {
			return fmt.Errorf("real servers: %w", err)
		}
	}
	return nil
}

// reals gives the servers with NAT by what their packets come from. Where services share one, it is that of the newest service. With
// told, it is known from where to tell them something.
func (in *instance) reals(told bool) map[bpfServiceKey]bpfReal {
	all, added := map[bpfServiceKey]bpfReal{}, map[bpfServiceKey]uint64{}
	for n := range in.services {
		s := &in.services[n]
		if s.Use != bpfSlotUseSLOT_LIVE {
			continue
		}
		for i, d := range in.members(s) {
			if bpfSlotUse(d.Use) != bpfSlotUseSLOT_LIVE || lvs.Forward(d.Forward) != lvs.Masq {
				continue
			}
			r := bpfReal{Server: i}
			if told {
				r.Source = sourceTowards(fromAddr(d.Addr))
			}
			protocols := []lvs.Protocol{lvs.Protocol(s.Key.Protocol)}
			if s.Key.Mark != 0 {
				protocols = realProtocols
			}
			for _, p := range protocols {
				key := bpfServiceKey{Addr: d.Addr, Port: d.Port, Protocol: uint8(p), Family: s.Key.Family}
				if added[key] <= s.Added {
					all[key], added[key] = r, s.Added
				}
			}
		}
	}
	return all
}
