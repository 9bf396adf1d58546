// SPDX-License-Identifier: Apache-2.0

package sched

import "lvs"

// Limits are the thresholds of a server. Between them a server stays as it is: overloaded, or taking connections.
type Limits struct {
	Upper uint32 // connections at which the server is overloaded, 0 for no limit
	Lower uint32 // connections below which it is not any more, 0 for three quarters of Upper
}

// LimitsOf are the thresholds of a server's configuration.
func LimitsOf(c lvs.ServerConfig) Limits { return Limits{Upper: c.Upper, Lower: c.Lower} }

// Overloaded says whether a server with this many connections, of all kinds, is overloaded, given whether it was. It
// is asked anew when a connection has come or gone, and when the thresholds were edited.
func (l Limits) Overloaded(was bool, connections uint32) bool {
	lower := l.Lower
	if lower == 0 {
		lower = l.Upper - l.Upper/4
	}
	switch {
	case l.Upper == 0:
		return false
	case connections >= l.Upper:
		return true
	}
	return was && connections >= lower
}
