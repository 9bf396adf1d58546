// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"lvs"
)

// How long lblc and lblcr remember a destination address. The kernel looks for old ones once a minute or every half
// hour; here they count as forgotten at once.
const (
	LocalityLimit    = 16 << 10        // addresses, above which those that are idle go early
	LocalityIdle     = 6 * time.Minute // what idle means then
	LocalityLifetime = 24 * time.Hour  // unless a request says otherwise: an address unused for so long is forgotten; a set unchanged for so long shrinks
)

// locality keeps a destination address on the same server, or set of servers: lblc and lblcr.
type locality struct {
	replicate bool // lblcr
	places    map[netip.Addr]*place
	swept     time.Duration
}

// place is where an address is served.
type place struct {
	servers  []lvs.ServerID // lblcr: the newest member first
	used     time.Duration
	modified time.Duration
}

func newLocality(replicate bool) *locality {
	return &locality{replicate: replicate, places: map[netip.Addr]*place{}}
}

// Changed moves nothing: servers are remembered by name, and one that comes back is the one it was.
func (*locality) Changed(_, _ []Server) {}

func (l *locality) Pick(servers []Server, r Request) int {
	lifetime := cmp.Or(r.Lifetime, LocalityLifetime)
	l.sweep(r.Now, lifetime)
	address := r.Virtual.Addr()
	p := l.places[address]
	if p != nil && r.Now >= p.used+l.life(lifetime) {
		p = nil
	}
	if p != nil {
		p.used = r.Now
		i := l.known(servers, p, r.Now, lifetime)
		if i >= 0 && !crowded(servers, i) {
			return i
		}
	}
	i := leastLoad(servers, r)
	if i < 0 {
		return -1
	}
	id := servers[i].ID
	switch {
	case p == nil:
		l.places[address] = &place{servers: []lvs.ServerID{id}, used: r.Now, modified: r.Now}
	case !l.replicate:
		p.servers[0] = id
	case !slices.Contains(p.servers, id):
		p.servers = slices.Insert(p.servers, 0, id)
		p.modified = r.Now
	}
	return i
}

// Remembers says whether a server is one of those for an address that was used not longer ago than the request's lifetime.
func (l *locality) Remembers(id lvs.ServerID, r Request) bool {
	life := l.life(cmp.Or(r.Lifetime, LocalityLifetime))
	for _, p := range l.places {
		if r.Now < p.used+life && slices.Contains(p.servers, id) {
			return true
		}
	}
	return false
}

// known is the server for an address that has a place already, or -1 if none of its servers can take more. lblc stays
// with its server even at the threshold.
func (l *locality) known(servers []Server, p *place, now, lifetime time.Duration) int {
	least, most := -1, -1
	for _, id := range p.servers {
		i := slices.IndexFunc(servers, func(s Server) bool { return s.ID == id })
		if i < 0 || servers[i].Weight <= 0 {
			continue
		}
		if (!l.replicate || !servers[i].Overloaded) && (least < 0 || lessLoaded(&servers[i], &servers[least])) {
			least = i
		}
		if most < 0 || lessLoaded(&servers[most], &servers[i]) {
			most = i
		}
	}
	if len(p.servers) > 1 && now > p.modified+lifetime && most >= 0 {
		p.servers = slices.DeleteFunc(p.servers, func(id lvs.ServerID) bool { return id == servers[most].ID })
		p.modified = now
	}
	return least
}

// crowded says that a server has more open connections than weight while another has less than half of its own.
func crowded(servers []Server, i int) bool {
	return int64(servers[i].Active) > int64(servers[i].Weight) && slices.ContainsFunc(servers, func(s Server) bool {
		return int64(s.Active)*2 < int64(s.Weight)
	})
}

// life is how long an address is remembered.
func (l *locality) life(lifetime time.Duration) time.Duration {
	if len(l.places) > LocalityLimit {
		return min(lifetime, LocalityIdle)
	}
	return lifetime
}

func (l *locality) sweep(now, lifetime time.Duration) {
	if now < l.swept+time.Minute {
		return
	}
	l.swept = now
	life := l.life(lifetime)
	for a, p := range l.places {
		if now >= p.used+life {
			delete(l.places, a)
		}
	}
}
