// SPDX-License-Identifier: Apache-2.0

package lvs

import (
	"fmt"
	"slices"
)

// Follow makes the table like want and touches only what differs. A service or server that is the same stays as it is,
// one that is configured otherwise keeps its place, and new servers go to the head of their service's list, in the order
// in which want has them. What want does not have is removed if prune is set, and left alone otherwise. A time-out that is
// zero in want stays as it is. It answers an error of the rules only if want breaks them.
func (t *Table) Follow(want *Table, prune bool) error {
	t.SetTimeouts(want.Timeouts)
	followLocals(&t.Locals, want.Locals, prune)
	for _, w := range want.services {
		s := t.index[w.ServiceID]
		var err error
		switch {
		case s == nil:
			err = t.AddService(w.ServiceID, w.ServiceConfig)
			s = t.index[w.ServiceID]
		case s.ServiceConfig != w.ServiceConfig:
			err = t.EditService(w.ServiceID, w.ServiceConfig)
		}
		if err == nil {
			followLocals(&s.Locals, w.Locals, prune)
			err = t.followServers(s, w, prune)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", w.ServiceID, err)
		}
	}
	if prune {
		t.services = slices.DeleteFunc(t.services, func(s *Service) bool { return want.index[s.ServiceID] == nil })
		for id := range t.index {
			if want.index[id] == nil {
				delete(t.index, id)
			}
		}
	}
	return nil
}

func (t *Table) followServers(s, want *Service, prune bool) error {
	if prune {
		s.Servers = slices.DeleteFunc(s.Servers, func(d *Server) bool { return want.Server(d.ServerID) == nil })
	}
	for _, w := range slices.Backward(want.Servers) {
		d := s.Server(w.ServerID)
		var err error
		switch {
		case d == nil:
			err = t.AddServer(s.ServiceID, w.ServerID, w.ServerConfig)
		case d.ServerConfig != w.ServerConfig:
			err = t.EditServer(s.ServiceID, w.ServerID, w.ServerConfig)
		}
		if err != nil {
			return fmt.Errorf("%v: %w", w.ServerID, err)
		}
	}
	return nil
}
