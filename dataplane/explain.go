// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"lvs"
	"lvs/sched"
)

// Question is a packet whose fate is asked for.
type Question struct {
	Protocol lvs.Protocol
	From, To netip.AddrPort
	Mark     uint32 // that the firewall gives it
	Flags    string // of TCP: letters of SAFR
}

// Explanation is what the program would do with a packet now, and why.
type Explanation struct {
	Fate      string      `json:"fate"`              // one of the below
	Reason    string      `json:"reason,omitempty"`  // as in [Status], if it is not forwarded
	Meaning   string      `json:"meaning,omitempty"` // of the reason
	Interface string      `json:"interface"`         // that it comes in by, or, if it is the director's own, goes out by
	Service   string      `json:"service,omitempty"`
	Scheduler string      `json:"scheduler,omitempty"`
	By        string      `json:"by,omitempty"` // what names the server: one of the below
	Conn      *lvs.Conn   `json:"-"`            // the connection, if By says so
	Template  *lvs.Conn   `json:"-"`            // the client's, if it has one
	Servers   []Candidate `json:"servers,omitempty"`
	Hop       *Hop        `json:"hop,omitempty"`
	Before    []string    `json:"before"` // the packet's headers, outermost first
	After     []string    `json:"after,omitempty"`
	Notes     []string    `json:"notes,omitempty"`
}

// What becomes of a packet.
const (
	Forwarded = "forwarded"
	Delivered = "delivered to the director itself"
	Answered  = "answered with an ICMP error"
	Dropped   = "dropped"
	Reset     = "reset: both ends of its connection are told"
	Left      = "left to the kernel"
)

// What names the server.
const (
	ByConn      = "connection"
	ByTemplate  = "template"
	ByScheduler = "scheduler"
)

// Candidate is a server of the service, as the scheduler sees it.
type Candidate struct {
	Server     string   `json:"server"`
	Forward    string   `json:"forward"`
	Weight     int32    `json:"weight"`
	Active     uint32   `json:"active"`
	Inactive   uint32   `json:"inactive"`
	Overloaded bool     `json:"overloaded,omitempty"`
	Cost       *float64 `json:"cost,omitempty"` // what the scheduler compares, if it compares loads: the least has the turn
	Chosen     bool     `json:"chosen,omitempty"`
}

// Hop is where the packet goes next.
type Hop struct {
	Interface string `json:"interface"`
	Via       string `json:"via"`
	MAC       string `json:"mac,omitempty"` // empty if the kernel has yet to find it
	MTU       int    `json:"mtu,omitempty"`
}

// Explain asks the running program what it would do with a packet. Nothing changes by that: the same instructions are
// loaded once more, for a dry run on the same maps.
func (d *Director) Explain(q Question) (*Explanation, error) {
	t, err := d.Table() // finishes a change that was cut short
	if err != nil {
		return nil, err
	}
	in, err := d.open(unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("nothing is loaded, so every packet is left to the kernel")
	}
	if err != nil {
		return nil, err
	}
	defer in.close()
	a, err := in.arrival(q)
	if err != nil {
		return nil, err
	}
	x, err := in.ask(q, a)
	if err != nil {
		return nil, err
	}
	if x.Service == "" && x.By == "" {
		x.Notes = append(x.Notes, missing(t, q)...)
	}
	return x, nil
}

// ask plays the packet's way: past the interface that it comes in by, and, if there are services by mark, past the device that
// the firewall's mark leads it to.
func (in *instance) ask(q Question, a *arrival) (*Explanation, error) {
	s, err := in.settings()
	if err != nil {
		return nil, err
	}
	marked := in.marks()
	r, err := in.dryRun(a, a.local, a.ifindex, 0)
	if err != nil {
		return nil, err
	}
	x := &Explanation{Interface: a.name, Notes: a.notes}
	known := slices.Contains(marked[a.family], q.Mark)
	asked := r.plan.Decision.Outcome == bpfOutcomeOUTCOME_ASK
	if asked || known && r.plan.Decision.Outcome == bpfOutcomeOUTCOME_PASS && !a.local {
		mark := q.Mark
		if !known {
			mark |= markAsk
		}
		if asked && q.Mark != 0 && !known {
			x.Notes = append(x.Notes, fmt.Sprintf("there is no service of mark %d; this holds if the firewall leaves bit 0x%x of the mark alone", q.Mark, markAsk))
		}
		x.Notes = append(x.Notes, fmt.Sprintf("decided at %s, where the firewall's mark is known", markDevice))
		if r, err = in.dryRun(a, true, s.Device, mark); err != nil {
			return nil, err
		}
	}
	return x, in.tell(x, a, r)
}

