// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Settings are the switches of kernel IPVS (/proc/sys/net/ipv4/vs), with its names and meanings, and one of ours.
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
	NATICMPSend             uint32 // 1: a server with NAT hears of packets of it that belong to no connection
	OnDead                  OnDead // of services that have no policy of their own; ours
	PMTUDisc                uint32 // 1: a tunnel's packets may be fragmented only if what is inside may be
	ScheduleICMP            uint32 // 1: an ICMP error begins the connection that it is about
	SecureTCP               uint32 // a defence, too
	SloppySCTP              uint32 // 1: any chunk but an ABORT begins an SCTP connection
	SloppyTCP               uint32 // 1: any packet but a RST begins a TCP connection
}

// ReuseEnding is the bit of conn_reuse_mode that kernel IPVS does not have.
const ReuseEnding = 4

// KernelSettings are the defaults of kernel IPVS.
var KernelSettings = Settings{
	AMDropRate: 10, AMemThresh: 1024, ConnReuseMode: 1, LBLCExpiration: 86400, LBLCRExpiration: 86400, OnDead: OnDeadDrop, PMTUDisc: 1,
}

// DefaultSettings are those of kernel IPVS, but for some that are better otherwise; see [Settings.SetCompat].
var DefaultSettings = Settings{
	AMDropRate: 10, ConnReuseMode: ReuseEnding, DropEntry: 1, LBLCExpiration: 86400, LBLCRExpiration: 86400, OnDead: OnDeadReset, PMTUDisc: 1,
}

// SettingName is a setting by its name in the kernel.
type SettingName struct {
	Name  string
	Max   uint32   // of a number
	Words []string // what else it may be; the first one is 1
	About string
	field func(*Settings) *uint32
}

// SettingNames are all settings, by name.
var SettingNames = []SettingName{
	{Name: "am_droprate", Max: 1<<31 - 1, field: func(s *Settings) *uint32 { return &s.AMDropRate },
		About: "one in so many packets that begin a connection is dropped with drop_packet=3"},
	{Name: "amemthresh", Max: 1<<31 - 1, field: func(s *Settings) *uint32 { return &s.AMemThresh },
		About: "pages of the connection table, of 64 connections each: with less free, defences of 1 turn to 2; 0 is half of the table"},
	{Name: "conn_reuse_mode", Max: 7, field: func(s *Settings) *uint32 { return &s.ConnReuseMode },
		About: "when a SYN from a known client port begins a new connection: 0 never, 1 after TIME_WAIT or CLOSE, 2 or 3 also after a client's FIN whose answer is not seen, " +
			"4 after any FIN or RST, for persistent clients too, and always if the server is removed or of weight 0"},
	{Name: "drop_entry", Max: 3, field: func(s *Settings) *uint32 { return &s.DropEntry },
		About: "half-open connections are dropped from the table: 0 never, 1 and 2 while it has little room (2 is shown while it has), 3 always"},
	{Name: "drop_packet", Max: 3, field: func(s *Settings) *uint32 { return &s.DropPacket },
		About: "packets that begin connections are dropped, one in so many: 0 to 3 as for drop_entry"},
	{Name: "expire_nodest_conn", Max: 1, field: func(s *Settings) *uint32 { return &s.ExpireNodestConn },
		About: "1: a connection ends when its server is removed, whatever on_dead says, but not against a service's own --on-dead; 0: on_dead says what becomes of it"},
	{Name: "expire_quiescent_template", Max: 1, field: func(s *Settings) *uint32 { return &s.ExpireQuiescentTemplate },
		About: "1: a persistent client leaves a server of weight 0; 0: it stays there"},
	{Name: "lblc_expiration", Max: maxExpiration, field: func(s *Settings) *uint32 { return &s.LBLCExpiration },
		About: "seconds after which lblc forgets a destination that is not used"},
	{Name: "lblcr_expiration", Max: maxExpiration, field: func(s *Settings) *uint32 { return &s.LBLCRExpiration },
		About: "seconds after which lblcr takes the busiest server out of an unchanged set"},
	{Name: "nat_icmp_send", Max: 1, field: func(s *Settings) *uint32 { return &s.NATICMPSend },
		About: "1: a server of a service with -m whose packet belongs to no connection hears that the port is unreachable; 0: such packets are left alone"},
	{Name: "on_dead", Words: OnDeadNames, field: func(s *Settings) *uint32 { return (*uint32)(&s.OnDead) },
		About: "connections of a server that is removed, in services without --on-dead: keep them, drop their packets (as the kernel), reset them at both ends, or reschedule as well what " +
			"a server of weight 0 has of datagrams and persistent clients; datagrams go to another server with the last two"},
	{Name: "pmtu_disc", Max: 1, field: func(s *Settings) *uint32 { return &s.PMTUDisc },
		About: "1: what is too large for a tunnel and must not be fragmented is answered with its room; 0: the tunnel's packets are fragmented"},
	{Name: "schedule_icmp", Max: 1, field: func(s *Settings) *uint32 { return &s.ScheduleICMP },
		About: "1: an ICMP error about a connection that is not there begins it, for 3 s, where several directors have the same address; 0: it is left alone"},
	{Name: "secure_tcp", Max: 3, field: func(s *Settings) *uint32 { return &s.SecureTCP },
		About: "a TCP connection is established after the whole handshake, and not before: 0 to 3 as for drop_entry"},
	{Name: "sloppy_sctp", Max: 1, field: func(s *Settings) *uint32 { return &s.SloppySCTP },
		About: "1: any SCTP packet but an ABORT begins a connection; 0: only an INIT does"},
	{Name: "sloppy_tcp", Max: 1, field: func(s *Settings) *uint32 { return &s.SloppyTCP },
		About: "1: any packet but a RST begins a TCP connection; 0: only a SYN does"},
}

