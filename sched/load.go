// SPDX-License-Identifier: Apache-2.0

package sched

import (
	"math/rand/v2"
	"slices"
)

// choice is a scheduler that remembers nothing: loads, weights and chance decide.
type choice func(servers []Server, r Request) int

func (c choice) Pick(servers []Server, r Request) int { return c(servers, r) }

func (choice) Changed(_, _ []Server) {}

var byLoad = map[string]choice{
	"lc":   leastBy(func(s, least *Server) bool { return s.overhead() < least.overhead() }),
	"wlc":  leastLoad,
	"sed":  leastDelay,
	"nq":   neverQueue,
	"fo":   leastBy(func(s, best *Server) bool { return s.Weight > best.Weight }),
	"ovf":  overflow,
	"twos": twos,
}

var leastLoad, leastDelay = leastBy(lessLoaded), leastBy(shorterDelay)

// leastBy picks the first usable server that no other is before.
func leastBy(before func(s, least *Server) bool) choice {
	return func(servers []Server, _ Request) int {
		least := -1
		for i := range servers {
			if servers[i].usable() && (least < 0 || before(&servers[i], &servers[least])) {
				least = i
			}
		}
		return least
	}
}

// lessLoaded compares overhead by weight, without the division.
func lessLoaded(s, least *Server) bool {
	return s.overhead()*int64(least.Weight) < least.overhead()*int64(s.Weight)
}

// shorterDelay compares how long a connection would wait: those that are open and the new one, by weight.
func shorterDelay(s, least *Server) bool {
	return (int64(s.Active)+1)*int64(least.Weight) < (int64(least.Active)+1)*int64(s.Weight)
}

// Cost is what a scheduler compares of a server, the least of which has the turn, if it is one that compares loads and
// the server one that takes connections.
func Cost(scheduler string, s *Server) (cost float64, compared bool) {
	overhead, weight := float64(s.overhead()), float64(s.Weight)
	switch {
	case !s.usable():
		return 0, false
	case scheduler == "lc":
		return overhead, true
	case scheduler == "sed", scheduler == "nq" && s.Active > 0:
		return (float64(s.Active) + 1) / weight, true
	case scheduler == "nq":
		return 0, true
	case slices.Contains([]string{"wlc", "lblc", "lblcr", "twos"}, scheduler):
		return overhead / weight, true
	}
	return 0, false
}

func neverQueue(servers []Server, r Request) int {
	for i := range servers {
		if servers[i].usable() && servers[i].Active == 0 {
			return i
		}
	}
	return leastDelay(servers, r)
}

// overflow is fo among the servers that have no more open connections than weight.
func overflow(servers []Server, _ Request) int {
	best := -1
	for i := range servers {
		s := &servers[i]
		if s.usable() && int64(s.Active) <= int64(s.Weight) && (best < 0 || s.Weight > servers[best].Weight) {
			best = i
		}
	}
	return best
}

// twos draws two servers by weight, and takes the less loaded one.
func twos(servers []Server, r Request) int {
	var total uint32
	for i := range servers {
		if servers[i].usable() {
			total += uint32(servers[i].Weight)
		}
	}
	if total == 0 {
		return -1
	}
	random := r.Random
	if random == nil {
		random = rand.Uint32
	}
	// The kernel draws from 0 to the total inclusive, so that the first server has one chance more than its weight.
	first := drawn(servers, random()%(total+1))
	second := drawn(servers, random()%(total+1))
	if lessLoaded(&servers[second], &servers[first]) {
		return second
	}
	return first
}

// drawn is the usable server in whose share of the weights the number falls.
func drawn(servers []Server, number uint32) int {
	for i := range servers {
		if !servers[i].usable() {
			continue
		}
		if number <= uint32(servers[i].Weight) {
			return i
		}
		number -= uint32(servers[i].Weight)
	}
	return -1
}
