// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"math"
	"net/netip"
	"strings"

	"lvs"
)

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

func scheduler(c *command) *string { return &c.config.Scheduler }
func engine(c *command) *string    { return &c.config.PE }
func flagList(c *command) *string  { return &c.schedFlags }
func device(c *command) *string    { return &c.device }

func weight(c *command, n int64)     { c.serverConfig.Weight = int32(n) }
func upper(c *command, n int64)      { c.serverConfig.Upper = uint32(n) }
func lower(c *command, n int64)      { c.serverConfig.Lower = uint32(n) }
func tunnelPort(c *command, n int64) { c.serverConfig.Tunnel.Port = uint16(n) }

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

func (c *command) setOnePacket(string) error {
	c.config.OnePacket = true
	return nil
}

func (c *command) setOnDead(value string) error {
	policy, ok := lvs.ParseOnDead(value)
	if !ok {
		return refuse("illegal on-dead policy specified: %s", strings.Join(lvs.OnDeadNames, ", "))
	}
	c.config.OnDead = policy
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

func (c *command) setLocal(value string) error {
	addr, err := netip.ParseAddr(value)
	if err != nil || addr.Zone() != "" {
		return refuse("illegal local address specified")
	}
	c.local.Addr = addr
	return nil
}

func (c *command) setLocalPorts(value string) (err error) {
	if c.local.Ports, err = lvs.ParsePorts(value); err != nil {
		return refuse("illegal local ports specified: %v", err)
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
