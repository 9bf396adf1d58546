// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"lvs"
	"lvs/dataplane"
)

type explainVerb struct {
	Client  netip.AddrPort `arg:"" name:"CLIENT:PORT" help:"Where the packet comes from."`
	Virtual netip.AddrPort `arg:"" name:"VIP:PORT" help:"Where it is sent to."`
	Proto   string         `help:"tcp or udp." enum:"tcp,udp" default:"tcp" placeholder:"tcp"`
	Flags   string         `help:"Flags of TCP: letters S, A, F and R." default:"S" placeholder:"SAFR"`
	Mark    uint32         `help:"The mark that the firewall gives it." placeholder:"N"`
	JSON    bool           `name:"json" help:"Print one JSON object."`
}

// Help is what --help adds.
func (explainVerb) Help() string {
	return `What the director would do now with a packet that begins a connection, and why: the service, the connection or template if
there is one, each server as the scheduler sees it, the choice, the way on, and the packet's headers before and after; or the
reason why it is not forwarded. It is the answer of the program that runs, on the connections and loads that there are, and
nothing changes by asking: the next real packet gets what was said here (but for twos, which draws by chance).

Examples:
  director explain 198.51.100.7:40000 192.0.2.1:80
  director explain --proto udp 198.51.100.7:5353 192.0.2.1:53
  director explain --mark 5 198.51.100.7:40000 192.0.2.9:443
  director explain --flags A 198.51.100.7:40000 192.0.2.1:80     # in the midst of a connection
  director explain --flags SA 10.0.0.2:80 198.51.100.7:40000     # the answer of a server
  director explain --json 198.51.100.7:40000 192.0.2.1:80 | jq '.servers[] | select(.chosen)'`
}

// Run explains.
func (v explainVerb) Run() error {
	q := dataplane.Question{Protocol: lvs.TCP, From: v.Client, To: v.Virtual, Mark: v.Mark, Flags: strings.ToUpper(v.Flags)}
	if v.Proto == "udp" {
		q.Protocol = lvs.UDP
	}
	if strings.Trim(q.Flags, "SAFR") != "" {
		return errors.New("--flags are letters of S (SYN), A (ACK), F (FIN) and R (RST)")
	}
	d, err := openDataplane()
	if err != nil {
		return err
	}
	x, err := d.Explain(q)
	if err != nil {
		return err
	}
	if v.JSON {
		return explainJSON(os.Stdout, x)
	}
	return explainText(os.Stdout, x)
}

func explainJSON(out io.Writer, x *dataplane.Explanation) error {
	j := json.NewEncoder(out)
	j.SetIndent("", "  ")
	j.SetEscapeHTML(false)
	all := struct {
		*dataplane.Explanation
		Conn     json.RawMessage `json:"conn,omitempty"`
		Template json.RawMessage `json:"template,omitempty"`
	}{Explanation: x}
	if x.Conn != nil {
		all.Conn = appendJSON(nil, x.Conn)
	}
	if x.Template != nil {
		all.Template = appendJSON(nil, x.Template)
	}
	return j.Encode(all)
}

func explainText(out io.Writer, x *dataplane.Explanation) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("fate", "%s", x.Fate)
	if x.Reason != "" {
		row("reason", "%s: %s", x.Reason, x.Meaning)
	}
	row("interface", "%s", x.Interface)
	if x.Service != "" {
		row("service", "%s, scheduler %s", x.Service, x.Scheduler)
	} else if x.By == "" && x.Reason == "" {
		row("service", "none")
	}
	entry := func(name string, c *lvs.Conn) {
		if c != nil {
			row(name, "%v > %v to %v, %s, expires in %v", c.Client, c.Virtual, c.Server, c.StateName(), c.Expires.Round(time.Second))
		}
	}
	entry("connection", x.Conn)
	entry("template", x.Template)
	if x.By != "" {
		row("decided by", "%s", map[string]string{
			dataplane.ByConn:      "the connection, which has its server",
			dataplane.ByTemplate:  "the client's template: the scheduler is not asked",
			dataplane.ByScheduler: "the scheduler",
		}[x.By])
	}
	if h := x.Hop; h != nil {
		mac := h.MAC
		if mac == "" {
			mac = "an address that the kernel has yet to find"
		}
		row("next hop", "%s at %s, by %s", h.Via, mac, h.Interface)
	}
	for _, n := range x.Notes {
		row("note", "%s", n)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := candidatesText(out, x.Servers); err != nil {
		return err
	}
	for _, part := range []struct {
		name  string
		lines []string
	}{{"before", x.Before}, {"after", x.After}} {
		for i, line := range part.lines {
			if i == 0 {
				fmt.Fprintf(out, "\n%s\n", part.name)
			}
			fmt.Fprintf(out, "  %s\n", line)
		}
	}
	return nil
}

func candidatesText(out io.Writer, servers []dataplane.Candidate) error {
	if len(servers) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nWEIGHT\tACTIVE\tINACTIVE\tCOST\t  SERVER\n")
	for _, s := range servers {
		cost, state := "-", ""
		if s.Cost != nil {
			cost = strconv.FormatFloat(*s.Cost, 'g', 4, 64)
		}
		switch {
		case s.Chosen:
			state = "  <- chosen"
		case s.Overloaded:
			state = "  at its threshold"
		case s.Weight == 0:
			state = "  quiesced"
		}
		fmt.Fprintf(w, "%d\t%d\t%d\t%s\t  %s %s%s\n", s.Weight, s.Active, s.Inactive, cost, s.Server, s.Forward, state)
	}
	return w.Flush()
}
