// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"lvs"
	"lvs/dataplane"
)

// clients chooses client addresses by prefix; the zero value chooses all.
type clients struct{ netip.Prefix }

// UnmarshalText reads PREFIX/BITS or a single ADDRESS.
func (c *clients) UnmarshalText(text []byte) (err error) {
	if c.Prefix, err = netip.ParsePrefix(string(text)); err == nil {
		return nil
	}
	addr, err := netip.ParseAddr(string(text))
	if err != nil {
		return fmt.Errorf("%s: not of the form ADDRESS or ADDRESS/BITS", text)
	}
	c.Prefix, err = addr.Prefix(addr.BitLen())
	return err
}

type connsVerb struct {
	Service serviceFilter `placeholder:"SERVICE" help:"Only of this virtual address: ADDRESS[:PORT], tcp/ADDRESS[:PORT] and so on."`
	Server  endpoint      `placeholder:"SERVER" help:"Only to this server, ADDRESS[:PORT]."`
	Client  clients       `placeholder:"PREFIX" help:"Only from these clients, ADDRESS or ADDRESS/BITS."`
	State   string        `placeholder:"NAME" help:"Only in this state, such as ESTABLISHED, SYN_RECV or UDP."`
	JSON    bool          `name:"json" help:"Print one JSON object a line for each connection, unsorted, as they are read."`
	Watch   bool          `help:"Print it again every second, until interrupted."`
}

// Help is what --help adds.
func (connsVerb) Help() string {
	return `Connections and the templates of persistence, sorted by service, then client; those beyond the first 10,000 follow as they
are read, so that millions take no memory. EXPIRES is how long an entry stays if no packet comes; TEMPLATE is the client (or its network)
that a template goes by which the connection belongs to, and of a template how many connections it has; NEXT HOP is where the kernel
would send a packet to the server now. With 'director attach --conn-accounting' follow how long ago a connection has begun, and its packets and
bytes to the server and to the client. 'ipvsadm -L -c' prints connections as it always did.

Examples:
  director conns
  director conns --service 192.0.2.1:443 --state SYN_RECV
  director conns --client 198.51.100.0/24 --watch
  director conns --json | jq -r .client | sort | uniq -c`
}

// Run lists.
func (v connsVerb) Run(ctx context.Context) error {
	return again(ctx, v.Watch, func(out io.Writer) error {
		d, err := openDataplane()
		if err != nil {
			return err
		}
		if v.JSON {
			return v.stream(out, d)
		}
		return v.table(out, d)
	})
}

func (v connsVerb) chooses(c *lvs.Entry) bool {
	asked := lvs.ServiceID{Protocol: c.Protocol, Addr: c.Virtual.Addr(), Port: c.Virtual.Port()} // what the client asked for
	return (v.Service.chooses(asked) || v.Service.chooses(c.Service)) && v.Server.chooses(c.Server.Addr(), c.Server.Port()) &&
		(!v.Client.IsValid() || v.Client.Contains(c.Client.Addr())) &&
		(v.State == "" || strings.EqualFold(v.State, c.StateName()))
}

// hop is where packets to a server go next.
type hop struct{ via, device string }

func (h hop) String() string { return strings.TrimSpace(h.via + " " + h.device) }

// hops remembers them: there are fewer servers than connections.
type hops map[netip.Addr]hop

func (all hops) to(server netip.Addr) hop {
	h, known := all[server]
	if !known {
		via, device := dataplane.NextHop(server)
		h.device = device
		if via.IsValid() {
			h.via = via.String()
		}
		all[server] = h
	}
	return h
}

func (v connsVerb) stream(out io.Writer, d *dataplane.Director) error {
	var line []byte
	ways := hops{}
	for c, err := range d.Details() {
		if err != nil {
			return err
		}
		if !v.chooses(&c) {
			continue
		}
		line = append(appendEntry(line[:0], &c, ways.to(c.Server.Addr())), '\n')
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// sorted is how many connections are sorted before they are printed. What is beyond comes as it is read: a list of millions is made
// in as little memory as one of a few.
const sorted = 10_000

func (v connsVerb) table(out io.Writer, d *dataplane.Director) error {
	w, ways := &columns{out: out}, hops{}
	var first []lvs.Entry
	printFirst := func() {
		w.row(headOf(len(first) > 0 && first[0].Accounted)...)
		slices.SortFunc(first, func(a, b lvs.Entry) int {
			return cmp.Or(a.Virtual.Compare(b.Virtual), cmp.Compare(a.Protocol, b.Protocol), a.Client.Compare(b.Client), a.Server.Compare(b.Server))
		})
		for i := range first {
			w.row(rowOf(&first[i], ways.to(first[i].Server.Addr()))...)
		}
		w.align()
	}
	n := 0
	for c, err := range d.Details() {
		if err != nil {
			return err
		}
		if !v.chooses(&c) {
			continue
		}
		if n++; n <= sorted {
			first = append(first, c)
			continue
		}
		if n == sorted+1 {
			printFirst()
		}
		w.row(rowOf(&c, ways.to(c.Server.Addr()))...)
	}
	if n <= sorted {
		printFirst()
	}
	return w.err
}

func headOf(accounted bool) []string {
	head := []string{"PROTOCOL", "SERVICE", "CLIENT", "SERVER", "FORWARD", "STATE", "EXPIRES", "TEMPLATE", "NEXT HOP"}
	if accounted {
		head = append(head, "AGE", "IN PACKETS", "BYTES", "OUT PACKETS", "BYTES")
	}
	return head
}

func rowOf(e *lvs.Entry, next hop) []string {
	client, template := e.Client.String(), "-"
	if e.Local.IsValid() {
		client += " as " + e.Local.String()
	}
	switch {
	case e.Template:
		template = fmt.Sprintf("of %d", e.Conns)
	case e.Persistent.IsValid():
		template = e.Persistent.Addr().String()
	}
	row := []string{e.Protocol.String(), e.Virtual.String(), client, e.Server.String(), e.Forward.String(), e.StateName(), e.Expires.Round(time.Second).String(), template, next.String()}
	if e.Accounted {
		row = append(row, e.Age.String())
		for _, n := range []uint64{e.Stats.InPackets, e.Stats.InBytes, e.Stats.OutPackets, e.Stats.OutBytes} {
			row = append(row, strconv.FormatUint(n, 10))
		}
	}
	return row
}

// columns prints rows below each other. How wide a column is, the rows before align say; then they are printed, and those that
// follow at once.
type columns struct {
	out   io.Writer
	rows  [][]string
	width []int // nil before align
	line  []byte
	err   error
}

func (c *columns) row(cells ...string) {
	if c.width == nil {
		c.rows = append(c.rows, cells)
		return
	}
	c.line = c.line[:0]
	for i, cell := range cells {
		c.line = append(c.line, cell...)
		for n := len(cell); i < len(cells)-1 && n < c.width[i]+2; n++ {
			c.line = append(c.line, ' ')
		}
	}
	if _, err := c.out.Write(append(c.line, '\n')); c.err == nil {
		c.err = err
	}
}

func (c *columns) align() {
	rows := c.rows
	c.rows, c.width = nil, make([]int, len(rows[0]))
	for _, cells := range rows {
		for i, cell := range cells {
			c.width[i] = max(c.width[i], len(cell))
		}
	}
	for _, cells := range rows {
		c.row(cells...)
	}
}
