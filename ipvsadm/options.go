// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"math"
	"net/netip"
	"strings"

	"lvs"
)

const maxTimeout = 31 * 86400 // seconds

// options is the whole vocabulary. A short or long name that is asked for twice belongs to the first row.
var options = []option{
	{long: "add-service", short: 'A', verb: verbAdd},
	{long: "edit-service", short: 'E', verb: verbEdit},
	{long: "delete-service", short: 'D', verb: verbDelete},
	{long: "clear", short: 'C', verb: verbClear},
	{long: "list", short: 'L', verb: verbList},
	{long: "list", short: 'l', verb: verbList},
	{long: "zero", short: 'Z', verb: verbZero},
	{long: "add-server", short: 'a', verb: verbAddServer},
	{long: "edit-server", short: 'e', verb: verbEditServer},
	{long: "delete-server", short: 'd', verb: verbDeleteServer},
	{long: "set", verb: verbSet},
	{long: "help", short: 'h', verb: verbHelp},
	{long: "version", short: 'v', verb: verbVersion},
	{long: "restore", short: 'R', verb: verbRestore},
	{long: "save", short: 'S', verb: verbSave},
	{long: "start-daemon", verb: verbStartDaemon, takes: aValue, apply: daemonKind("start-daemon parameter")},
	{long: "stop-daemon", verb: verbStopDaemon, takes: aValue, apply: daemonKind("start_daemon")},

	{long: "tcp-service", short: 't', bit: optService, takes: aValue, apply: serviceOf(lvs.TCP)},
	{long: "udp-service", short: 'u', bit: optService, takes: aValue, apply: serviceOf(lvs.UDP)},
	{long: "sctp-service", bit: optService, takes: aValue, apply: serviceOf(lvs.SCTP)},
	{long: "fwmark-service", short: 'f', bit: optService, takes: aValue, apply: (*command).setMark},
	{long: "ipv6", short: '6', apply: (*command).setIPv6},

	{long: "scheduler", short: 's', bit: optScheduler, takes: aValue, apply: text(15, func(c *command) *string { return &c.config.Scheduler })},
	{long: "persistent", short: 'p', bit: optPersistent, takes: maybe, absent: "360", apply: (*command).setPersistent},
	{long: "netmask", short: 'M', bit: optNetmask, takes: aValue, apply: (*command).setNetmask},
	{long: "ops", short: 'o', bit: optOnePacket, apply: func(c *command, _ string) error { c.config.OnePacket = true; return nil }},
	{long: "pe", bit: optEngine, takes: aValue, apply: text(16, func(c *command) *string { return &c.config.PE })},
	{long: "sched-flags", short: 'b', bit: optSchedFlags, takes: aValue, apply: text(127, func(c *command) *string { return &c.schedFlags })},

	{long: "real-server", short: 'r', bit: optServer, takes: aValue, apply: (*command).setServer},
	{long: "masquerading", short: 'm', bit: optForward, apply: forward(lvs.Masq)},
	{long: "ipip", short: 'i', bit: optForward, apply: forward(lvs.Tunnel)},
	{long: "gatewaying", short: 'g', bit: optForward, apply: forward(lvs.Route)},
	{long: "fullnat", bit: optForward, apply: forward(lvs.FullNAT)},
	{long: "weight", short: 'w', bit: optWeight, takes: aValue, apply: number("weight", 0, math.MaxInt32, func(c *command, n int64) { c.serverConfig.Weight = int32(n) })},
	{long: "u-threshold", short: 'x', bit: optUpper, takes: aValue, apply: number("u_threshold", 0, math.MaxInt32, func(c *command, n int64) { c.serverConfig.Upper = uint32(n) })},
	{long: "l-threshold", short: 'y', bit: optLower, takes: aValue, apply: number("l_threshold", 0, math.MaxInt32, func(c *command, n int64) { c.serverConfig.Lower = uint32(n) })},
	{long: "tun-type", bit: optTunType, takes: aValue, apply: (*command).setTunnelType},
	{long: "tun-port", bit: optTunPort, takes: aValue, apply: number("tunnel port", 1, math.MaxUint16, func(c *command, n int64) { c.serverConfig.Tunnel.Port = uint16(n) })},
	{long: "tun-nocsum", bit: optTunNoCsum, apply: checksum(lvs.NoChecksum)},
	{long: "tun-csum", bit: optTunCsum, apply: checksum(lvs.FullChecksum)},
	{long: "tun-remcsum", bit: optTunRemCsum, apply: checksum(lvs.RemoteChecksum)},

	{long: "numeric", short: 'n', bit: optNumeric},
	{long: "connection", short: 'c', bit: optConnection},
	{long: "timeout", bit: optTimeout},
	{long: "daemon", bit: optDaemon},
	{long: "stats", bit: optStats},
	{long: "rate", bit: optRate},
	{long: "thresholds", bit: optThresholds},
	{long: "persistent-conn", bit: optPersistentConn},
	{long: "tun-info", bit: optTunInfo},
	{long: "nosort", bit: optNoSort},
	{long: "sort"},
	{long: "exact", short: 'X', bit: optExact},

	{long: "mcast-interface", bit: optInterface, takes: aValue, apply: text(15, func(c *command) *string { return &c.device })},
	{long: "syncid", bit: optSyncID, takes: aValue, apply: number("syncid", 0, 255, nil)},
	{long: "mcast-group", bit: optGroup, takes: aValue, apply: multicast},
	{long: "mcast-port", bit: optPort, takes: aValue, apply: number("mcast-port", 1, math.MaxUint16, nil)},
	{long: "mcast-ttl", bit: optTTL, takes: aValue, apply: number("mcast-ttl", 1, 255, nil)},
	{long: "sync-maxlen", bit: optMaxLen, takes: aValue, apply: number("sync-maxlen", 1, math.MaxUint16-20-8, nil)},
}

