// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"maps"
	"slices"
	"time"

	"lvs"
	"lvs/sched"
)

type service struct {
	id        lvs.ServiceID
	config    lvs.ServiceConfig
	scheduler sched.Scheduler
	servers   []*server // newest first
	locals    []lvs.LocalAddr
	stats     lvs.Stats
}

type serverKey struct {
	service lvs.ServiceID
	server  lvs.ServerID
}

// grace is how long a server is remembered at least after it was removed, on a clock of whole seconds.
const grace = 2 * time.Second

// server outlives its removal, at least while it has connections: they go on when it is added again, and so do its numbers.
type server struct {
	serverKey
	config     lvs.ServerConfig
	lastWeight int32
	load       lvs.Load
	stats      lvs.Stats
	overloaded bool
	service    *service // nil while it is removed
	removed    time.Duration
	onDead     lvs.OnDead // of its service, while that is there
}

func (s *server) connections() uint32 { return s.load.Active + s.load.Inactive + s.load.Persistent }

// weigh sees whether the server is at its threshold, after its connections or thresholds have changed.
func (s *server) weigh() {
	s.overloaded = sched.LimitsOf(s.config).Overloaded(s.overloaded, s.connections())
}

// count counts a packet for a server and its service.
func (d *Director) count(r *server, packet func(*lvs.Stats)) {
	packet(&r.stats)
	if s := d.service(r.serverKey.service); s != nil {
		packet(&s.stats)
	}
}

func (s *server) row() sched.Server {
	return sched.Server{
		ID:         s.server,
		Weight:     s.config.Weight,
		LastWeight: s.lastWeight,
		Active:     s.load.Active,
		Inactive:   s.load.Inactive,
		Overloaded: s.overloaded,
	}
}

func (s *service) rows() []sched.Server {
	rows := make([]sched.Server, len(s.servers))
	for i, r := range s.servers {
		rows[i] = r.row()
	}
	return rows
}

func (s *service) report() *lvs.Service {
	r := &lvs.Service{ServiceID: s.id, ServiceConfig: s.config, Locals: s.locals, Stats: s.stats}
	for _, d := range s.servers {
		r.Servers = append(r.Servers, &lvs.Server{ServerID: d.server, ServerConfig: d.config, LastWeight: d.lastWeight, Load: d.load, Stats: d.stats})
	}
	return r
}

func (d *Director) service(id lvs.ServiceID) *service {
	for _, s := range d.services {
		if s.id == id {
			return s
		}
	}
	return nil
}

// commit puts a table in force. Schedulers are made first, since that is what can fail.
func (d *Director) commit(t *lvs.Table) error {
	fresh := map[lvs.ServiceID]sched.Scheduler{}
	for _, want := range t.Services() {
		s := d.service(want.ServiceID)
		if s != nil && s.config.Scheduler == want.Scheduler && s.config.SchedulerFlags == want.SchedulerFlags {
			continue
		}
		var rows []sched.Server
		if s != nil {
			rows = s.rows()
		}
		scheduler, err := sched.New(want.Scheduler, want.SchedulerFlags, rows)
		if err != nil {
			return err
		}
		fresh[want.ServiceID] = scheduler
	}

	d.timeouts, d.locals = t.Timeouts, t.Locals
	for _, l := range t.Locals {
		d.everLocal[l.Addr] = true
	}
	d.forget()
	for _, s := range d.present() {
		s.service, s.removed = nil, d.now.Truncate(time.Second)
	}
	var services []*service
	for _, want := range t.Services() {
		s := d.service(want.ServiceID)
		if s == nil {
			s = &service{id: want.ServiceID}
		}
		if f := fresh[want.ServiceID]; f != nil {
			s.scheduler = f
		}
		d.apply(s, want)
		services = append(services, s)
	}
	d.services = services
	d.endDeserted()
	return nil
}

func (d *Director) apply(s *service, want *lvs.Service) {
	before := s.rows()
	s.config, s.locals = want.ServiceConfig, want.Locals
	for _, l := range want.Locals {
		d.everLocal[l.Addr] = true
	}
	s.servers = nil
	if want.Zeroed {
		d.zero(s)
	}
	if want.Carried {
		s.stats = want.Stats
	}
	for _, w := range want.Servers {
		key := serverKey{s.id, w.ServerID}
		r := d.servers[key]
		if r == nil {
			r = &server{serverKey: key}
			d.servers[key] = r
		}
		added := !slices.ContainsFunc(before, func(b sched.Server) bool { return b.ID == w.ServerID })
		if added || w.Weight != 0 {
			r.lastWeight = w.Weight
		}
		r.config = w.ServerConfig
		if w.Carried {
			r.stats = w.Stats
		}
		r.weigh()
		r.service = s
		s.servers = append(s.servers, r)
	}
	for key, r := range d.servers {
		if key.service == s.id {
			r.onDead = want.OnDead
		}
	}
	after := s.rows()
	for i, w := range want.Servers {
		after[i].Edited = w.Edited
	}
	s.scheduler.Changed(before, after)
}

// zero lets the counters of a service and its servers start again, also of those that are removed.
func (d *Director) zero(s *service) {
	s.stats = lvs.Stats{}
	for key, r := range d.servers {
		if key.service == s.id {
			r.stats = lvs.Stats{}
		}
	}
}

// present gives the servers that are not removed.
func (d *Director) present() (servers []*server) {
	for _, s := range d.services {
		servers = append(servers, s.servers...)
	}
	return servers
}

// forget drops the servers that are removed, for a while now, and have no connections; and that no scheduler of its service has in mind.
func (d *Director) forget() {
	maps.DeleteFunc(d.servers, func(key serverKey, s *server) bool {
		return s.service == nil && s.connections() == 0 && d.now.Truncate(time.Second)-s.removed >= grace && !d.inMind(key)
	})
}

func (d *Director) inMind(key serverKey) bool {
	s := d.service(key.service)
	if s == nil {
		return false
	}
	l, ok := s.scheduler.(interface {
		Remembers(lvs.ServerID, sched.Request) bool
	})
	return ok && l.Remembers(key.server, sched.Request{Now: d.now, Lifetime: d.placeLife(s)})
}
