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
	"strconv"
	"strings"
	"text/tabwriter"

	"lvs"
	"lvs/ipvsadm"
)

// serviceFilter chooses services; the zero value chooses all.
type serviceFilter struct {
	endpoint
	protocol lvs.Protocol
	mark     uint32
}

// UnmarshalText reads ADDRESS, ADDRESS:PORT, either after tcp/, udp/ or sctp/, or fwmark/NUMBER.
func (f *serviceFilter) UnmarshalText(text []byte) error {
	kind, rest, found := strings.Cut(string(text), "/")
	if !found {
		return f.endpoint.UnmarshalText(text)
	}
	switch strings.ToLower(kind) {
	case "tcp":
		f.protocol = lvs.TCP
	case "udp":
		f.protocol = lvs.UDP
	case "sctp":
		f.protocol = lvs.SCTP
	case "fwmark":
		n, err := strconv.ParseUint(rest, 0, 32)
		if err != nil || n == 0 {
			return fmt.Errorf("%s: a firewall mark is a number from 1 to 4294967295", text)
		}
		f.mark = uint32(n)
		return nil
	default:
		return fmt.Errorf("%s: the protocol is tcp, udp or sctp, or it is a fwmark", text)
	}
	return f.endpoint.UnmarshalText([]byte(rest))
}

// String gives the filter in the form that is read.
func (f serviceFilter) String() string {
	switch {
	case f.mark != 0:
		return fmt.Sprintf("fwmark/%d", f.mark)
	case f.protocol != 0:
		return strings.ToLower(f.protocol.String()) + "/" + f.endpoint.String()
	}
	return f.endpoint.String()
}

func (f serviceFilter) chooses(id lvs.ServiceID) bool {
	if f.mark != 0 || id.Mark != 0 {
		return f.mark == id.Mark || f == serviceFilter{}
	}
	return (f.protocol == 0 || f.protocol == id.Protocol) && f.endpoint.chooses(id.Addr, id.Port)
}

// only finds the one service that is chosen.
func (f serviceFilter) only(t *lvs.Table) (found *lvs.ServiceID, err error) {
	for _, s := range t.Services() {
		if !f.chooses(s.ServiceID) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("--service names both %v and %v: name one, as in %s", found, s.ServiceID, name(s.ServiceID))
		}
		found = &s.ServiceID
	}
	if found == nil {
		return nil, fmt.Errorf("--service: %w (director list shows them)", lvs.ErrNoService)
	}
	return found, nil
}

// endpoint chooses addresses and ports; the zero value chooses all.
type endpoint struct {
	addr netip.Addr
	port uint16
}

// UnmarshalText reads ADDRESS or ADDRESS:PORT.
func (e *endpoint) UnmarshalText(text []byte) error {
	if both, err := netip.ParseAddrPort(string(text)); err == nil {
		e.addr, e.port = both.Addr(), both.Port()
		return nil
	}
	addr, err := netip.ParseAddr(strings.Trim(string(text), "[]"))
	if err != nil {
		return fmt.Errorf("%s: not of the form ADDRESS or ADDRESS:PORT", text)
	}
	e.addr = addr
	return nil
}

func (e endpoint) String() string {
	if e.port == 0 {
		return e.addr.String()
	}
	return netip.AddrPortFrom(e.addr, e.port).String()
}

func (e endpoint) chooses(addr netip.Addr, port uint16) bool {
	return (!e.addr.IsValid() || e.addr == addr) && (e.port == 0 || e.port == port)
}

type listVerb struct {
	Service serviceFilter `placeholder:"SERVICE" help:"Only this service: ADDRESS[:PORT], tcp/ADDRESS[:PORT], fwmark/NUMBER and so on."`
	Server  endpoint      `placeholder:"SERVER" help:"Only this server, ADDRESS[:PORT], in all services that have it."`
	JSON    bool          `name:"json" help:"Print one JSON object a line for each service."`
	Watch   bool          `help:"Print it again every second, until interrupted."`
}

// Help is what --help adds.
func (listVerb) Help() string {
	return `Services and servers, with what they carry now, have carried, and carry a second (an average over some seconds). 'ipvsadm -L' prints them as it always did.

Examples:
  director list
  director list --service 192.0.2.1:80 --watch
  director list --server 10.0.0.2 --json | jq .weight
  director list --json | jq -r '.servers[] | select(.draining).server'
  director list --json | jq -r '"\(.service) \(.rates.conns)"'`
}

// Run lists.
func (v listVerb) Run(ctx context.Context) error {
	return again(ctx, v.Watch, func(out io.Writer) error {
		d, err := openDataplane()
		if err != nil {
			return err
		}
		t, err := d.Table()
		if err != nil {
			return err
		}
		if v.JSON {
			return listJSON(out, v.chosen(t))
		}
		return listText(out, v.chosen(t))
	})
}

// chosen gives the services, sorted, with only the servers that are asked for.
func (v listVerb) chosen(t *lvs.Table) (chosen []*lvs.Service) {
	for _, s := range ipvsadm.Sorted(t.Services()) {
		one := *s
		one.Servers = slices.DeleteFunc(slices.Clone(s.Servers), func(d *lvs.Server) bool { return !v.Server.chooses(d.Addr, d.Port) })
		slices.SortFunc(one.Servers, func(a, b *lvs.Server) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port)) })
		if v.Service.chooses(s.ServiceID) && (len(one.Servers) > 0 || v.Server == endpoint{}) {
			chosen = append(chosen, &one)
		}
	}
	return chosen
}