// text stores a value as it is, cut where the kernel's structures end.
func text(most int, field func(*command) *string) func(*command, string) error {
	return func(c *command, value string) error {
		*field(c) = value[:min(len(value), most)]
		return nil
	}
}

// number stores a decimal number; without a place to store it is only checked.
func number(what string, least, most int64, store func(*command, int64)) func(*command, string) error {
	return func(c *command, value string) error {
		n, ok := parseNumber(value)
		if !ok || n < least || n > most {
			return refuse("illegal %s specified", what)
		}
		if store != nil {
			store(c, n)
		}
		return nil
	}
}

func forward(f lvs.Forward) func(*command, string) error {
	return func(c *command, _ string) error {
		c.serverConfig.Forward = f
		return nil
	}
}

func checksum(k lvs.Checksum) func(*command, string) error {
	return func(c *command, _ string) error {
		c.serverConfig.Tunnel.Checksum = k
		return nil
	}
}

func serviceOf(p lvs.Protocol) func(*command, string) error {
	return func(c *command, value string) error {
		c.service.Protocol = p
		e, ok := c.names.endpoint(value, p)
		if !ok {
			return refuse("illegal virtual server address[:port] specified")
		}
		c.service.Addr, c.service.Family = e.addr, lvs.IPv4
		if e.hasPort {
			c.service.Port = e.port
		}
		if e.addr.Is6() {
			c.service.Family, c.config.Netmask = lvs.IPv6, 128
		}
		return nil
	}
}

func (c *command) setMark(value string) error {
	n, ok := parseNumber(value)
	if !ok || n <= 0 || n > math.MaxUint32 {
		return refuse("invalid fwmark value `%s' specified", value)
	}
	c.service.Mark, c.service.Family = uint32(n), lvs.IPv4
	return nil
}

func (c *command) setIPv6(string) error {
	if c.service.Mark == 0 {
		return refuse("-6 used before -f\n")
	}
	c.service.Family, c.config.Netmask = lvs.IPv6, 128
	return nil
}

func (c *command) setPersistent(value string) error {
	n, err := parseTimeout(value, 1)
	c.config.Persistent = n
	return err
}

func (c *command) setNetmask(value string) error {
	if c.service.Family == lvs.IPv6 {
		n := leadingNumber(value)
		if n < 1 || n > 128 {
			return refuse("illegal ipv6 netmask specified")
		}
		c.config.Netmask = uint32(n)
		return nil
	}
	mask, ok := c.names.host4(value)
	if !ok {
		return refuse("illegal virtual server persistent mask specified")
	}
	b := mask.As4()
	c.config.Netmask = uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	return nil
}

// setServer reads the server's address; a port that is left out is the one of the service, if that came first.
func (c *command) setServer(value string) error {
	p := c.service.Protocol
	if c.service.Mark != 0 {
		p = lvs.TCP
	}
	e, ok := c.names.endpoint(value, p)
	if !ok {
		return refuse("illegal real server address[:port] specified")
	}
	c.server = lvs.ServerID{Addr: e.addr, Port: c.service.Port}
	if e.hasPort {
		c.server.Port = e.port
	}
	return nil
}

func (c *command) setTunnelType(value string) error {
	for t, r := range tunnelRules {
		if r.name == value {
			c.serverConfig.Tunnel.Type = lvs.TunnelType(t)
			return nil
		}
	}
	return refuse("illegal tunnel type specified")
}

func daemonKind(what string) func(*command, string) error {
	return func(_ *command, value string) error {
		if value != "master" && value != "backup" {
			return refuse("illegal %s specified", what)
		}
		return nil
	}
}

func multicast(_ *command, value string) error {
	family := "IPv4"
	if strings.Contains(value, ":") {
		family = "IPv6"
	}
	addr, err := netip.ParseAddr(value)
	if err != nil || addr.Zone() != "" || !addr.IsMulticast() {
		return refuse("invalid %s mcast-group `%s'", family, value)
	}
	return nil
}

// schedFlag is a name that -b knows.
type schedFlag struct {
	name string
	only string // the scheduler that it belongs to, or "" for any
	flag lvs.SchedulerFlags
}

var schedFlags = []schedFlag{
	{"flag-1", "", lvs.SchedulerFlag1},
	{"flag-2", "", lvs.SchedulerFlag2},
	{"flag-3", "", lvs.SchedulerFlag3},
	{"sh-fallback", "sh", lvs.SchedulerFallback},
	{"sh-port", "sh", lvs.SchedulerPort},
	{"mh-fallback", "mh", lvs.SchedulerFallback},
	{"mh-port", "mh", lvs.SchedulerPort},
}

func parseSchedFlags(list, scheduler string) (lvs.SchedulerFlags, error) {
	var flags lvs.SchedulerFlags
next:
	for name := range strings.SplitSeq(list, ",") {
		if name == "" {
			continue
		}
		for _, f := range schedFlags {
			if f.name != name {
				continue
			}
			if f.only != "" && f.only != scheduler {
				return 0, refuse("incompatible scheduler flag `%s'", name)
			}
			flags |= f.flag
			continue next
		}
		return 0, refuse("invalid scheduler flag `%s'", name)
	}
	return flags, nil
}

// schedFlagNames gives the flags in the words of the scheduler; those that it has no word for are left out.
func schedFlagNames(flags lvs.SchedulerFlags, scheduler string) string {
	own := ""
	if scheduler == "sh" || scheduler == "mh" {
		own = scheduler
	}
	var names []string
	for _, f := range schedFlags {
		if f.only == own && flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ",")
}
