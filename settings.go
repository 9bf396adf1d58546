// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"fmt"
	"strconv"
	"strings"
)

// Settings are the switches of kernel IPVS (/proc/sys/net/ipv4/vs), with its names and meanings.
type Settings struct {
	AMDropRate              uint32 // drop_packet=3 drops one in so many
	AMemThresh              uint32 // pages of the table: with less free, the defences that are ready turn on; 0 is half of it
	ConnReuseMode           uint32 // what a SYN does to an entry of the same client port: see [SettingNames]
	DropEntry               uint32 // a defence: 0 off, 1 ready, 2 ready and on just now, 3 always on
	DropPacket              uint32 // another
	ExpireNodestConn        uint32 // 1: a connection ends with its server
	ExpireQuiescentTemplate uint32 // 1: a template ends when its server has weight 0
	LBLCExpiration          uint32 // seconds that lblc remembers an unused destination
	LBLCRExpiration         uint32 // seconds after which lblcr takes a server out of a destination's set
	PMTUDisc                uint32 // 1: a tunnel's packets may be fragmented only if what is inside may be
	SecureTCP               uint32 // a defence, too
	SloppySCTP              uint32 // 1: any chunk but an ABORT begins an SCTP connection
	SloppyTCP               uint32 // 1: any packet but a RST begins a TCP connection
}

// DefaultSettings are those of kernel IPVS, but for drop_entry, which is 0 there, and amemthresh, which is 1024.
var DefaultSettings = Settings{
	AMDropRate: 10, ConnReuseMode: 1, DropEntry: 1, LBLCExpiration: 86400, LBLCRExpiration: 86400, PMTUDisc: 1,
}

// SettingName is a setting by its name in the kernel.
type SettingName struct {
	Name  string
	Max   uint32
	About string
	field func(*Settings) *uint32
}

// SettingNames are all settings, by name.
var SettingNames = []SettingName{
	{"am_droprate", 1<<31 - 1, "one in so many packets that begin a connection is dropped with drop_packet=3",
		func(s *Settings) *uint32 { return &s.AMDropRate }},
	{"amemthresh", 1<<31 - 1, "pages of the connection table, of 64 connections each: with less free, defences of 1 turn to 2; 0 is half of the table",
		func(s *Settings) *uint32 { return &s.AMemThresh }},
	{"conn_reuse_mode", 3, "when a SYN from a known client port begins a new connection: 0 never, 1 after TIME_WAIT or CLOSE, 2 or 3 also after a client's FIN whose answer is not seen",
		func(s *Settings) *uint32 { return &s.ConnReuseMode }},
	{"drop_entry", 3, "half-open connections are dropped from the table: 0 never, 1 and 2 while it has little room (2 is shown while it has), 3 always",
		func(s *Settings) *uint32 { return &s.DropEntry }},
	{"drop_packet", 3, "packets that begin connections are dropped, one in so many: 0 to 3 as for drop_entry",
		func(s *Settings) *uint32 { return &s.DropPacket }},
	{"expire_nodest_conn", 1, "1: a connection ends when its server is removed; 0: its packets are dropped until the server comes back",
		func(s *Settings) *uint32 { return &s.ExpireNodestConn }},
	{"expire_quiescent_template", 1, "1: a persistent client leaves a server of weight 0; 0: it stays there",
		func(s *Settings) *uint32 { return &s.ExpireQuiescentTemplate }},
	{"lblc_expiration", maxExpiration, "seconds after which lblc forgets a destination that is not used",
		func(s *Settings) *uint32 { return &s.LBLCExpiration }},
	{"lblcr_expiration", maxExpiration, "seconds after which lblcr takes the busiest server out of an unchanged set",
		func(s *Settings) *uint32 { return &s.LBLCRExpiration }},
	{"pmtu_disc", 1, "1: what is too large for a tunnel and must not be fragmented is answered with its room; 0: the tunnel's packets are fragmented",
		func(s *Settings) *uint32 { return &s.PMTUDisc }},
	{"secure_tcp", 3, "a TCP connection is established after the whole handshake, and not before: 0 to 3 as for drop_entry",
		func(s *Settings) *uint32 { return &s.SecureTCP }},
	{"sloppy_sctp", 1, "1: any SCTP packet but an ABORT begins a connection; 0: only an INIT does",
		func(s *Settings) *uint32 { return &s.SloppySCTP }},
	{"sloppy_tcp", 1, "1: any TCP packet but a RST begins a connection; 0: only a SYN does",
		func(s *Settings) *uint32 { return &s.SloppyTCP }},
}

// maxExpiration keeps times in jiffies, of which there may be 1,000 a second, within 31 bits.
const maxExpiration = 1<<31/1000 - 1

// Setting finds a setting by its name.
func Setting(name string) (SettingName, error) {
	for _, n := range SettingNames {
		if n.Name == name {
			return n, nil
		}
	}
	var names []string
	for _, n := range SettingNames {
		names = append(names, n.Name)
	}
	return SettingName{}, fmt.Errorf("no setting is called %q; there are %s", name, strings.Join(names, ", "))
}

// Of gives the value of the setting.
func (n SettingName) Of(s Settings) uint32 { return *n.field(&s) }

// Set changes the setting to a decimal number between 0 and its largest value.
func (n SettingName) Set(s *Settings, value string) error {
	v, err := strconv.ParseUint(value, 10, 32)
	if err != nil || v > uint64(n.Max) {
		return fmt.Errorf("%s=%s: the value is a number from 0 to %d", n.Name, value, n.Max)
	}
	*n.field(s) = uint32(v)
	return nil
}