// missing says why there is no service.
func missing(t *lvs.Table, q Question) (notes []string) {
	for _, s := range t.Services() {
		if s.Mark == 0 && s.Addr == q.To.Addr() {
			notes = append(notes, fmt.Sprintf("there is %v %s", s.ServiceID, s.Scheduler))
		}
	}
	if len(notes) == 0 {
		return []string{fmt.Sprintf("there is no service for %v", q.To.Addr())}
	}
	return notes
}

// tell says what was found in the words of package lvs.
func (in *instance) tell(x *Explanation, a *arrival, r *dryRun) error {
	names, err := reasonNames()
	if err != nil {
		return err
	}
	p, f := &r.plan, &r.plan.Decision
	if r.reason != bpfReasonREASON_NONE {
		x.Reason, x.Meaning = names[r.reason], meanings[r.reason]
	}
	x.Fate = r.fate()
	service, server := p.Service, f.Server
	if f.At != noLine {
		e, err := in.entry(f.At)
		if err != nil {
			return err
		}
		c := in.conn(e, jiffies(in.hz))
		x.By, x.Conn = ByConn, &c
		server, service = e.Server, in.servers[e.Server].Service
	}
	if service != 0 && int(service) < len(in.services) {
		id, c := fromService(&in.services[service])
		x.Service, x.Scheduler = id.String(), c.Scheduler
		x.Servers = in.candidates(&in.services[service], c.Scheduler, server)
	}
	if f.At == noLine && server != 0 {
		x.By = ByScheduler
		if p.Template != noLine {
			e, err := in.entry(p.Template)
			if err != nil {
				return err
			}
			c := in.conn(e, jiffies(in.hz))
			x.By, x.Template = ByTemplate, &c
		}
	}
	gue := uint16(0)
	if int(server) < len(in.servers) && lvs.Forward(f.Forward) == lvs.Tunnel {
		gue = fromPort(in.servers[server].TunnelPort)
	}
	if lvs.Forward(p.Forward) == lvs.FullNAT {
		if err := in.tellPool(x, service); err != nil {
			return err
		}
	}
	x.Before = headersOf(a.frame, 0)
	if x.Fate == Forwarded || x.Fate == Delivered || x.Fate == Answered {
		x.After = headersOf(r.out, gue)
	}
	if x.Fate == Forwarded {
		x.Hop = hopOf(&r.found)
		if x.Hop.MAC == "" {
			x.After[0] = "ethernet, with addresses that the kernel has yet to find"
		}
	}
	return nil
}

const noLine = ^uint32(0) // C's NO_LINE

// tellPool says which local addresses FULLNAT can take.
func (in *instance) tellPool(x *Explanation, service uint32) error {
	s := &in.services[service]
	pool, err := in.locals(poolOf(s.Key.Family, service, s.Locals != 0))
	if err != nil {
		return err
	}
	for _, l := range fromLocals(pool) {
		x.Notes = append(x.Notes, fmt.Sprintf("local address %v, ports %d to %d", l.Addr, l.Ports.First, l.Ports.Last))
	}
	if len(pool) == 0 {
		x.Notes = append(x.Notes, "there are no local addresses")
	} else if x.By == ByScheduler || x.By == ByTemplate {
		x.Notes = append(x.Notes, "which local port is next depends on the CPU that the packet comes to")
	}
	return nil
}

// entry copies a line of the connection table.
func (in *instance) entry(at uint32) (*bpfConn, error) {
	table, err := in.entries()
	if err != nil {
		return nil, err
	}
	var e bpfConn
	if !table.at(at, &e) || int(e.Server) >= len(in.servers) {
		return nil, errors.New("the connection has ended in this moment: ask again")
	}
	return &e, nil
}

func (in *instance) candidates(s *bpfService, scheduler string, chosen uint32) (list []Candidate) {
	for i, d := range in.members(s) {
		if bpfSlotUse(d.Use) != bpfSlotUseSLOT_LIVE {
			continue
		}
		l := fromLoad(in.loads[i])
		c := Candidate{
			Server: serverID(d).String(), Forward: strings.ToLower(lvs.Forward(d.Forward).String()), Weight: d.Weight,
			Active: l.Active, Inactive: l.Inactive, Overloaded: in.loads[i].Overloaded != 0, Chosen: i == chosen,
		}
		if cost, compared := sched.Cost(scheduler, &sched.Server{Weight: d.Weight, Active: l.Active, Inactive: l.Inactive, Overloaded: c.Overloaded}); compared {
			c.Cost = &cost
		}
		list = append(list, c)
	}
	return list
}
