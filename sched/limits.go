// SPDX-License-Identifier: Apache-2.0

package sched

import "lvs"

// Limits are the thresholds of a server. Between them a server stays as it is: full, or taking connections. The
// kernel looks at them only when a connection comes or goes, and when they are edited.
type Limits struct {
	Upper uint32 // connections at which the server is full, 0 for no limit
	Lower uint32 // connections below which it is not full any more, 0 for three quarters of Upper
}

// LimitsOf are the thresholds of a server's configuration.
func LimitsOf(c lvs.ServerConfig) Limits { return Limits{Upper: c.Upper, Lower: c.Lower} }

// Came says whether the server is overloaded now that it has this many connections, the new one included.
func (l Limits) Came(overloaded bool, connections uint32) bool {
	return overloaded || l.Upper != 0 && connections >= l.Upper
}

// Went says whether the server still is overloaded now that it has this many connections, the last one gone.
func (l Limits) Went(overloaded bool, connections uint32) bool {
	switch {
	case l.Lower != 0:
		return overloaded && connections >= l.Lower
	case l.Upper != 0:
		return overloaded && uint64(connections)*4 >= uint64(l.Upper)*3
	}
	return false
}

// Edited says whether the server still is overloaded after its thresholds were l and became to: a limit that is
// raised or taken away lets it take connections at once.
func (l Limits) Edited(overloaded bool, to Limits) bool {
	return overloaded && to.Upper != 0 && to.Upper <= l.Upper
}
