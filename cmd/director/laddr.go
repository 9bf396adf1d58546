// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"text/tabwriter"

	"lvs"
)

type laddrVerb struct {
	Add  laddrAddVerb  `cmd:"" help:"Add local addresses: what servers see in the client's place with --fullnat."`
	Del  laddrDelVerb  `cmd:"" help:"Take local addresses away. Connections that use them go on."`
	List laddrListVerb `cmd:"" help:"Local addresses, and how full they are."`
}

// pool is whose local addresses are meant.
type pool struct {
	Service serviceFilter `placeholder:"SERVICE" help:"Of this service alone: ADDRESS:PORT, tcp/ADDRESS:PORT, fwmark/NUMBER. Otherwise of all services that have none of their own."`
}

// of finds the service; nil is all.
func (p pool) of(t *lvs.Table) (*lvs.ServiceID, error) {
	if p.Service == (serviceFilter{}) {
		return nil, nil
	}
	return p.Service.only(t)
}

type laddrAddVerb struct {
	pool
	Ports     lvs.Ports    `default:"${local_ports}" placeholder:"FIRST-LAST" help:"Ports for connections. The director's own connections use others unless told otherwise (ip_local_port_range)."`
	Addresses []netip.Addr `arg:"" name:"ADDRESS" help:"Addresses of the director, to which servers can send their answers."`
}

// Help is what --help adds.
func (laddrAddVerb) Help() string {
	return `With --fullnat (ipvsadm -a) a server sees a local address and port in the client's place, and may therefore be anywhere that
routing reaches, with any gateway. Each port of an address serves one connection to each server and port. To TCP servers the client's
address is told in an option (254), which 'director realserver start --mode fullnat' there gives to programs.

Examples:
  director laddr add 10.0.0.1
  director laddr add 10.0.0.5 10.0.0.6 --ports 1024-65535 --service 192.0.2.1:80`
}

// Run adds them, all or none.
func (v laddrAddVerb) Run() error {
	err := v.change(func(t *lvs.Table, svc *lvs.ServiceID) error {
		for _, a := range v.Addresses {
			if err := t.AddLocal(svc, lvs.LocalAddr{Addr: a.WithZone(""), Ports: v.Ports}); err != nil {
				return fmt.Errorf("%v: %w", a, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, a := range v.Addresses {
		if !isOwn(a) {
			fmt.Fprintf(os.Stderr, "director: %v is no address of this host: answers of servers come here only if it is (ip address add %v dev INTERFACE) or is routed here.\n", a, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return nil
}

// isOwn says whether an interface has the address.
func isOwn(a netip.Addr) bool {
	all, err := net.InterfaceAddrs()
	for _, one := range all {
		if n, ok := one.(*net.IPNet); ok && n.IP.Equal(a.AsSlice()) {
			return true
		}
	}
	return err != nil
}

func (p pool) change(change func(*lvs.Table, *lvs.ServiceID) error) error {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	return d.Update(func(t *lvs.Table) error {
		svc, err := p.of(t)
		if err != nil {
			return err
		}
		return change(t, svc)
	})
}

type laddrDelVerb struct {
	pool
	Addresses []netip.Addr `arg:"" name:"ADDRESS" help:"Local addresses."`
}

// Help is what --help adds.
func (laddrDelVerb) Help() string {
	return `Examples:
  director laddr del 10.0.0.1
  director laddr del 10.0.0.5 --service 192.0.2.1:80`
}

// Run takes them away, all or none.
func (v laddrDelVerb) Run() error {
	return v.change(func(t *lvs.Table, svc *lvs.ServiceID) error {
		for _, a := range v.Addresses {
			if err := t.DeleteLocal(svc, a.WithZone("")); err != nil {
				return fmt.Errorf("%v: %w", a, err)
			}
		}
		return nil
	})
}

type laddrListVerb struct {
	pool
	JSON bool `name:"json" help:"Print one JSON object a line for each local address."`
}

// Help is what --help adds.
func (laddrListVerb) Help() string {
	return `FULL is how many of the ports are in use towards the server that has most connections from the address: at 100%
connections to that server are refused, and counted under no_local_port by 'director status'.

Examples:
  director laddr list
  director laddr list --service 192.0.2.1:80 --json`
}

// localUse is how a local address is used.
type localUse struct {
	Address string  `json:"address"`
	Ports   string  `json:"ports"`
	Service string  `json:"service,omitempty"` // empty: shared
	Conns   int     `json:"conns"`
	Fullest string  `json:"fullest,omitempty"` // the server with most connections from here
	Full    float64 `json:"full"`              // the part of the ports in use towards it, up to 1
}

// Run lists.
func (v laddrListVerb) Run() error {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	t, err := d.Table()
	if err != nil {
		return err
	}
	only, err := v.of(t)
	if err != nil {
		return err
	}
	used, err := localsUsed(d)
	if err != nil {
		return err
	}
	var all []localUse
	if only == nil {
		for _, l := range t.Locals {
			all = append(all, used.of(l, ""))
		}
	}
	for _, s := range t.Services() {
		for _, l := range s.Locals {
			if only == nil || *only == s.ServiceID {
				all = append(all, used.of(l, name(s.ServiceID)))
			}
		}
	}
	if v.JSON {
		lines := json.NewEncoder(os.Stdout)
		for _, one := range all {
			if err := lines.Encode(one); err != nil {
				return err
			}
		}
		return nil
	}
	return printLocals(os.Stdout, all)
}

// localsInUse counts connections by local address and server.
type localsInUse map[netip.Addr]map[netip.AddrPort]int

func localsUsed(d lvs.Director) (localsInUse, error) {
	used := localsInUse{}
	for c, err := range d.Conns() {
		if err != nil {
			return nil, err
		}
		if !c.Local.IsValid() {
			continue
		}
		if used[c.Local.Addr()] == nil {
			used[c.Local.Addr()] = map[netip.AddrPort]int{}
		}
		used[c.Local.Addr()][c.Server]++
	}
	return used, nil
}

func (u localsInUse) of(l lvs.LocalAddr, service string) localUse {
	one := localUse{Address: l.Addr.String(), Ports: l.Ports.String(), Service: service}
	most := 0
	for server, n := range u[l.Addr] {
		one.Conns += n
		if n > most || n == most && server.String() < one.Fullest {
			most, one.Fullest = n, server.String()
		}
	}
	one.Full = min(1, float64(most)/float64(l.Ports.Count()))
	return one
}

func printLocals(out io.Writer, all []localUse) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "LOCAL ADDRESS\tPORTS\tSERVICE\tCONNS\tFULL\tTOWARDS")
	for _, l := range all {
		service, towards := l.Service, l.Fullest
		if service == "" {
			service = "all"
		}
		if towards == "" {
			towards = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%.0f%%\t%s\n", l.Address, l.Ports, service, l.Conns, 100*l.Full, towards)
	}
	return w.Flush()
}
