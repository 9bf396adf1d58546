// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"lvs"
)

// exitDeadline is the exit status of a drain that ends while connections are left.
const exitDeadline exit = 3

// drainee is the server that is meant, in all services that have it or in one.
type drainee struct {
	Server  endpoint      `arg:"" name:"SERVER" help:"The server, ADDRESS[:PORT]: in all services that have it."`
	Service serviceFilter `placeholder:"SERVICE" help:"Only in this service: ADDRESS[:PORT], tcp/ADDRESS[:PORT], fwmark/NUMBER."`
}

// member is a server of a service.
type member struct {
	service lvs.ServiceID
	server  lvs.ServerID
}

func (m member) String() string { return name(m.service) + " " + m.server.String() }

// members finds the server in the services.
func (v drainee) members(t *lvs.Table) (all []member, err error) {
	var only *lvs.ServiceID
	if v.Service != (serviceFilter{}) {
		if only, err = v.Service.only(t); err != nil {
			return nil, err
		}
	}
	for _, s := range t.Services() {
		for _, d := range s.Servers {
			if (only == nil || *only == s.ServiceID) && v.Server.chooses(d.Addr, d.Port) {
				all = append(all, member{s.ServiceID, d.ServerID})
			}
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%v: %w (director list shows them)", v.Server, lvs.ErrNoServer)
	}
	return all, nil
}

// of finds the member in a table; nil if it is not there.
func (m member) of(t *lvs.Table) *lvs.Server {
	if s := t.Service(m.service); s != nil {
		return s.Server(m.server)
	}
	return nil
}

// weigh gives a member another weight.
func (m member) weigh(t *lvs.Table, weight int32) error {
	c := m.of(t).ServerConfig
	c.Weight = weight
	return t.EditServer(m.service, m.server, c)
}

// disowner is a director that takes connections away from a server.
type disowner interface {
	lvs.Director
	Disown(service lvs.ServiceID, server lvs.ServerID, conns bool) (int, error)
}

type drainVerb struct {
	drainee
	Deadline time.Duration `default:"10m" placeholder:"10m" help:"Wait no longer than this."`
	Then     string        `enum:"none,remove,reset" default:"none" placeholder:"none" help:"At the end: none, remove the server from the services, or reset the connections that are left."`
	Clients  bool          `help:"Persistent clients leave the server, too, at their next connection."`
	NoWait   bool          `help:"Only begin: do not wait."`
	JSON     bool          `name:"json" help:"Print the end as a JSON object."`
}

// Help is what --help adds.
func (drainVerb) Help() string {
	return `The server's weight becomes 0: it gets no new connections, and those that it has go on. It is empty, and the command ends, when
the listings count none: no active ones, no inactive ones, which TCP connections are for up to two minutes after their end, and no
persistent ones. A persistent client stays with its server, also with new connections, until it has been away for
its service's time; with --clients it moves at its next connection.

The weight that it had is kept beside it: 'director list' shows it, and 'director undrain' gives it back. Whatever ends the
command, the server goes on draining, and the same command again waits again. So a server whose weight was set to 0
by ipvsadm drains as well.

With --then reset, connections that are left at the deadline are reset as soon as one of their ends sends something: both ends
of a TCP connection are told, and datagrams and persistent clients go to another server. The server stays, with weight 0. With
--then remove it goes, and what becomes of its connections is the service's policy (ipvsadm --on-dead, or the setting
on_dead), which resets them as well if nobody has chosen another one.

The exit status is 0 if the server is empty, 3 if connections were left at the deadline, 1 after an error or an interruption.

Examples:
  director drain 10.0.0.2 && ssh 10.0.0.2 reboot
  director drain 10.0.0.2:80 --service 192.0.2.1:80 --deadline 1h --then remove
  director drain 10.0.0.2 --clients --deadline 5m --then reset
  director drain 10.0.0.2 --no-wait
  director drain 10.0.0.2 --json | jq .end`
}

// Run drains.
func (v drainVerb) Run(ctx context.Context) error {
	if v.NoWait && v.Then != "none" {
		return fmt.Errorf("--no-wait and --then %s: that comes after waiting", v.Then)
	}
	d, err := openDataplane()
	if err != nil {
		return err
	}
	r, err := v.drain(ctx, d, &progress{out: os.Stderr, inPlace: term.IsTerminal(int(os.Stderr.Fd()))})
	if err != nil {
		return err
	}
	if v.JSON {
		err = json.NewEncoder(os.Stdout).Encode(r)
	} else {
		_, err = fmt.Fprintln(os.Stdout, r.text(v.again()))
	}
	return errors.Join(err, r.status())
}

// again gives the words after the verb that name the same once more.
func (v drainee) again() string {
	if v.Service == (serviceFilter{}) {
		return v.Server.String()
	}
	return v.Server.String() + " --service " + v.Service.String()
}

// drain begins, waits, and does what comes then.
func (v drainVerb) drain(ctx context.Context, d disowner, p *progress) (r drained, err error) {
	all, err := v.begin(d)
	if err == nil && v.Clients {
		_, err = disown(d, all, false)
	}
	if err != nil {
		return r, err
	}
	if r.End, err = v.wait(ctx, d, all, p); err != nil {
		return r, err
	}
	if v.Then == "reset" && r.End == endDeadline {
		if r.Reset, err = disown(d, all, true); err != nil {
			return r, err
		}
	}
	if v.Then != "remove" || r.End == endInterrupted {
		t, err := d.Table()
		if err != nil {
			return r, err
		}
		r.Servers, err = look(t, all)
		return r, err
	}
	err = d.Update(func(t *lvs.Table) error {
		if r.Servers, err = look(t, all); err != nil {
			return err
		}
		for _, m := range all {
			if m.of(t) == nil {
				continue
			}
			if err := t.DeleteServer(m.service, m.server); err != nil {
				return fmt.Errorf("%v: %w", m, err)
			}
		}
		return nil
	})
	r.Removed = err == nil
	return r, err
}

// disown takes persistent clients away from the members, and their connections as well, and says how many these are. A member that
// somebody has removed meanwhile is left out.
func disown(d disowner, all []member, conns bool) (n int, err error) {
	for _, m := range all {
		one, err := d.Disown(m.service, m.server, conns)
		if err != nil && !errors.Is(err, lvs.ErrNoServer) && !errors.Is(err, lvs.ErrNotDefined) {
			return n, fmt.Errorf("%v: %w", m, err)
		}
		n += one
	}
	return n, nil
}

// begin sets the weights to 0, all at once. One that is 0 is not touched.
func (v drainVerb) begin(d lvs.Director) (all []member, err error) {
	err = d.Update(func(t *lvs.Table) (err error) {
		if all, err = v.members(t); err != nil {
			return err
		}
		for _, m := range all {
			if m.of(t).Weight == 0 {
				continue
			}
			if err := m.weigh(t, 0); err != nil {
				return fmt.Errorf("%v: %w", m, err)
			}
		}
		return nil
	})
	return all, err
}

// wait looks once a second, until the end, and says how it came.
func (v drainVerb) wait(ctx context.Context, d lvs.Director, all []member, p *progress) (end string, err error) {
	defer p.end()
	over, second := time.Now().Add(v.Deadline), time.NewTicker(time.Second)
	deadline := time.NewTimer(v.Deadline)
	defer second.Stop()
	defer deadline.Stop()
	for {
		t, err := d.Table()
		if err != nil {
			return "", err
		}
		now, err := look(t, all)
		left := sum(now)
		left.until = time.Until(over)
		switch {
		case err != nil:
			return "", err
		case left.conns() == 0:
			return endEmpty, nil
		case v.NoWait:
			return endNoWait, nil
		case left.until <= 0:
			return endDeadline, nil
		}
		if p.due() {
			if left.idle, err = v.idle(d, t); err != nil {
				return "", err
			}
			p.print(fmt.Sprintf("%v: %s", v.Server, left.line()))
		}
		select {
		case <-ctx.Done():
			return endInterrupted, nil
		case <-deadline.C:
		case <-second.C:
		}
	}
}

// idle is for how long no packet of a connection has come, of that for which this is longest. With a service by mark it is
// not known which connections are its own.
func (v drainee) idle(d lvs.Director, t *lvs.Table) (longest time.Duration, err error) {
	if v.Service.mark != 0 {
		return 0, nil
	}
	timeouts := t.Timeouts.OrDefault()
	for c, err := range d.Conns() {
		if err != nil {
			return 0, err
		}
		service := lvs.ServiceID{Protocol: c.Protocol, Addr: c.Virtual.Addr(), Port: c.Virtual.Port()}
		if !c.Template && v.Service.chooses(service) && v.Server.chooses(c.Server.Addr(), c.Server.Port()) {
			lives := time.Duration(timeouts.Of(c.Protocol, c.State)) * time.Second
			longest = max(longest, lives-c.Expires)
		}
	}
	return longest, nil
}

type undrainVerb struct {
	drainee
}

// Help is what --help adds.
func (undrainVerb) Help() string {
	return `Each service that has the server at weight 0 gives it the last weight that it had there. One in which it never had
another weight since it was added leaves it alone.

Examples:
  director undrain 10.0.0.2
  director undrain 10.0.0.2:80 --service 192.0.2.1:80`
}

// Run gives the weights back.
func (v undrainVerb) Run() error {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	lines, err := v.undrain(d)
	for _, line := range lines {
		fmt.Println(line)
	}
	return err
}

// undrain gives the weights back, all at once, and says what each member has now.
func (v undrainVerb) undrain(d lvs.Director) (lines []string, err error) {
	err = d.Update(func(t *lvs.Table) error {
		all, err := v.members(t)
		if err != nil {
			return err
		}
		weighs := false
		for _, m := range all {
			s := m.of(t)
			switch {
			case s.Draining():
				lines = append(lines, fmt.Sprintf("%v: weight %d again", m, s.LastWeight))
				err = m.weigh(t, s.LastWeight)
			case s.Weight == 0:
				lines = append(lines, fmt.Sprintf("%v: weight 0 as ever", m))
			default:
				lines = append(lines, fmt.Sprintf("%v: weight %d as before", m, s.Weight))
			}
			if err != nil {
				return fmt.Errorf("%v: %w", m, err)
			}
			weighs = weighs || m.of(t).Weight != 0
		}
		if !weighs {
			return fmt.Errorf("%v never had a weight but 0 since it was added: ipvsadm -e gives it one", v.Server)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return lines, nil
}
