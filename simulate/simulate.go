// SPDX-License-Identifier: Apache-2.0

// Package simulate plays a described load through the schedulers of IPVS, to see how they differ: what share of the
// connections each server has and how busy that keeps it, and how many clients change servers when one leaves. It
// decides nothing itself: whoever picks is package sched.
package simulate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lvs"
)

// Setup is what is simulated.
type Setup struct {
	Weights    []int32       // one for each server, the first one added first
	Load       Load          // the connections
	TimeWait   time.Duration // how long a connection that is over counts as inactive
	Persistent time.Duration // time-out of templates, 0 for no persistence
	Leaver     int           // the number of the server that leaves and comes back, from 1; 0 is the last one
	Quiesce    bool          // it leaves by weight 0, and is not removed
	Seed       uint64
}

// Contender is a scheduler with its flags.
type Contender struct {
	Scheduler string
	Flags     lvs.SchedulerFlags
}

// String gives the scheduler in the form "sh", or "sh port,fallback" with flags.
func (c Contender) String() string {
	var words []string
	for _, f := range flagWords {
		if c.Flags&f.flag != 0 {
			words = append(words, f.word)
		}
	}
	return strings.TrimSpace(c.Scheduler + " " + strings.Join(words, ","))
}

var flagWords = []struct {
	word string
	flag lvs.SchedulerFlags
}{{"port", lvs.SchedulerPort}, {"fallback", lvs.SchedulerFallback}}

// Contenders reads names of schedulers, "all" among them, and flags such as sh-port, which go to the scheduler that they
// are named after. An error begins with the name of what is wrong, as that of [Setup.Check] does.
func Contenders(names, flags []string) (list []Contender, err error) {
	for _, name := range names {
		switch {
		case name == "all":
			names = lvs.Schedulers
		case !slices.Contains(lvs.Schedulers, name):
			return nil, fmt.Errorf("schedulers: %q is none: there are all, %s", name, strings.Join(lvs.Schedulers, ", "))
		}
	}
	for _, name := range names {
		list = append(list, Contender{Scheduler: name})
	}
flags:
	for _, name := range flags {
		scheduler, word, _ := strings.Cut(name, "-")
		for _, f := range flagWords {
			if f.word != word || scheduler != "sh" && scheduler != "mh" {
				continue
			}
			at := slices.IndexFunc(list, func(c Contender) bool { return c.Scheduler == scheduler })
			if at < 0 {
				return nil, fmt.Errorf("flags: %q, but %s is not among the schedulers", name, scheduler)
			}
			list[at].Flags |= f.flag
			continue flags
		}
		return nil, fmt.Errorf("flags: %q is none: there are sh-port, sh-fallback, mh-port and mh-fallback", name)
	}
	return list, nil
}

// The bounds of a simulation: more than anybody needs, and less than fills a machine's memory.
const (
	maxServers = 4096
	maxClients = 1 << 24
	maxConns   = 1 << 30
	maxWeight  = 65535
)

// Check says what cannot be simulated, beginning with the name of what is wrong: "clients: ...".
func (s Setup) Check() error {
	for _, n := range []struct {
		name            string
		is, least, most int
	}{
		{"weights, of which there are", len(s.Weights), 1, maxServers},
		{"leave", s.Leaver, 0, len(s.Weights)},
		{"time-wait", int(s.TimeWait), 0, math.MaxInt},
		{"persistent", int(s.Persistent), 0, math.MaxInt},
		{"conns", s.Load.size(), 1, maxConns},
		{"clients", s.Load.Clients, 1, maxClients},
		{"destinations", s.Load.Destinations, 1, maxDestinations},
	} {
		drawn := n.name == "clients" || n.name == "destinations"
		switch {
		case n.is >= n.least && n.is <= n.most || drawn && s.Load.Replay != nil:
		case n.most == math.MaxInt:
			return fmt.Errorf("%s: a time is not negative", n.name)
		default:
			return fmt.Errorf("%s: %d, and it can be %d to %d", n.name, n.is, n.least, n.most)
		}
	}
	switch {
	case slices.Min(s.Weights) < 0 || slices.Max(s.Weights) > maxWeight:
		return fmt.Errorf("weights: a weight is 0 to %d", maxWeight)
	case slices.Max(s.Weights) == 0:
		return errors.New("weights: one server at least needs more than 0")
	}
	return nil
}

// Run plays the same load through each scheduler. Done, which may be nil, counts the connections that have been played.
// Results are in the order of the contenders.
func (s Setup) Run(ctx context.Context, list []Contender, done *atomic.Int64) ([]Result, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	if done == nil {
		done = new(atomic.Int64)
	}
	results := make([]Result, len(list))
	failures := make([]error, len(list))
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(list)) {
		workers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				results[i], failures[i] = s.play(ctx, list[i], done)
			}
		})
	}
	workers.Wait()
	return results, errors.Join(failures...)
}

// Total is how many connections a Run of so many contenders has to play, but for those of clients when a server leaves.
func (s Setup) Total(contenders int) int64 { return int64(s.Load.size()) * int64(contenders) }
