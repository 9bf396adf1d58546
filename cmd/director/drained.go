// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"lvs"
)

// How a drain ends.
const (
	endEmpty       = "empty"
	endDeadline    = "deadline"
	endInterrupted = "interrupted"
	endNoWait      = "no-wait"
)

// drained is a drain at its end, and the servers as they were then.
type drained struct {
	End     string   `json:"end"`
	Removed bool     `json:"removed"`
	Reset   int      `json:"reset"` // connections, as soon as they are heard of
	Servers []drains `json:"servers"`
}

// drains is a member that drains.
type drains struct {
	Service    string `json:"service"`
	Server     string `json:"server"`
	LastWeight int32  `json:"last_weight"`
	Active     uint32 `json:"active"`
	Inactive   uint32 `json:"inactive"`
	Persistent uint32 `json:"persistent"`
}

// look says what the members carry. Those that somebody has removed are left out; it is an error if all are, or if one has a
// weight again.
func look(t *lvs.Table, all []member) (now []drains, err error) {
	for _, m := range all {
		d := m.of(t)
		if d == nil {
			continue
		}
		if d.Weight != 0 {
			return nil, fmt.Errorf("%v drains no more: somebody has given it the weight %d", m, d.Weight)
		}
		now = append(now, drains{name(m.service), m.server.String(), d.LastWeight, d.Load.Active, d.Load.Inactive, d.Load.Persistent})
	}
	if len(now) == 0 {
		return nil, errors.New("nothing is left to drain: somebody has removed the server")
	}
	return now, nil
}

// left is what a server that drains has.
type left struct {
	active, inactive, persistent uint64
	idle, until                  time.Duration // of the connection for which it is longest, and to the deadline
}

// sum adds members up.
func sum(now []drains) (l left) {
	for _, d := range now {
		l.active, l.inactive, l.persistent = l.active+uint64(d.Active), l.inactive+uint64(d.Inactive), l.persistent+uint64(d.Persistent)
	}
	return l
}

func (l left) conns() uint64 { return l.active + l.inactive + l.persistent }

func (l left) String() string {
	return fmt.Sprintf("%d left (%d active, %d inactive, %d persistent)", l.conns(), l.active, l.inactive, l.persistent)
}

// line tells of the idle, and of the deadline, too.
func (l left) line() string {
	var b strings.Builder
	b.WriteString(l.String())
	if l.idle >= time.Second {
		fmt.Fprintf(&b, ", the longest idle for %v", l.idle.Truncate(time.Second))
	}
	fmt.Fprintf(&b, ", %v to the deadline", l.until.Round(time.Second))
	return b.String()
}

// text tells how a drain ended; again are the words that name its server.
func (r drained) text(again string) string {
	said := map[string]string{endEmpty: "Empty", endDeadline: "The deadline", endInterrupted: "Interrupted", endNoWait: "No new connections"}
	now := fmt.Sprintf("%s: %v.", said[r.End], sum(r.Servers))
	switch {
	case r.Removed:
		return now + " The server is removed."
	case r.Reset > 0:
		return fmt.Sprintf("%s %d are reset, each as soon as one of its ends sends something. `director undrain %s` takes the server back.", now, r.Reset, again)
	case r.End == endEmpty:
		return fmt.Sprintf("%s `director undrain %s` takes the server back.", now, again)
	}
	return fmt.Sprintf("%s The server goes on draining: `director drain %[2]s` waits again, `director undrain %[2]s` takes it back.", now, again)
}

// status is the exit status.
func (r drained) status() error {
	switch r.End {
	case endDeadline:
		return exitDeadline
	case endInterrupted:
		return exit(1)
	}
	return nil
}
