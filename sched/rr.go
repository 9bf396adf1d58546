// SPDX-License-Identifier: Apache-2.0

package sched

// RR is round robin: each server in turn. The zero value begins at the head of the list.
type RR struct {
	Next int // index at which the search for a server begins, 0 to the number of servers
}

// Pick answers the next usable server and moves on. A search in vain moves nothing.
func (r *RR) Pick(servers []Server, _ Request) int {
	for n := range servers {
		if i := (r.Next + n) % len(servers); servers[i].usable() {
			r.Next = i + 1
			return i
		}
	}
	return -1
}

// Changed keeps the place behind the server that had the last turn, or, if that went, behind the one before it.
func (r *RR) Changed(before, after []Server) {
	at := kept(before, after)
	i := r.Next - 1
	for i >= 0 && at[i] < 0 {
		i--
	}
	r.Next = 0
	if i >= 0 {
		r.Next = at[i] + 1
	}
}
