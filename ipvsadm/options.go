// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"math"

	"lvs"
)

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

	// not of the original: those of the patched ipvsadm that has FULLNAT
	{long: "add-laddr", short: 'P', verb: verbAddLocal},
	{long: "del-laddr", short: 'Q', verb: verbDeleteLocal},
	{long: "get-laddr", short: 'G', verb: verbListLocal},
	{long: "local-address", short: 'z', bit: optLocal, takes: aValue, apply: (*command).setLocal},
	{long: "local-ports", bit: optLocalPorts, takes: aValue, apply: (*command).setLocalPorts},

	{long: "tcp-service", short: 't', bit: optService, takes: aValue, apply: serviceOf(lvs.TCP)},
	{long: "udp-service", short: 'u', bit: optService, takes: aValue, apply: serviceOf(lvs.UDP)},
	{long: "sctp-service", bit: optService, takes: aValue, apply: serviceOf(lvs.SCTP)},
	{long: "fwmark-service", short: 'f', bit: optService, takes: aValue, apply: (*command).setMark},
	{long: "ipv6", short: '6', apply: (*command).setIPv6},

	{long: "scheduler", short: 's', bit: optScheduler, takes: aValue, apply: text(15, scheduler)},
	{long: "persistent", short: 'p', bit: optPersistent, takes: maybe, absent: "360", apply: (*command).setPersistent},
	{long: "netmask", short: 'M', bit: optNetmask, takes: aValue, apply: (*command).setNetmask},
	{long: "ops", short: 'o', bit: optOnePacket, apply: (*command).setOnePacket},
	{long: "pe", bit: optEngine, takes: aValue, apply: text(16, engine)},
	{long: "sched-flags", short: 'b', bit: optSchedFlags, takes: aValue, apply: text(127, flagList)},
	{long: "on-dead", bit: optOnDead, takes: aValue, apply: (*command).setOnDead}, // not of the original

	{long: "real-server", short: 'r', bit: optServer, takes: aValue, apply: (*command).setServer},
	{long: "masquerading", short: 'm', bit: optForward, apply: forward(lvs.Masq)},
	{long: "ipip", short: 'i', bit: optForward, apply: forward(lvs.Tunnel)},
	{long: "gatewaying", short: 'g', bit: optForward, apply: forward(lvs.Route)},
	{long: "fullnat", bit: optForward, apply: forward(lvs.FullNAT)},
	{long: "weight", short: 'w', bit: optWeight, takes: aValue, apply: number("weight", 0, math.MaxInt32, weight)},
	{long: "u-threshold", short: 'x', bit: optUpper, takes: aValue, apply: number("u_threshold", 0, math.MaxInt32, upper)},
	{long: "l-threshold", short: 'y', bit: optLower, takes: aValue, apply: number("l_threshold", 0, math.MaxInt32, lower)},
	{long: "tun-type", bit: optTunType, takes: aValue, apply: (*command).setTunnelType},
	{long: "tun-port", bit: optTunPort, takes: aValue, apply: number("tunnel port", 1, math.MaxUint16, tunnelPort)},
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

	{long: "mcast-interface", bit: optInterface, takes: aValue, apply: text(15, device)},
	{long: "syncid", bit: optSyncID, takes: aValue, apply: number("syncid", 0, 255, nil)},
	{long: "mcast-group", bit: optGroup, takes: aValue, apply: multicast},
	{long: "mcast-port", bit: optPort, takes: aValue, apply: number("mcast-port", 1, math.MaxUint16, nil)},
	{long: "mcast-ttl", bit: optTTL, takes: aValue, apply: number("mcast-ttl", 1, 255, nil)},
	{long: "sync-maxlen", bit: optMaxLen, takes: aValue, apply: number("sync-maxlen", 1, math.MaxUint16-20-8, nil)},
}
