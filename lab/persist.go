// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Sticky is how the requests to a kind of persistent service were answered.
type Sticky struct {
	Scenario string    `json:"scenario"`
	Kind     string    `json:"kind"`
	VIP      string    `json:"vip"`
	Requests []Request `json:"requests"`
	OK       bool      `json:"ok"` // requests stuck where they should, and only there
}

// Request is one of them.
type Request struct {
	Client string `json:"client"`
	Port   uint16 `json:"port"`
	Server string `json:"server,omitempty"` // none: the request was refused
	Sticks bool   `json:"sticks"`           // to a server that this client has had before, and to no other choice
}

// kind is a way to be persistent.
type kind struct {
	name, about string
	commands    []string
	// joined gives what the ports have in common whose requests stay together, or nothing if they are refused.
	joined func(port uint16) string
	words  string
}

var kinds = []kind{{
	name: "PPC", about: "a service for each port, and persistent (-p)",
	commands: []string{
		"ipvsadm -A -t VIP:80 -s rr -p", "ipvsadm -a -t VIP:80 -r RIP:80 -m",
		"ipvsadm -A -t VIP:443 -s rr -p", "ipvsadm -a -t VIP:443 -r RIP:443 -m",
	},
	joined: func(port uint16) string { return map[uint16]string{80: "80", 443: "443"}[port] },
	words:  "PPC: a client has a server for each port",
}, {
	name: "PCC", about: "one service for all ports (0)",
	commands: []string{"ipvsadm -A -t VIP:0 -s rr -p", "ipvsadm -a -t VIP:0 -r RIP:0 -m"},
	joined:   func(uint16) string { return "all" },
	words:    "PCC: a client has one server for all ports",
}, {
	name: "PFWMC", about: "one service for the ports that the firewall marks alike (99)",
	commands: []string{"ipvsadm -A -f 99 FAMILY -s rr -p", "ipvsadm -a -f 99 FAMILY -r RIP -m"},
	joined:   func(port uint16) string { return map[uint16]string{80: "mark", 443: "mark"}[port] },
	words:    "PFWMC: a client has one server for the ports that the mark joins",
}}

// visits are the requests that each kind gets, in this order: so that a client has another server at another port
// wherever nothing keeps it at the first one.
var visits = []struct {
	client string
	port   uint16
}{
	{"client", 80}, {"client2", 80}, {"client2", 443}, {"client", 443},
	{"client", 80}, {"client", 443}, {"client2", 80}, {"client2", 443}, {"client", 8080},
}

// persist shows which requests stick to a server, by each kind of persistence.
func (s *stage) persist(ctx context.Context) error {
	rows := [][]cell{{{"client", bold}, {"asks for", bold}}}
	for _, v := range visits {
		rows = append(rows, []cell{{v.client, ""}, {fmt.Sprintf("port %d", v.port), ""}})
	}
	var broken error
	for i, k := range kinds {
		s.screen.title(k.name + ": " + k.about)
		if i > 0 {
			if err := s.command(ctx, "ipvsadm -C"); err != nil {
				return err
			}
		}
		for _, c := range k.commands {
			if err := s.command(ctx, c); err != nil {
				return err
			}
		}
		r, err := s.visit(ctx, k)
		s.screen.json(r)
		if err != nil && !errors.Is(err, ErrBroken) {
			return err
		}
		broken = errors.Join(broken, err)
		rows[0] = append(rows[0], cell{k.name, bold})
		for j, request := range r.Requests {
			rows[j+1] = append(rows[j+1], s.cell(request))
		}
	}
	s.screen.title("Which requests stick (=) to the server that their client has already")
	s.screen.table(rows)
	if broken != nil {
		return broken
	}
	for _, k := range kinds {
		s.screen.success(k.words)
	}
	s.screen.title("At the end")
	return s.command(ctx, "ipvsadm -L -n --persistent-conn")
}

func (s *stage) cell(r Request) cell {
	for i, one := range s.servers {
		if one.addr.String() != r.Server {
			continue
		}
		text := one.host.Name
		if r.Sticks {
			text += " ="
		}
		return cell{text, serverColour(i)}
	}
	return cell{"refused", faint}
}

// visit sends the requests and judges the answers: those that belong together have one server, and those that begin
// something get a server in turn, the newest first.
func (s *stage) visit(ctx context.Context, k kind) (r Sticky, err error) {
	r = Sticky{Scenario: s.name, Kind: k.name, VIP: s.names["VIP"].String(), Requests: []Request{}}
	has, begun := map[string]int{}, map[string]int{}
	for i, v := range visits {
		who, _, err := s.get(ctx, s.host(v.client), s.vip(v.port))
		request := Request{Client: v.client, Port: v.port}
		joined := k.joined(v.port)
		key := v.client + " " + joined
		server, sticks := has[key]
		switch {
		case err != nil && !errors.Is(err, syscall.ECONNREFUSED):
			return r, fmt.Errorf("%s: request %d: %w", k.name, i+1, err)
		case joined == "" && err == nil, joined != "" && err != nil:
			return r, fmt.Errorf("%s: request %d: %w: port %d answers %v", k.name, i+1, ErrBroken, v.port, err)
		case joined == "":
			r.Requests = append(r.Requests, request)
			continue
		case !sticks:
			n := len(s.servers)
			server = n - 1 - begun[joined]%n
			begun[joined]++
			has[key] = server
		}
		if who != server {
			return r, fmt.Errorf("%s: request %d: %w: %s answers, and not %s", k.name, i+1, ErrBroken,
				s.servers[who].host.Name, s.servers[server].host.Name)
		}
		request.Server, request.Sticks = s.servers[who].addr.String(), sticks
		r.Requests = append(r.Requests, request)
	}
	r.OK = true
	return r, nil
}
