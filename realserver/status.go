// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Count is how often something happened.
type Count struct {
	Name    string `json:"name"`
	Count   uint64 `json:"count"`
	Meaning string `json:"meaning"`
}

// Status is what is active on a real server.
type Status struct {
	Running   bool           `json:"running"`  // anything at all
	Complete  bool           `json:"complete"` // no start or stop was cut short
	Pins      string         `json:"pins,omitempty"`
	Modes     []Mode         `json:"modes,omitempty"`
	VIPs      []netip.Addr   `json:"vips,omitempty"`
	Decap     Decap          `json:"decap,omitempty"`
	GUEPorts  []uint16       `json:"gue_ports,omitempty"`
	Directors []netip.Prefix `json:"directors,omitempty"`
	Changes   []string       `json:"changes,omitempty"`   // what was changed, in that order
	Missing   []string       `json:"missing,omitempty"`   // what was changed and is so no more: somebody else took it away
	Tunnelled []Count        `json:"tunnelled,omitempty"` // packets, where our program decapsulates
	Clients   []Count        `json:"clients,omitempty"`   // connections, for FULLNAT
}

// Read reads what is active in the calling thread's network namespace.
func Read() (*Status, error) {
	p, err := find()
	if err != nil {
		return nil, err
	}
	in, err := open(p, unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return &Status{Complete: true}, nil
	}
	if err != nil {
		return nil, err
	}
	defer in.lock.Release()
	s := in.state
	status := &Status{Running: true, Complete: s.Complete, Pins: p.Shown, Modes: s.Modes, VIPs: s.VIPs, Decap: s.Decap,
		GUEPorts: s.GUEPorts, Directors: s.Directors}
	for _, c := range s.Changes {
		status.Changes = append(status.Changes, c.String())
		if held, err := kinds[c.Kind].holds(in, c); err != nil || !held {
			status.Missing = append(status.Missing, c.String())
		}
	}
	if s.Decap == Program {
		if status.Tunnelled, err = counts(in, bpfMapDecaps, bpfDecapDECAPS, decapMeanings); err != nil {
			return nil, err
		}
	}
	if slices.Contains(s.Modes, FullNAT) {
		if status.Clients, err = counts(in, bpfMapToas, bpfToaTOAS, toaMeanings); err != nil {
			return nil, err
		}
	}
	return status, nil
}

func counts[E ~uint32](in *instance, name string, n E, meanings map[E]Count) ([]Count, error) {
	sums, err := in.counters(name, int(n))
	if err != nil {
		return nil, err
	}
	var all []Count
	for i, sum := range sums {
		c := meanings[E(i)]
		c.Count = sum
		all = append(all, c)
	}
	return all, nil
}

// nativeWord is four bytes of a packet as C reads them.
func nativeWord(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
