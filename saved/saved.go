// SPDX-License-Identifier: Apache-2.0

// Package saved is the format of the files that carry a director's connections to another one: a JSON object a line. The first one
// names the format and its version; then come the settings, rules, as ipvsadm-save writes them, what services and servers have counted,
// templates, connections, and the count of both, without which a file is not whole. Files of version 1 have neither settings nor counters.
package saved

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"lvs"
)

// Format and Version stand in the first line.
const (
	Format  = "connections"
	Version = 2
)

// Counts is what a file has.
type Counts struct {
	Templates int `json:"templates"`
	Conns     int `json:"conns"`
}

// Counters are what a service has counted, or one of its servers.
type Counters struct {
	Service lvs.ServiceID
	Server  *lvs.ServerID // nil for the service's own
	Stats   lvs.Stats
}

// line is one of a file; one field is there.
type line struct {
	Director string            `json:"director"` // the format
	Version  int               `json:"version"`  // with it
	Settings map[string]string `json:"settings"` // those that are not at their default
	Rule     string            `json:"rule"`
	Counted  *counted          `json:"counted"`
	Template *template         `json:"template"`
	Conn     *conn             `json:"conn"`
	End      *Counts           `json:"end"`
}

// fields are what connections and templates have in common.
type fields struct {
	Service  string         `json:"service"`
	Server   netip.AddrPort `json:"server"` // as the service has it
	Protocol string         `json:"protocol"`
	Virtual  netip.AddrPort `json:"virtual"`
	Expires  float64        `json:"expires"` // seconds from now
	Age      *uint32        `json:"age"`     // seconds, where connections are accounted
}

// counts is what a connection has carried.
type counts struct {
	InPackets  uint64 `json:"in_packets"`
	OutPackets uint64 `json:"out_packets"`
	InBytes    uint64 `json:"in_bytes"`
	OutBytes   uint64 `json:"out_bytes"`
}

// counted is what a service has counted, or one of its servers.
type counted struct {
	Service string          `json:"service"`
	Server  *netip.AddrPort `json:"server,omitempty"`
	Conns   uint64          `json:"conns"`
	counts
}

type template struct {
	fields
	Number  uint32     `json:"number"`
	Client  netip.Addr `json:"client"` // a network
	Timeout uint32     `json:"timeout"`
	Assured bool       `json:"assured"`
	Conns   uint32     `json:"conns"`
	Call    string     `json:"call"` // a Call-ID; its bytes as the first 256 characters
}

type conn struct {
	fields
	Client   netip.AddrPort `json:"client"`
	Forward  string         `json:"forward"`
	State    string         `json:"state"`
	Local    netip.AddrPort `json:"local"` // with fullnat
	Template *uint32        `json:"template"`
	Flags    []string       `json:"flags"`
	Counts   *counts        `json:"counts"` // with age
}

var protocols = map[string]lvs.Protocol{"tcp": lvs.TCP, "udp": lvs.UDP, "sctp": lvs.SCTP, "ip": 0}

var forwards = map[string]lvs.Forward{}

func init() {
	for f := lvs.Route; f <= lvs.FullNAT; f++ {
		forwards[strings.ToLower(f.String())] = f
	}
}

var flags = []struct {
	name string
	flag lvs.EntryFlags
}{{"no_output", lvs.NoOutput}, {"same_port", lvs.SamePort}, {"assured", lvs.Assured}, {"told", lvs.Told}, {"answered", lvs.Answered}, {"disowned", lvs.Disowned}}

// maxCall is the length of the longest Call-ID that is kept.
const maxCall = 255

var errField = errors.New("not a value that can be")

func wrong(field string, value any) error { return fmt.Errorf("%s %v: %w", field, value, errField) }

// of sets what all entries have.
func (e *fields) of(to *lvs.Entry) (err error) {
	if to.Service, err = parseService(e.Service); err != nil {
		return err
	}
	protocol, ok := protocols[e.Protocol]
	switch {
	case !ok || to.Service.Mark == 0 && protocol != to.Service.Protocol:
		return wrong("protocol", e.Protocol)
	case !plain(e.Server.Addr()):
		return wrong("server", e.Server)
	case !plain(e.Virtual.Addr()):
		return wrong("virtual", e.Virtual)
	case !(e.Expires >= 0.001 && e.Expires <= lvs.MaxExpires.Seconds()):
		return wrong("expires", e.Expires)
	}
	if e.Age != nil {
		to.Accounted, to.Age = true, time.Duration(*e.Age)*time.Second
	}
	to.Protocol, to.Virtual, to.ServerID = protocol, e.Virtual, lvs.ServerID{Addr: e.Server.Addr(), Port: e.Server.Port()}
	to.Expires = time.Duration(e.Expires*1000+0.5) * time.Millisecond
	return nil
}

func (c *counted) read() (Counters, error) {
	service, err := parseService(c.Service)
	if err != nil {
		return Counters{}, err
	}
	to := Counters{Service: service, Stats: c.stats()}
	to.Stats.Conns = c.Conns
	if c.Server != nil {
		if !plain(c.Server.Addr()) {
			return Counters{}, wrong("server", c.Server)
		}
		to.Server = &lvs.ServerID{Addr: c.Server.Addr(), Port: c.Server.Port()}
	}
	return to, nil
}

