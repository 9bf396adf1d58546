// SPDX-License-Identifier: Apache-2.0

// Package sched has the schedulers of IPVS in plain Go: which server of a service a new connection goes to. It is
// their definition, and the source of the tables and numbers that the eBPF program reads. What a scheduler remembers
// is a plain value; an edit of the service moves it by a method that both this package and the data plane call.
package sched

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"lvs"
)

// Server is what a scheduler sees of a real server. A slice of them is in the kernel's order: the newest first.
type Server struct {
	ID         lvs.ServerID
	Weight     int32  // 0 takes no new connections
	LastWeight int32  // the last weight that was not 0; 0 if there was none since the server was added
	Active     uint32 // connections, as in [lvs.Load]
	Inactive   uint32
	Overloaded bool // at its threshold ([Limits])
	Edited     bool // configured anew, even if with the same values; only [Scheduler.Changed] looks at it
}

// usable is the rule of all schedulers but for hashes, which find out later: weight 0 and overload are left out.
func (s *Server) usable() bool { return s.Weight > 0 && !s.Overloaded }

// overhead is the load of a server as lc, wlc, lblc, lblcr and twos see it: ip_vs_dest_conn_overhead.
func (s *Server) overhead() int64 { return int64(s.Active)<<8 + int64(s.Inactive) }

// Request is a new connection that needs a server.
type Request struct {
	Client   netip.AddrPort
	Virtual  netip.AddrPort // the destination of its first packet, which a service by mark does not name
	Now      time.Duration  // the time, on any clock that does not go back
	Lifetime time.Duration  // how long lblc and lblcr remember; 0 is [LocalityLifetime], less is not at all
	Random   func() uint32  // where chance comes from; nil is the runtime's source
}

// Scheduler picks servers for one service, one call at a time.
type Scheduler interface {
	// Pick answers the index of the server for a new connection, or -1 if none can take it. The caller tells of
	// every change of membership, order and weights by Changed; loads and overload change as they like.
	Pick(servers []Server, r Request) int
	// Changed moves what the scheduler remembers from one list of servers to the next. The kernel knows only single
	// edits, so a list that differs in several is taken as deletions, then new weights, then additions, oldest first.
	Changed(before, after []Server)
}

// New makes the scheduler of a service that has these servers already. It answers [lvs.ErrNoScheduler].
func New(name string, flags lvs.SchedulerFlags, servers []Server) (Scheduler, error) {
	if pick, ok := byLoad[name]; ok {
		return pick, nil
	}
	var s Scheduler
	switch name {
	case "rr":
		s = &RR{}
	case "wrr":
		return NewWRR(servers), nil
	case "sh":
		s = newSourceHash(flags)
	case "dh":
		s = newDestinationHash()
	case "mh":
		s = newMaglev(flags)
	case "lblc", "lblcr":
		s = newLocality(name == "lblcr")
	default:
		return nil, fmt.Errorf("scheduler %q: %w", name, lvs.ErrNoScheduler)
	}
	s.Changed(nil, servers)
	return s, nil
}

// kept gives the place in after of each server of before, or -1 for one that went. Since new servers come to the
// head, a server that has moved to the front of older ones was deleted and added again.
func kept(before, after []Server) []int {
	at := make([]int, len(before))
	i := len(after) - 1
	for j := len(before) - 1; j >= 0; j-- {
		at[j] = -1
		if i >= 0 && before[j].ID == after[i].ID {
			at[j], i = i, i-1
		}
	}
	return at
}

// edits gives the lists that lie between before and after when each differs from the last in one edit; after itself is
// the last of them. There are none if nothing was edited.
func edits(before, after []Server) [][]Server {
	var lists [][]Server
	list := slices.Clone(before)
	at := kept(before, after)
	for j := len(at) - 1; j >= 0; j-- {
		if at[j] < 0 {
			list = slices.Delete(slices.Clone(list), j, j+1)
			lists = append(lists, list)
		}
	}
	added := len(after) - len(list)
	for i := range list {
		if s := after[added+i]; s.Edited || s.Weight != list[i].Weight {
			list = slices.Clone(list)
			list[i] = s
			lists = append(lists, list)
		}
	}
	for i := added - 1; i >= 0; i-- {
		lists = append(lists, after[i:])
	}
	return lists
}
