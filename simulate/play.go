// SPDX-License-Identifier: Apache-2.0

package simulate

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"lvs"
	"lvs/sched"
)

// play is a service under one scheduler, with as much of a director as its loads need.
type play struct {
	Setup
	scheduler sched.Scheduler
	request   sched.Request
	servers   []sched.Server // newest first
	seats     []int32        // servers[i] has this seat
	at        []int32        // the index of a seat in servers, or -1
	seated    []*tally       // whose seat it is
	tallies   []tally        // in the order of weights
	began     time.Duration
	now       time.Duration
	open      endings // heap: connections that are open
	waiting   queue   // connections that are over
	clients   []client
	stays     [2]int // clients that came again: all, and those who had the same server
	refused   int
}

// A seat is a server's time in the list: one that is removed and comes back has another one. What is left of its
// connections is then not its load any more.
type ending struct {
	at     time.Duration
	seat   int32
	client int32
}

// tally is what becomes of a server. Its load is summed up over time.
type tally struct {
	conns  int
	active uint32
	peak   uint32
	since  time.Duration
	area   float64 // connections x seconds
	marked float64 // the area when the present part of the series began
	series []float32
}

// client is what is known about a client: the server that it had last, and its template.
type client struct {
	last    int32 // number of a server, or none
	seat    int32 // of the template
	conns   int32 // open ones of the template
	expires time.Duration
}

const none = -1

// parts is how many points a server's load over time has.
const parts = 150

// look is how many connections pass between two looks at the context.
const look = 1 << 14

func (s Setup) play(ctx context.Context, c Contender, done *atomic.Int64) (Result, error) {
	in := s.Load.source(s.Seed)
	p := &play{Setup: s, clients: make([]client, in.clients), tallies: make([]tally, len(s.Weights))}
	chance := rand.New(rand.NewPCG(s.Seed, 2))
	p.request.Random = chance.Uint32
	for i := range p.clients {
		p.clients[i] = client{last: none, seat: none}
	}
	for number, weight := range s.Weights {
		p.add(number, weight)
	}
	var err error
	if p.scheduler, err = sched.New(c.Scheduler, c.Flags, p.servers); err != nil {
		return Result{}, err
	}
	var conn Conn
	size, part, began := s.Load.size(), 0, time.Duration(0)
	for n := 0; in.next(&conn); n++ {
		if n == 0 {
			began = conn.At
			p.begin(began)
		}
		p.connect(&conn)
		if (n+1)*parts/size > part {
			part = (n + 1) * parts / size
			p.sample(&began)
		}
		if n%look == look-1 {
			done.Add(look)
			if ctx.Err() != nil {
				return Result{}, ctx.Err()
			}
		}
	}
	done.Add(int64(size % look))
	r := p.result(c)
	if len(s.Weights) > 1 {
		r.Leave, r.Return = p.leaveAndReturn(in)
	}
	return r, nil
}

// serverID is the address of a server, from 192.168.0.1:80 on.
func serverID(number int) lvs.ServerID {
	n := number + 1
	return lvs.ServerID{Addr: netip.AddrFrom4([4]byte{192, 168, byte(n >> 8), byte(n)}), Port: 80}
}

// add gives a server a seat at the head of the list.
func (p *play) add(number int, weight int32) {
	s := sched.Server{ID: serverID(number), Weight: weight, LastWeight: weight}
	p.servers = slices.Insert(p.servers, 0, s)
	p.seats = slices.Insert(p.seats, 0, int32(len(p.at)))
	p.at = append(p.at, 0)
	p.seated = append(p.seated, &p.tallies[number])
	p.arrange()
}

func (p *play) remove(i int) {
	p.at[p.seats[i]] = none
	p.servers = slices.Delete(p.servers, i, i+1)
	p.seats = slices.Delete(p.seats, i, i+1)
	p.arrange()
}

func (p *play) arrange() {
	for i, seat := range p.seats {
		p.at[seat] = int32(i)
	}
}

// number is the server at an index of the list.
func (p *play) number(i int) int32 {
	id := p.servers[i].ID.Addr.As4()
	return int32(id[2])<<8 + int32(id[3]) - 1
}

// begin sets the clock.
func (p *play) begin(at time.Duration) {
	p.began, p.now = at, at
	for i := range p.tallies {
		p.tallies[i].since = at
	}
}