// maxExpiration keeps times in jiffies, of which there may be 1,000 a second, within 31 bits.
const maxExpiration = 1<<31/1000 - 1

// Setting finds a setting by its name.
func Setting(name string) (SettingName, error) {
	names := []string{"compat"}
	for _, n := range SettingNames {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return SettingName{}, fmt.Errorf("no setting is called %q; there are %s", name, strings.Join(names, ", "))
}

// Of gives the value of the setting.
func (n SettingName) Of(s Settings) uint32 { return *n.field(&s) }

// Text gives the value of the setting as [SettingName.Set] takes it.
func (n SettingName) Text(s Settings) string {
	v := n.Of(s)
	if v >= 1 && int(v) <= len(n.Words) {
		return n.Words[v-1]
	}
	return strconv.FormatUint(uint64(v), 10)
}

// Set changes the setting to a decimal number between 0 and its largest value, or to one of its words.
func (n SettingName) Set(s *Settings, value string) error {
	if n.Words != nil {
		i := slices.Index(n.Words, value)
		if i < 0 {
			return fmt.Errorf("%s=%s: the value is one of %s", n.Name, value, strings.Join(n.Words, ", "))
		}
		*n.field(s) = uint32(i + 1)
		return nil
	}
	v, err := strconv.ParseUint(value, 10, 32)
	if err != nil || v > uint64(n.Max) {
		return fmt.Errorf("%s=%s: the value is a number from 0 to %d", n.Name, value, n.Max)
	}
	*n.field(s) = uint32(v)
	return nil
}

// Asked are the settings as they were asked for: a defence that is ready is 1, be it on just now.
func (s Settings) Asked() Settings {
	for _, defence := range []*uint32{&s.DropEntry, &s.DropPacket, &s.SecureTCP} {
		if *defence == 2 {
			*defence = 1
		}
	}
	return s
}

// The values of compat, which stands for all settings whose defaults differ.
const (
	CompatDirector = "director"
	CompatKernel   = "kernel"
	compatMixed    = "mixed"
)

// Compat says whose defaults are in force where ours and those of kernel IPVS differ: director, kernel, or mixed.
func (s Settings) Compat() string {
	ours, kernels := true, true
	s = s.Asked()
	for _, n := range SettingNames {
		is, our, kernel := n.Of(s), n.Of(DefaultSettings), n.Of(KernelSettings)
		if our != kernel {
			ours, kernels = ours && is == our, kernels && is == kernel
		}
	}
	switch {
	case ours:
		return CompatDirector
	case kernels:
		return CompatKernel
	}
	return compatMixed
}

// SetCompat gives the settings whose defaults differ those of kernel IPVS, or ours again. The others stay as they are.
func (s *Settings) SetCompat(value string) error {
	to := map[string]Settings{CompatDirector: DefaultSettings, CompatKernel: KernelSettings}
	defaults, ok := to[value]
	if !ok {
		return fmt.Errorf("compat=%s: the value is %s or %s", value, CompatDirector, CompatKernel)
	}
	for _, n := range SettingNames {
		if n.Of(DefaultSettings) != n.Of(KernelSettings) {
			*n.field(s) = n.Of(defaults)
		}
	}
	return nil
}
