// SPDX-License-Identifier: Apache-2.0

package dataplane

import "lvs"

const rateUnit, rateBytesUnit = 1 << 10, 1 << 5

// rates gives what an estimate says, rounded as kernel IPVS does.
func (e *bpfEstimate) rates() lvs.Rates {
	if e.Restart != 0 {
		return lvs.Rates{}
	}
	per := func(n, unit uint64) uint64 { return (n + unit/2 - 1) / unit }
	return lvs.Rates{
		CPS: per(e.Rate.Conns, rateUnit), InPPS: per(e.Rate.InPackets, rateUnit), OutPPS: per(e.Rate.OutPackets, rateUnit),
		InBPS: per(e.Rate.InBytes, rateBytesUnit), OutBPS: per(e.Rate.OutBytes, rateBytesUnit),
	}
}

// restart lets the rates begin at zero with what comes from now on. The timer, which may be at work on them, clears the mark.
func (e *bpfEstimate) restart() { e.Restart = 1 }