// pass lets time pass: connections end.
func (p *play) pass(until time.Duration) {
	for len(p.open) > 0 && p.open[0].at <= until {
		e := p.open.pop()
		p.now = e.at
		p.clients[e.client].conns--
		if i := p.at[e.seat]; i >= 0 {
			p.seated[e.seat].move(e.at, -1)
			p.servers[i].Active--
			p.servers[i].Inactive++
			p.waiting.push(ending{at: e.at + p.TimeWait, seat: e.seat})
		}
		p.forget(e.at)
	}
	p.now = until
	p.forget(until)
}

// forget takes away inactive connections whose time is over.
func (p *play) forget(until time.Duration) {
	for p.waiting.len() > 0 && p.waiting.first().at <= until {
		if i := p.at[p.waiting.pop().seat]; i >= 0 {
			p.servers[i].Inactive--
		}
	}
}

// connect has a connection begin, and answers the number of its server, or none.
func (p *play) connect(c *Conn) int32 {
	p.pass(c.At)
	who := &p.clients[c.client]
	i := p.choose(who, c)
	if i < 0 {
		p.refused++
		return none
	}
	seat, number := p.seats[i], p.number(i)
	p.servers[i].Active++
	t := p.seated[seat]
	t.conns++
	t.move(c.At, 1)
	who.conns++
	who.seat = seat
	who.expires = c.At + p.Persistent
	if who.last != none {
		p.stays[0]++
		if who.last == number {
			p.stays[1]++
		}
	}
	who.last = number
	p.open.push(ending{c.At + c.Lasts, seat, c.client})
	return number
}

// choose gives the index of the server: the template's, while that lasts, or the scheduler's choice. A template goes on
// for as long as it has connections.
func (p *play) choose(who *client, c *Conn) int {
	if p.Persistent > 0 && who.seat != none && (c.At < who.expires || who.conns > 0) && p.at[who.seat] >= 0 {
		return int(p.at[who.seat])
	}
	p.request.Client, p.request.Virtual, p.request.Now = c.Client, c.Virtual, c.At
	return p.scheduler.Pick(p.servers, p.request)
}

// move changes a server's load.
func (t *tally) move(now time.Duration, by int) {
	t.area += float64(t.active) * (now - t.since).Seconds()
	t.since = now
	t.active = uint32(int(t.active) + by)
	t.peak = max(t.peak, t.active)
}

// sample ends a part of the series.
func (p *play) sample(began *time.Duration) {
	span := (p.now - *began).Seconds()
	for i := range p.tallies {
		t := &p.tallies[i]
		t.move(p.now, 0)
		mean := float32(t.active)
		if span > 0 {
			mean = float32((t.area - t.marked) / span)
		}
		t.series = append(t.series, mean)
		t.marked = t.area
	}
	*began = p.now
}

// leaveAndReturn has a server leave and come back, and each client come once more after each.
func (p *play) leaveAndReturn(in *source) (leave, back Move) {
	leaver := int32(p.Leaver - 1)
	if leaver < 0 {
		leaver = int32(len(p.Weights)) - 1
	}
	p.edit(func() {
		at := slices.IndexFunc(p.servers, func(s sched.Server) bool { return s.ID == serverID(int(leaver)) })
		if p.Quiesce {
			p.servers[at].Weight = 0
		} else {
			p.remove(at)
			p.tallies[leaver].active = 0
		}
	})
	leave = p.comeAgain(in, func(before, _ int32) bool { return before == leaver })
	p.edit(func() {
		at := slices.IndexFunc(p.servers, func(s sched.Server) bool { return s.ID == serverID(int(leaver)) })
		if at >= 0 {
			p.servers[at].Weight = p.Weights[leaver]
		} else {
			p.add(int(leaver), p.Weights[leaver])
		}
	})
	back = p.comeAgain(in, func(_, after int32) bool { return after == leaver })
	return leave, back
}

func (p *play) edit(change func()) {
	before := slices.Clone(p.servers)
	change()
	p.scheduler.Changed(before, p.servers)
}

// comeAgain has each client connect once more. Must tells of those that may be expected to change servers.
func (p *play) comeAgain(in *source, must func(before, after int32) bool) (m Move) {
	var c Conn
	for i := range p.clients {
		before := p.clients[i].last
		if before == none {
			continue
		}
		in.again(&c, i)
		after := p.connect(&c)
		m.Clients++
		switch {
		case after == none:
			m.Refused++
		case must(before, after):
			m.Expected++
		case after != before:
			m.Moved++
		}
	}
	return m
}
