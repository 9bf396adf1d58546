// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
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
	return `Connections and the templates of persistence, sorted by service, then client. The last column is how long an entry
stays if no packet comes. 'ipvsadm -L -c' prints them as it always did.

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

func (v connsVerb) chooses(c lvs.Conn) bool {
	service := lvs.ServiceID{Protocol: c.Protocol, Addr: c.Virtual.Addr(), Port: c.Virtual.Port()}
	return v.Service.chooses(service) && v.Server.chooses(c.Server.Addr(), c.Server.Port()) &&
		(!v.Client.IsValid() || v.Client.Contains(c.Client.Addr())) &&
		(v.State == "" || strings.EqualFold(v.State, c.StateName()))
}

type connJSON struct {
	Protocol string  `json:"protocol"`
	State    string  `json:"state"`
	Template bool    `json:"template,omitempty"`
	Client   string  `json:"client"`
	Virtual  string  `json:"virtual"`
	Server   string  `json:"server"`
	Local    string  `json:"local,omitempty"` // what the server sees in the client's place
	Forward  string  `json:"forward"`
	Expires  float64 `json:"expires"` // seconds
}

func jsonOf(c lvs.Conn) connJSON {
	one := connJSON{
		Protocol: strings.ToLower(c.Protocol.String()), State: c.StateName(), Template: c.Template, Client: c.Client.String(),
		Virtual: c.Virtual.String(), Server: c.Server.String(), Forward: strings.ToLower(c.Forward.String()), Expires: c.Expires.Seconds(),
	}
	if c.Local.IsValid() {
		one.Local = c.Local.String()
	}
	return one
}

func (v connsVerb) stream(out io.Writer, d lvs.Director) error {
	lines := json.NewEncoder(out)
	for c, err := range d.Conns() {
		if err != nil {
			return err
		}
		if !v.chooses(c) {
			continue
		}
		if err := lines.Encode(jsonOf(c)); err != nil {
			return err
		}
	}
	return nil
}

func (v connsVerb) table(out io.Writer, d lvs.Director) error {
	var all []lvs.Conn
	for c, err := range d.Conns() {
		if err != nil {
			return err
		}
		if v.chooses(c) {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b lvs.Conn) int {
		return cmp.Or(a.Virtual.Compare(b.Virtual), cmp.Compare(a.Protocol, b.Protocol), a.Client.Compare(b.Client), a.Server.Compare(b.Server))
	})
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PROTOCOL\tSERVICE\tCLIENT\tSERVER\tFORWARD\tSTATE\tEXPIRES")
	for _, c := range all {
		client := c.Client.String()
		if c.Local.IsValid() {
			client += " as " + c.Local.String()
		}
		fmt.Fprintf(w, "%v\t%v\t%v\t%v\t%v\t%s\t%v\n", c.Protocol, c.Virtual, client, c.Server, c.Forward, c.StateName(), c.Expires.Round(time.Second))
	}
	return w.Flush()
}
