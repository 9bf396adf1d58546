// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Ports are a range of ports, both ends included.
type Ports struct{ First, Last uint16 }

// DefaultLocalPorts are the ports of a local address unless others are asked for: those below the range that Linux takes for
// connections of its own (ip_local_port_range), so that the director's own connections never meet those of its clients.
var DefaultLocalPorts = Ports{1024, 32767}

// Count is how many ports there are in the range.
func (p Ports) Count() int { return int(p.Last) - int(p.First) + 1 }

// String gives the range in the form "1024-32767".
func (p Ports) String() string { return fmt.Sprintf("%d-%d", p.First, p.Last) }

// ParsePorts reads a range in the form "1024-32767", or a single port; 0 is none.
func ParsePorts(text string) (Ports, error) {
	low, high, found := strings.Cut(text, "-")
	if !found {
		high = low
	}
	first, err1 := strconv.ParseUint(low, 10, 16)
	last, err2 := strconv.ParseUint(high, 10, 16)
	if err1 != nil || err2 != nil || first == 0 || last < first {
		return Ports{}, fmt.Errorf("ports %q: a range is FIRST-LAST, from 1 to 65535", text)
	}
	return Ports{uint16(first), uint16(last)}, nil
}

// UnmarshalText reads what [ParsePorts] reads.
func (p *Ports) UnmarshalText(text []byte) (err error) {
	*p, err = ParsePorts(string(text))
	return err
}

// LocalAddr is a local address of [FullNAT]: what a server sees in the client's place, and sends its answers to. Each of its ports
// serves one connection to each server and port.
type LocalAddr struct {
	Addr  netip.Addr
	Ports Ports
}

// LocalsPerPool is how many local addresses a service may have of its own, and all services may share in a family.
const LocalsPerPool = 256

// The reasons to refuse a change of local addresses.
const (
	ErrLocalExists Error = "Local address already exists"
	ErrNoLocal     Error = "No such local address"
	ErrLocalFamily Error = "A local address is of its service's family"
	ErrLocals      Error = "Too many local addresses" // more than LocalsPerPool
)

// pool gives the local addresses that a service has of its own, or, for nil, those that all share. It answers [ErrNotDefined].
func (t *Table) pool(svc *ServiceID) (*[]LocalAddr, error) {
	if svc == nil {
		return &t.Locals, nil
	}
	s := t.index[*svc]
	if s == nil {
		return nil, ErrNotDefined
	}
	return &s.Locals, nil
}

// AddLocal adds a local address to those of a service, or, if svc is nil, to those that all services without any of their own
// share. It answers [ErrNotDefined], [ErrLocalExists], [ErrLocalFamily], [ErrLocals], or [ErrInvalid] for an address that no host
// can have.
func (t *Table) AddLocal(svc *ServiceID, l LocalAddr) error {
	pool, err := t.pool(svc)
	if err != nil {
		return err
	}
	alike := 0
	for _, o := range *pool {
		if o.Addr == l.Addr {
			return ErrLocalExists
		}
		if o.Addr.Is4() == l.Addr.Is4() {
			alike++
		}
	}
	switch {
	case svc != nil && (svc.Family == IPv4) != l.Addr.Is4():
		return ErrLocalFamily
	case !canServe(l.Addr) || l.Ports.First == 0 || l.Ports.Last < l.Ports.First:
		return ErrInvalid
	case alike >= LocalsPerPool:
		return ErrLocals
	}
	*pool = withLocal(*pool, l)
	return nil
}

// withLocal is a pool with one more local address; those of IPv4 come first.
func withLocal(pool []LocalAddr, l LocalAddr) []LocalAddr {
	at := len(pool)
	if l.Addr.Is4() {
		for at = 0; at < len(pool) && pool[at].Addr.Is4(); at++ {
		}
	}
	return slices.Insert(slices.Clone(pool), at, l)
}

// DeleteLocal takes a local address away; connections that use it go on. It answers [ErrNotDefined] or [ErrNoLocal].
func (t *Table) DeleteLocal(svc *ServiceID, addr netip.Addr) error {
	pool, err := t.pool(svc)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(*pool, func(l LocalAddr) bool { return l.Addr == addr })
	if i < 0 {
		return ErrNoLocal
	}
	*pool = slices.Delete(slices.Clone(*pool), i, i+1)
	return nil
}

// followLocals makes a pool like want.
func followLocals(pool *[]LocalAddr, want []LocalAddr, prune bool) {
	if prune {
		*pool = slices.Clone(want)
		return
	}
	for _, w := range want {
		i := slices.IndexFunc(*pool, func(l LocalAddr) bool { return l.Addr == w.Addr })
		if i >= 0 {
			*pool = slices.Clone(*pool)
			(*pool)[i] = w
		} else {
			*pool = withLocal(*pool, w)
		}
	}
}
