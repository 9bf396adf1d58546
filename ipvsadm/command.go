// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"

	"lvs"
)

// The exit codes. A help text and a success are 0.
const (
	exitMissing = 1   // what was to be listed is not there
	exitRefused = 2   // ipvsadm itself refuses
	exitError   = 255 // the table refuses, or the command line cannot be read
)

// stop is how a command ends that does not succeed.
type stop struct {
	code  int
	text  string // for standard error, without the last newline
	final bool   // ends a restore, too
}

func (s *stop) Error() string { return s.text }

func refuse(format string, args ...any) error {
	return &stop{code: exitRefused, text: fmt.Sprintf(format, args...), final: true}
}

// command is a command line that has been read.
type command struct {
	names        *names
	verb         verb
	given        set
	service      lvs.ServiceID
	config       lvs.ServiceConfig
	schedFlags   string
	server       lvs.ServerID
	serverConfig lvs.ServerConfig
	timeouts     lvs.Timeouts
	local        lvs.LocalAddr
	device       string // of a sync daemon
}

// parse reads a command line, whose first word is the program's name. Its options take effect in the order
// in which they are written.
func parse(argv []string, n *names) (*command, error) {
	c := &command{names: n, serverConfig: lvs.ServerConfig{Weight: 1}, config: lvs.ServiceConfig{Netmask: math.MaxUint32},
		local: lvs.LocalAddr{Ports: lvs.DefaultLocalPorts}}
	w := &words{argv: argv[1:]}
	o, value, err := w.option()
	if err != nil || o == nil || o.verb == verbNone {
		return nil, tryHelp(argv[0])
	}
	c.verb = o.verb
	if o.apply != nil {
		if err := o.apply(c, value); err != nil {
			return nil, err
		}
	}
	if c.verb == verbHelp || c.verb == verbVersion {
		return c, nil
	}
	for {
		o, value, err := w.option()
		if err != nil {
			return nil, err
		}
		if o == nil {
			break
		}
		if o.verb != verbNone {
			return nil, refuse("invalid option `%s'", w.last())
		}
		if err := c.option(o, value); err != nil {
			return nil, err
		}
	}
	if err := c.arguments(w.rest); err != nil {
		return nil, err
	}
	if c.config.SchedulerFlags, err = parseSchedFlags(c.schedFlags, cmp.Or(c.config.Scheduler, defaultScheduler)); err != nil {
		return nil, err
	}
	if local := c.verb == verbAddLocal || c.verb == verbDeleteLocal; local && c.given == 0 {
		return nil, tryHelp(argv[0]) // as the original, which does not know the letter
	}
	return c, c.check()
}

func tryHelp(program string) error {
	return &stop{code: exitError, final: true,
		text: fmt.Sprintf("Try `%s -h' or '%s --help' for more information.", program, program)}
}

func (c *command) option(o *option, value string) error {
	if c.given&o.bit != 0 {
		return refuse("multiple '%s' options specified", optionNames[bits.TrailingZeros64(uint64(o.bit))])
	}
	c.given |= o.bit
	if o.apply == nil {
		return nil
	}
	return o.apply(c, value)
}

// arguments reads the words that are no options: only --set has any.
func (c *command) arguments(rest []string) error {
	if c.verb == verbSet {
		if len(rest) < 3 {
			return refuse("--set option requires 3 timeout values")
		}
		for i, t := range []*uint32{&c.timeouts.TCP, &c.timeouts.TCPFin, &c.timeouts.UDP} {
			var err error
			if *t, err = parseTimeout(rest[i], 0); err != nil {
				return err
			}
		}
		rest = rest[3:]
	}
	if len(rest) > 0 {
		return refuse("unexpected argument %s", rest[0])
	}
	return nil
}

const defaultScheduler = "wlc"

// check applies the rules that hold for a command as a whole, and what follows from them.
func (c *command) check() error {
	if err := verbRules[c.verb].check(c.given, ^set(0), "command"); err != nil {
		return err
	}
	switch c.verb {
	case verbAdd, verbEdit:
		return c.checkService()
	case verbAddServer, verbEditServer:
		return c.checkServer()
	case verbList:
		tables := optStats | optRate | optThresholds
		if c.has(optConnection|optTimeout|optDaemon) && c.has(tables) ||
			c.has(optTimeout|optDaemon) && c.has(optPersistentConn) {
			return refuse("options conflicts in the list command")
		}
	}
	return nil
}

func (c *command) checkService() error {
	if c.service.Mark == 0 && c.service.Port == 0 && !c.has(optPersistent) {
		return refuse("Zero port specified for non-persistent service")
	}
	if c.config.OnePacket && c.service.Mark == 0 && c.service.Protocol != lvs.UDP {
		return refuse("One-Packet Scheduling is only for UDP virtual services")
	}
	c.config.Scheduler = cmp.Or(c.config.Scheduler, defaultScheduler)
	return nil
}

func (c *command) checkServer() error {
	f := c.serverConfig.Forward
	if c.service.Mark == 0 && (f == lvs.Tunnel || f == lvs.Route) {
		c.server.Port = c.service.Port // these methods leave the packet's port as it is
	}
	if c.server.Addr.Is4() != (c.service.Family == lvs.IPv4) && f != lvs.Tunnel {
		return refuse("Different address family is allowed only for tunneling servers")
	}
	if c.has(optsTunnel) && f != lvs.Tunnel {
		return refuse("Tunnel options conflict with forward method")
	}
	return tunnelRules[c.serverConfig.Tunnel.Type].check(c.given, optsTunnel&^optTunType, "tunnel type")
}

// has tells whether one of the options was given.
func (c *command) has(any set) bool { return c.given&any != 0 }