func (c counts) stats() lvs.Stats {
	return lvs.Stats{InPackets: c.InPackets, OutPackets: c.OutPackets, InBytes: c.InBytes, OutBytes: c.OutBytes}
}

func countsOf(s lvs.Stats) counts { return counts{s.InPackets, s.OutPackets, s.InBytes, s.OutBytes} }

// settingsOf are the defaults with some changed.
func settingsOf(changed map[string]string) (s lvs.Settings, err error) {
	s = lvs.DefaultSettings
	for name, value := range changed {
		n, err := lvs.Setting(name)
		if err != nil {
			return s, err
		}
		if err := n.Set(&s, value); err != nil {
			return s, err
		}
	}
	return s, nil
}

// plain says whether an address is one that packets have.
func plain(a netip.Addr) bool { return a.IsValid() && a.Zone() == "" && !a.Is4In6() }

func (t *template) read() (*lvs.Entry, error) {
	e := &lvs.Entry{Number: t.Number, Timeout: t.Timeout, Conns: t.Conns, Controller: lvs.NoTemplate}
	e.Template = true
	if err := t.of(e); err != nil {
		return nil, err
	}
	switch {
	case !plain(t.Client) || t.Client.Is4() != e.Virtual.Addr().Is4():
		return nil, wrong("client", t.Client)
	case t.Number == lvs.NoTemplate:
		return nil, wrong("number", t.Number)
	case t.Timeout == 0 || float64(t.Timeout) > lvs.MaxExpires.Seconds():
		return nil, wrong("timeout", t.Timeout)
	}
	e.Client = netip.AddrPortFrom(t.Client, 0)
	if t.Assured {
		e.State = lvs.TemplateAssured
	}
	if t.Call != "" {
		var id []byte
		for _, r := range t.Call {
			if r == 0 || r > 0xff || len(id) == maxCall {
				return nil, wrong("call", strconv.Quote(t.Call))
			}
			id = append(id, byte(r))
		}
		e.PE, e.PEData = "sip", string(id)
	}
	return e, nil
}

func (c *conn) read() (*lvs.Entry, error) {
	e := &lvs.Entry{Controller: lvs.NoTemplate}
	if err := c.of(e); err != nil {
		return nil, err
	}
	var known, isState bool
	e.Client, e.Local = c.Client, c.Local
	e.Forward, known = forwards[c.Forward]
	e.State, isState = lvs.StateNamed(e.Protocol, c.State)
	family := e.Virtual.Addr().Is4()
	switch {
	case e.Protocol == 0:
		return nil, wrong("protocol", c.Protocol)
	case !plain(c.Client.Addr()) || c.Client.Addr().Is4() != family:
		return nil, wrong("client", c.Client)
	case !known:
		return nil, wrong("forward", c.Forward)
	case !isState:
		return nil, wrong("state", c.State)
	case c.Local.IsValid() != (e.Forward == lvs.FullNAT),
		c.Local.IsValid() && (!plain(c.Local.Addr()) || c.Local.Port() == 0 || c.Local.Addr().Is4() != family):
		return nil, wrong("local", c.Local)
	}
	if c.Counts != nil {
		if !e.Accounted {
			return nil, wrong("counts", "without age")
		}
		e.Stats = c.Counts.stats()
	}
	for _, name := range c.Flags {
		before := e.Flags
		for _, f := range flags {
			if f.name == name {
				e.Flags |= f.flag
			}
		}
		if e.Flags == before {
			return nil, wrong("flags", name)
		}
	}
	if c.Template != nil {
		if e.Controller = *c.Template; e.Controller == lvs.NoTemplate {
			return nil, wrong("template", *c.Template)
		}
	}
	return e, nil
}

// parseService reads tcp/ADDRESS:PORT and the like, or fwmark/NUMBER, with " ipv6" behind it if it is one of IPv6.
func parseService(s string) (id lvs.ServiceID, err error) {
	kind, rest, _ := strings.Cut(s, "/")
	if kind == "fwmark" {
		number, six := strings.CutSuffix(rest, " ipv6")
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != number {
			return id, wrong("service", s)
		}
		id.Mark, id.Family = uint32(n), lvs.IPv4
		if six {
			id.Family = lvs.IPv6
		}
		return id, nil
	}
	protocol := protocols[kind]
	addr, err := netip.ParseAddrPort(rest)
	if err != nil || protocol == 0 || addr.Addr().Zone() != "" || addr.String() != rest {
		return id, wrong("service", s)
	}
	id = lvs.ServiceID{Family: lvs.IPv4, Protocol: protocol, Addr: addr.Addr(), Port: addr.Port()}
	if addr.Addr().Is6() {
		id.Family = lvs.IPv6
	}
	return id, nil
}

func appendService(b []byte, id lvs.ServiceID) []byte {
	if id.Mark != 0 {
		b = strconv.AppendUint(append(b, "fwmark/"...), uint64(id.Mark), 10)
		if id.Family == lvs.IPv6 {
			b = append(b, " ipv6"...)
		}
		return b
	}
	b = append(append(b, protocolName(id.Protocol)...), '/')
	return netip.AddrPortFrom(id.Addr, id.Port).AppendTo(b)
}

func protocolName(p lvs.Protocol) string {
	for name, q := range protocols {
		if p == q {
			return name
		}
	}
	return "unknown"
}