func listText(out io.Writer, services []*lvs.Service) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	// The last cell of a row is not a column, so a row ends in a tab.
	fmt.Fprintf(w, "WEIGHT\tACTIVE\tINACTIVE\tCONNS\tBYTES IN\tBYTES OUT\tCONNS/s\tBYTES IN/s\tOUT/s\t  SERVICE AND SERVERS\n")
	for _, s := range services {
		var sum lvs.Load
		for _, d := range s.Servers {
			sum.Active, sum.Inactive = sum.Active+d.Load.Active, sum.Inactive+d.Load.Inactive
		}
		note := ""
		if s.OnDead != lvs.OnDeadUnset {
			note = " on-dead " + s.OnDead.String()
		}
		fmt.Fprintf(w, "\t%d\t%d\t%s\t  %v %s%s\n", sum.Active, sum.Inactive, carried(s.Stats, s.Rates), s.ServiceID, s.Scheduler, note)
		for _, d := range s.Servers {
			note := ""
			if d.Draining() {
				note = fmt.Sprintf(" draining, weight was %d", d.LastWeight)
			}
			fmt.Fprintf(w, "%d\t%d\t%d\t%s\t    %v %v%s\n", d.Weight, d.Load.Active, d.Load.Inactive, carried(d.Stats, d.Rates), d.ServerID, d.Forward, note)
		}
	}
	return w.Flush()
}

// carried gives the columns of counters and rates.
func carried(s lvs.Stats, r lvs.Rates) string {
	return fmt.Sprintf("%d\t%s\t%s\t%d\t%s\t%s", s.Conns, amount(s.InBytes), amount(s.OutBytes), r.CPS, amount(r.InBPS), amount(r.OutBPS))
}

// amount gives a number of bytes in a form that is read at a glance.
func amount(n uint64) string {
	if n < 1000 {
		return strconv.FormatUint(n, 10)
	}
	f, unit := float64(n)/1000, 0
	for ; f >= 999.5; unit++ {
		f /= 1000
	}
	return strconv.FormatFloat(f, 'g', 3, 64) + "kMGTPE"[unit:unit+1]
}

// The JSON forms have the names of package lvs, as those of `director status --json` do.

type serviceJSON struct {
	Service    string       `json:"service"`
	Scheduler  string       `json:"scheduler"`
	Persistent uint32       `json:"persistent,omitempty"` // seconds
	OnePacket  bool         `json:"one_packet,omitempty"`
	OnDead     string       `json:"on_dead,omitempty"` // if it is not that of the setting
	Stats      statsJSON    `json:"stats"`
	Rates      ratesJSON    `json:"rates"`
	Servers    []serverJSON `json:"servers"`
}

type serverJSON struct {
	Server     string    `json:"server"`
	Forward    string    `json:"forward"`
	Weight     int32     `json:"weight"`
	Draining   bool      `json:"draining,omitempty"`
	LastWeight int32     `json:"last_weight,omitempty"` // only while it drains
	Upper      uint32    `json:"upper,omitempty"`
	Lower      uint32    `json:"lower,omitempty"`
	Active     uint32    `json:"active"`
	Inactive   uint32    `json:"inactive"`
	Persistent uint32    `json:"persistent"`
	Stats      statsJSON `json:"stats"`
	Rates      ratesJSON `json:"rates"`
}

type statsJSON struct {
	Conns      uint64 `json:"conns"`
	InPackets  uint64 `json:"in_packets"`
	OutPackets uint64 `json:"out_packets"`
	InBytes    uint64 `json:"in_bytes"`
	OutBytes   uint64 `json:"out_bytes"`
}

// ratesJSON is a second's worth of statsJSON, averaged over some seconds.
type ratesJSON struct {
	Conns      uint64 `json:"conns"`
	InPackets  uint64 `json:"in_packets"`
	OutPackets uint64 `json:"out_packets"`
	InBytes    uint64 `json:"in_bytes"`
	OutBytes   uint64 `json:"out_bytes"`
}

func ratesJSONOf(r lvs.Rates) ratesJSON {
	return ratesJSON{r.CPS, r.InPPS, r.OutPPS, r.InBPS, r.OutBPS}
}

// name gives a service in the form that --service reads.
func name(id lvs.ServiceID) string {
	if id.Mark != 0 {
		return fmt.Sprintf("fwmark/%d", id.Mark)
	}
	return strings.ToLower(id.Protocol.String()) + "/" + netip.AddrPortFrom(id.Addr, id.Port).String()
}

func listJSON(out io.Writer, services []*lvs.Service) error {
	lines := json.NewEncoder(out)
	for _, s := range services {
		one := serviceJSON{Service: name(s.ServiceID), Scheduler: s.Scheduler, Persistent: s.Persistent, OnePacket: s.OnePacket, Stats: statsJSON(s.Stats), Rates: ratesJSONOf(s.Rates), Servers: []serverJSON{}}
		if s.OnDead != lvs.OnDeadUnset {
			one.OnDead = s.OnDead.String()
		}
		for _, d := range s.Servers {
			server := serverJSON{
				Server: d.ServerID.String(), Forward: strings.ToLower(d.Forward.String()), Weight: d.Weight, Upper: d.Upper, Lower: d.Lower,
				Active: d.Load.Active, Inactive: d.Load.Inactive, Persistent: d.Load.Persistent, Stats: statsJSON(d.Stats), Rates: ratesJSONOf(d.Rates),
			}
			if d.Draining() {
				server.Draining, server.LastWeight = true, d.LastWeight
			}
			one.Servers = append(one.Servers, server)
		}
		if err := lines.Encode(one); err != nil {
			return err
		}
	}
	return nil
}
