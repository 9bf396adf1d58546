// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"net/netip"

	"lvs"
)

func (s *session) list(c *command) error {
	switch {
	case c.has(optConnection):
		return s.listConns(c.given)
	case c.has(optService):
		return s.listService(c)
	case c.has(optTimeout):
		return s.listTimeouts()
	case c.has(optDaemon):
		return nil // there are none
	}
	return s.listAll(c.given)
}

func (s *session) printer(given set) *printer {
	return &printer{w: s.out, names: s.names, given: given}
}

// table reads the table as it is, or as the restore under way has it.
func (s *session) table() (*lvs.Table, error) {
	if s.pending != nil {
		return s.pending, nil
	}
	d, err := s.open(Read)
	if err != nil {
		return nil, err
	}
	return d.Table()
}

func (s *session) listAll(given set) error {
	t, err := s.table()
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "IP Virtual Server version %s (size=%d)\n", version, s.director.Size())
	services := t.Services()
	if given&optNoSort == 0 {
		services = sortedServices(services)
	}
	s.printer(given).services(services)
	return nil
}

func (s *session) listService(c *command) error {
	t, err := s.table()
	if err != nil {
		return err
	}
	service := t.Service(c.service)
	if service == nil {
		return &stop{code: exitMissing, text: lvs.ErrNoService.Error(), final: true}
	}
	s.printer(c.given).services([]*lvs.Service{service})
	return nil
}

// listLocals prints local addresses, with the connections that use them.
func (s *session) listLocals(c *command) error {
	t, err := s.table()
	if err != nil {
		return err
	}
	conns := map[netip.Addr]int{}
	for one, err := range s.director.Conns() {
		if err != nil {
			return err
		}
		conns[one.Local.Addr()]++
	}
	p := s.printer(c.given)
	fmt.Fprintf(p.w, "%-33s %-27s %-11s %s\n", "Prot LocalAddress:Port", "SourceAddress", "Ports", "Conns")
	row := func(name string, locals []lvs.LocalAddr) {
		for _, l := range locals {
			fmt.Fprintf(p.w, "%-33s %-27s %-11s %d\n", name, l.Addr, l.Ports, conns[l.Addr])
		}
	}
	if !c.has(optService) {
		row("all", t.Locals)
	}
	for _, v := range sortedServices(t.Services()) {
		if pool := c.pool(); pool == nil || *pool == v.ServiceID {
			row(p.serviceName(v.ServiceID), v.Locals)
		}
	}
	if pool := c.pool(); pool != nil && t.Service(*pool) == nil {
		return &stop{code: exitMissing, text: lvs.ErrNoService.Error(), final: true}
	}
	return nil
}

func (s *session) listTimeouts() error {
	t, err := s.table()
	if err != nil {
		return err
	}
	now := t.Timeouts.OrDefault()
	fmt.Fprintf(s.out, "Timeout (tcp tcpfin udp): %d %d %d\n", now.TCP, now.TCPFin, now.UDP)
	return nil
}

func (s *session) save(given set) error {
	t, err := s.table()
	if err != nil {
		return err
	}
	p := s.printer(given)
	p.locals(t.Locals)
	p.rules(sortedServices(t.Services()))
	return nil
}
