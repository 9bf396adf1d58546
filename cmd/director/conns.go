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
are read, so that millions take no memory. The last column is how long an entry stays if no packet comes. 'ipvsadm -L -c' prints
them as it always did.

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

func (v connsVerb) chooses(c *lvs.Conn) bool {
	service := lvs.ServiceID{Protocol: c.Protocol, Addr: c.Virtual.Addr(), Port: c.Virtual.Port()}
	return v.Service.chooses(service) && v.Server.chooses(c.Server.Addr(), c.Server.Port()) &&
		(!v.Client.IsValid() || v.Client.Contains(c.Client.Addr())) &&
		(v.State == "" || strings.EqualFold(v.State, c.StateName()))
}

// appendJSON writes a connection as an object; by hand, because there may be millions.
func appendJSON(b []byte, c *lvs.Conn) []byte {
	name := func(key string) {
		if b[len(b)-1] != '{' {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), key...), '"', ':')
	}
	text := func(key, value string) {
		name(key)
		b = append(append(append(b, '"'), value...), '"')
	}
	endpoint := func(key string, value netip.AddrPort) {
		name(key)
		b = append(value.AppendTo(append(b, '"')), '"')
	}
	b = append(b, '{')
	text("protocol", strings.ToLower(c.Protocol.String()))
	text("state", c.StateName())
	if c.Template {
		name("template")
		b = append(b, "true"...)
	}
	endpoint("client", c.Client)
	endpoint("virtual", c.Virtual)
	endpoint("server", c.Server)
	if c.Local.IsValid() {
		endpoint("local", c.Local)
	}
	text("forward", strings.ToLower(c.Forward.String()))
	name("expires")
	b = strconv.AppendFloat(b, c.Expires.Seconds(), 'f', -1, 64)
	return append(b, '}')
}

func (v connsVerb) stream(out io.Writer, d lvs.Director) error {
	var line []byte
	for c, err := range d.Conns() {
		if err != nil {
			return err
		}
		if !v.chooses(&c) {
			continue
		}
		line = append(appendJSON(line[:0], &c), '\n')
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// sorted is how many connections are sorted before they are printed. What is beyond comes as it is read: a list of millions is made
// in as little memory as one of a few.
const sorted = 10_000

func (v connsVerb) table(out io.Writer, d lvs.Director) error {
	w := &columns{out: out}
	w.row("PROTOCOL", "SERVICE", "CLIENT", "SERVER", "FORWARD", "STATE", "EXPIRES")
	first := make([]lvs.Conn, 0, sorted)
	printFirst := func() {
		slices.SortFunc(first, func(a, b lvs.Conn) int {
			return cmp.Or(a.Virtual.Compare(b.Virtual), cmp.Compare(a.Protocol, b.Protocol), a.Client.Compare(b.Client), a.Server.Compare(b.Server))
		})
		for i := range first {
			w.row(rowOf(&first[i])...)
		}
		w.align()
	}
	n := 0
	for c, err := range d.Conns() {
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
		w.row(rowOf(&c)...)
	}
	if n <= sorted {
		printFirst()
	}
	return w.err
}

func rowOf(c *lvs.Conn) []string {
	client := c.Client.String()
	if c.Local.IsValid() {
		client += " as " + c.Local.String()
	}
	return []string{c.Protocol.String(), c.Virtual.String(), client, c.Server.String(), c.Forward.String(), c.StateName(), c.Expires.Round(time.Second).String()}
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
