// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// Spread is how the requests of one scheduler were answered.
type Spread struct {
	Scenario  string     `json:"scenario"`
	Scheduler string     `json:"scheduler"`
	VIP       string     `json:"vip"`
	Servers   []Answered `json:"servers"`
	Sequence  []string   `json:"sequence"` // addresses of the servers that answered, in order
	OK        bool       `json:"ok"`       // the scheduler kept its promise
}

// Answered is how often a server answered.
type Answered struct {
	Address string `json:"address"`
	Weight  int    `json:"weight"`
	Answers int    `json:"answers"`
}

// act is one scheduler, with the weights of the servers under it.
type act struct {
	scheduler string
	weights   []int
}

// acts are what the options ask for: rr and then wrr if both are to be seen, or a single scheduler.
func (o Options) acts(both bool) ([]act, error) {
	weights := o.Weights
	if o.Scheduler == "" && !both {
		o.Scheduler = map[bool]string{true: "rr", false: "wrr"}[len(weights) == 0]
	}
	if len(weights) == 0 {
		weights = []int{1, 3}
		if o.Scheduler == "rr" || o.Scheduler == "lc" {
			weights = alike(weights)
		}
	}
	total := 0
	for _, w := range weights {
		if w < 0 || w > 65535 {
			return nil, fmt.Errorf("weight %d is not in 0 to 65535", w)
		}
		total += w
	}
	switch {
	case len(weights) > mostServers:
		return nil, fmt.Errorf("%d weights: the lab has room for %d servers", len(weights), mostServers)
	case total == 0:
		return nil, errors.New("no server has a weight above zero")
	case o.Requests < 1:
		return nil, fmt.Errorf("%d requests show nothing", o.Requests)
	case o.Scheduler == "":
		return []act{{"rr", alike(weights)}, {"wrr", weights}}, nil
	}
	if _, ok := promises[o.Scheduler]; !ok {
		return nil, fmt.Errorf("scheduler %q: the lab can judge %s", o.Scheduler, strings.Join(Schedulers(), ", "))
	}
	return []act{{o.Scheduler, weights}}, nil
}

// spread shows how each scheduler spreads requests over the servers, and which way the first of them went.
func (s *stage) spread(ctx context.Context) error {
	for i, a := range s.acts {
		if err := s.act(ctx, i == 0, a); err != nil {
			return err
		}
	}
	if s.stray != 0 {
		if err := s.refused(ctx, s.vip(s.stray)); err != nil {
			return err
		}
	}
	s.screen.title("At the end")
	if err := s.command(ctx, "ipvsadm -L -n"); err != nil {
		return err
	}
	return s.command(ctx, "ipvsadm -L -n --stats")
}

// act sets the scheduler and the weights, sends the requests and judges the answers.
func (s *stage) act(ctx context.Context, first bool, a act) error {
	s.screen.title("Scheduler " + a.scheduler)
	service, server := "-E ", "-e "
	if first {
		service, server = "-A ", "-a "
	}
	if err := s.command(ctx, "ipvsadm "+service+s.service+" -s "+a.scheduler); err != nil {
		return err
	}
	for i, line := range s.expand("ipvsadm " + server + s.service + " " + s.server) {
		if a.weights[i] != 1 || !first {
			line += fmt.Sprintf(" -w %d", a.weights[i])
		}
		if err := s.run(ctx, s.director, false, line); err != nil {
			return err
		}
	}
	answers, w, err := s.ask(ctx, first)
	r := Spread{Scenario: s.name, Scheduler: a.scheduler, VIP: s.names["VIP"].String(), Sequence: []string{}}
	for i, one := range s.servers {
		r.Servers = append(r.Servers, Answered{Address: one.addr.String(), Weight: a.weights[i]})
	}
	for _, i := range answers {
		r.Servers[i].Answers++
		r.Sequence = append(r.Sequence, r.Servers[i].Address)
	}
	if err == nil {
		if err = promises[a.scheduler].kept(a.weights, answers); err != nil {
			err = fmt.Errorf("%s: %w: %w", a.scheduler, ErrBroken, err)
		}
	}
	r.OK = err == nil
	s.screen.json(r)
	if r.OK {
		s.screen.verdict(r, promises[a.scheduler].words)
	}
	if w != nil && ctx.Err() == nil {
		err = errors.Join(err, s.show(w))
	}
	return err
}

// ask sends the requests and finds out which servers answered. The first of them may be watched on its way.
func (s *stage) ask(ctx context.Context, watched bool) (answers []int, w *watch, err error) {
	if watched {
		if w, err = s.watch(); err != nil {
			return nil, nil, err
		}
		defer w.close()
	}
	n := s.options.Requests
	s.screen.requests(s.client.Name, s.vip(80), n)
	for i := range n {
		who, text, err := s.get(ctx, s.client, s.vip(80))
		if i == 0 && w != nil {
			w.stop()
		}
		if err != nil {
			return answers, w, fmt.Errorf("request %d: %w", i+1, err)
		}
		answers = append(answers, who)
		s.screen.answer(i, n, who, text)
	}
	return answers, w, nil
}

// get sends a request and finds out which server answers, to the client that it has seen.
func (s *stage) get(ctx context.Context, client *Host, from netip.AddrPort) (who int, text string, err error) {
	text, err = client.Get(ctx, from)
	if ctx.Err() != nil {
		return 0, "", context.Cause(ctx)
	}
	if err != nil {
		return 0, "", err
	}
	name, saw, _ := strings.Cut(text, " answers ")
	i := slices.IndexFunc(s.servers, func(one server) bool { return one.String() == name })
	if i < 0 {
		return 0, "", fmt.Errorf("answered by nobody we know: %q", text)
	}
	seen, err := netip.ParseAddrPort(saw)
	if err != nil || !client.has(seen.Addr()) {
		return 0, "", fmt.Errorf("%w: %s has seen %s, which is not %s", ErrBroken, name, saw, client.Name)
	}
	return i, text, nil
}

// has tells whether an address is one of the host.
func (h *Host) has(a netip.Addr) bool {
	return slices.ContainsFunc(h.Interfaces, func(i Interface) bool {
		return slices.ContainsFunc(i.Addrs, func(own string) bool { return strings.HasPrefix(own, a.String()+"/") })
	})
}

// refused shows that what no service is for does not reach a server.
func (s *stage) refused(ctx context.Context, at netip.AddrPort) error {
	s.screen.title("Another port")
	s.screen.requests(s.client.Name, at, 1)
	who, _, err := s.get(ctx, s.client, at)
	if err == nil {
		return fmt.Errorf("%w: %s answers at %v", ErrBroken, s.servers[who], at)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	s.screen.output("refused")
	s.screen.success("a port without a mark is no matter of the service")
	return nil
}
