// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"io/fs"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"lvs"
)

func (s *bpfSetting) public() lvs.Settings {
	return lvs.Settings{
		AMDropRate: s.AmDroprate, AMemThresh: s.Amemthresh, DropEntry: s.DropEntry, DropPacket: s.DropPacket, SecureTCP: s.SecureTcp, SloppySCTP: s.SloppySctp,
		ConnReuseMode: s.ConnReuseMode, ExpireNodestConn: s.ExpireNodestConn, ExpireQuiescentTemplate: s.ExpireQuiescentTemplate,
		LBLCExpiration: s.LblcExpiration, LBLCRExpiration: s.LblcrExpiration, SloppyTCP: s.SloppyTcp, PMTUDisc: s.PmtuDisc, OnDead: lvs.OnDead(s.OnDead),
		NATICMPSend: s.NatIcmpSend, ScheduleICMP: s.ScheduleIcmp,
	}
}

func (s *bpfSetting) setPublic(to lvs.Settings) {
	s.ConnReuseMode, s.ExpireNodestConn, s.ExpireQuiescentTemplate = to.ConnReuseMode, to.ExpireNodestConn, to.ExpireQuiescentTemplate
	s.LblcExpiration, s.LblcrExpiration, s.SloppyTcp, s.PmtuDisc = to.LBLCExpiration, to.LBLCRExpiration, to.SloppyTCP, to.PMTUDisc
	s.SloppySctp, s.OnDead = to.SloppySCTP, uint32(to.OnDead)
	s.NatIcmpSend, s.ScheduleIcmp = to.NATICMPSend, to.ScheduleICMP
	s.AmDroprate, s.Amemthresh, s.DropEntry, s.DropPacket, s.SecureTcp = to.AMDropRate, to.AMemThresh, to.DropEntry, to.DropPacket, to.SecureTCP
}

// Settings reads the settings; where nothing is loaded they are the defaults.
func (d *Director) Settings() (lvs.Settings, error) {
	in, done, err := d.reading(unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return lvs.DefaultSettings, nil
	}
	if err != nil {
		return lvs.Settings{}, err
	}
	defer done()
	s, err := in.settings()
	return s.public(), err
}

// Set changes settings, all at once. It loads the instance if there is none.
func (d *Director) Set(change func(*lvs.Settings) error) error {
	in, err := d.loaded()
	if err != nil {
		return err
	}
	defer in.close()
	s, err := in.settings()
	if err != nil {
		return err
	}
	public := s.public()
	if err := change(&public); err != nil {
		return err
	}
	s.setPublic(public)
	if err := in.putSettings(s); err != nil {
		return err
	}
	return in.followReals()
}

// expireDeserted ends the connections and templates of servers that were removed, where the settings say so. The sweep takes them
// out; until then they are past their time. A connection that is missed ends with its next packet. Templates come last: one whose time is
// over when it still has connections goes on for a while.
func (in *instance) expireDeserted() error {
	s, err := in.settings()
	if err != nil || s.ExpireNodestConn == 0 {
		return err
	}
	table, err := in.entries()
	if err != nil {
		return err
	}
	now := jiffies(in.hz)
	for _, kind := range []uint8{kindPlain, kindTemplate, kindLost} {
		for at, e := range table.all() {
			if e.Kind != kind || int(e.Server) >= len(in.servers) {
				continue
			}
			if d := &in.servers[e.Server]; bpfSlotUse(d.Use) == bpfSlotUseSLOT_REMOVED && d.OnDead == uint32(lvs.OnDeadUnset) {
				atomic.StoreUint32(&table.lines[at].Expires, now)
			}
		}
	}
	return nil
}
