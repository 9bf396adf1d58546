// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import "lvs"

// set is a set of options, in the order in which the rules of a command are checked.
type set uint64

const (
	optNumeric set = 1 << iota
	optConnection
	optService
	optScheduler
	optPersistent
	optNetmask
	optServer
	optForward
	optWeight
	optUpper
	optLower
	optInterface
	optTimeout
	optDaemon
	optStats
	optRate
	optThresholds
	optPersistentConn
	optNoSort
	optSyncID
	optExact
	optOnePacket
	optEngine
	optSchedFlags
	optGroup
	optPort
	optTTL
	optMaxLen
	optTunInfo
	optTunType
	optTunPort
	optTunNoCsum
	optTunCsum
	optTunRemCsum
	optLocal
	optLocalPorts
	optOnDead

	optsTunnel = optTunType | optTunPort | optTunNoCsum | optTunCsum | optTunRemCsum
)

// optionNames are what messages call the options, by bit.
var optionNames = [...]string{"numeric", "connection", "service-address", "scheduler", "persistent", "netmask",
	"real-server", "forwarding-method", "weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon",
	"stats", "rate", "thresholds", "persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags",
	"mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen", "tun-info", "tun-type", "tun-port", "tun-nocsum",
	"tun-csum", "tun-remcsum", "local-address", "local-ports", "on-dead"}

// rule says which options may go with a command or with a type of tunnel.
type rule struct {
	name   string
	needs  set
	allows set
	oneOf  set // allowed, but at most one of them
}

type verb uint8

const (
	verbNone verb = iota
	verbAdd
	verbEdit
	verbDelete
	verbClear
	verbList
	verbAddServer
	verbDeleteServer
	verbEditServer
	verbSet
	verbStartDaemon
	verbStopDaemon
	verbRestore
	verbSave
	verbZero
	verbAddLocal
	verbDeleteLocal
	verbListLocal
	verbHelp
	verbVersion
)

const (
	serviceOptions = optScheduler | optPersistent | optNetmask | optOnePacket | optEngine | optSchedFlags | optOnDead
	serverOptions  = optForward | optWeight | optUpper | optLower | optsTunnel
	listOptions    = optNumeric | optStats | optRate | optThresholds | optPersistentConn | optNoSort | optSyncID |
		optExact | optTunInfo
	daemonOptions = optInterface | optSyncID | optGroup | optPort | optTTL | optMaxLen
)

var verbRules = [...]rule{
	verbAdd:          {name: "add-service", needs: optService, allows: serviceOptions},
	verbEdit:         {name: "edit-service", needs: optService, allows: serviceOptions},
	verbDelete:       {name: "delete-service", needs: optService},
	verbClear:        {name: "flush"},
	verbList:         {name: "list", allows: listOptions, oneOf: optConnection | optService | optTimeout | optDaemon},
	verbAddServer:    {name: "add-server", needs: optService | optServer, allows: serverOptions},
	verbDeleteServer: {name: "delete-server", needs: optService | optServer},
	verbEditServer:   {name: "edit-server", needs: optService | optServer, allows: serverOptions},
	verbSet:          {name: "set"},
	verbStartDaemon:  {name: "start-daemon", allows: daemonOptions},
	verbStopDaemon:   {name: "stop-daemon", allows: optSyncID},
	verbRestore:      {name: "restore"},
	verbSave:         {name: "save", allows: optNumeric},
	verbZero:         {name: "zero", allows: optService},
	verbAddLocal:     {name: "add-laddr", needs: optLocal, allows: optService | optLocalPorts},
	verbDeleteLocal:  {name: "del-laddr", needs: optLocal, allows: optService},
	verbListLocal:    {name: "get-laddr", allows: optService | optNumeric},
}

var tunnelRules = [...]rule{
	lvs.IPIP: {name: "ipip"},
	lvs.GUE:  {name: "gue", needs: optTunPort, oneOf: optTunNoCsum | optTunCsum | optTunRemCsum},
	lvs.GRE:  {name: "gre", oneOf: optTunNoCsum | optTunCsum},
}

// check holds the options given against the rule, in the order of the options; of what is a "command" or a
// "tunnel type". Only the options in domain are looked at.
func (r rule) check(given, domain set, of string) error {
	chosen := ""
	for i, name := range optionNames {
		bit := set(1) << i
		switch {
		case bit&domain == 0:
		case bit&given == 0:
			if bit&r.needs != 0 {
				return refuse("You need to supply the '%s' option for the '%s' %s", name, r.name, of)
			}
		case bit&(r.needs|r.allows|r.oneOf) == 0:
			return refuse("Illegal '%s' option with the '%s' %s", name, r.name, of)
		case bit&r.oneOf != 0:
			if chosen != "" {
				return refuse("The option '%s' conflicts with the '%s' option in the '%s' %s", name, chosen, r.name, of)
			}
			chosen = name
		}
	}
	return nil
}
