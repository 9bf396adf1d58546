// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Options say how a scenario is played. The zero value plays all that it has to show.
type Options struct {
	Scheduler string // play only this one
	Weights   []int  // of the servers, of which there are as many
	Requests  int    // to be sent with each scheduler
	XDP       bool   // attach to the native XDP hook of the director's interfaces as well
	IPv6      bool
	Keep      bool // leave everything up at the end
}

// Result is how the requests of one scheduler were answered.
type Result struct {
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

// ErrBroken says that answers were not what the scheduler promises.
var ErrBroken = errors.New("not what the scheduler promises")

// stage is what a scenario plays on: a network with a client, a director and servers behind a virtual address.
type stage struct {
	scenario string
	network  Network
	client   *Host
	director *Host
	servers  []server
	cip, dip netip.Addr
	vip      netip.AddrPort
	forward  string // the option of ipvsadm: "-m"
	program  string // the path of our binary
	screen   Screen
	open     []*net.TCPListener
}

type server struct {
	host *Host
	addr netip.AddrPort
}

func (s server) String() string { return s.host.Name + " " + s.addr.Addr().String() }

// act is one scheduler, with the weights of the servers under it.
type act struct {
	scheduler string
	weights   []int
}

// acts are what the options ask for: rr and then wrr, or a single scheduler.
func (o Options) acts() ([]act, error) {
	weights := o.Weights
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

// play brings the network up, plays the acts and takes the network away again, or leaves it if it is to be kept.
func (s *stage) play(ctx context.Context, acts []act, o Options) (results []Result, err error) {
	s.director.Leave = []string{s.program, "unload"}
	s.network.XDP = o.XDP
	if err := s.network.Up(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if o.Keep && ctx.Err() == nil { // a lab that went wrong is worth a look, too
			failed := s.keep(ctx)
			err = errors.Join(err, failed)
			if failed == nil {
				return
			}
		}
		for _, l := range s.open {
			l.Close()
		}
		err = errors.Join(err, s.network.Down())
	}()
	if err := s.serve(); err != nil {
		return nil, err
	}
	s.screen.picture(s)
	if o.XDP {
		if err := s.run(ctx, "director", "attach", "--xdp", "eth0", "eth1"); err != nil {
			return nil, err
		}
	}
	for i, a := range acts {
		r, err := s.act(ctx, i == 0, a, o.Requests)
		if r != nil {
			results = append(results, *r)
		}
		if err != nil {
			return results, err
		}
	}
	s.screen.title("At the end")
	if err := s.run(ctx, "ipvsadm", "-L", "-n"); err != nil {
		return results, err
	}
	return results, s.run(ctx, "ipvsadm", "-L", "-n", "--stats")
}

// serve starts the HTTP servers.
func (s *stage) serve() error {
	for _, server := range s.servers {
		l, err := server.host.Listen("tcp", server.addr.String())
		if err != nil {
			return fmt.Errorf("server %s: %w", server.host.Name, err)
		}
		s.open = append(s.open, l.(*net.TCPListener))
		go Serve(l, server.String()) // ends with its listener
	}
	return nil
}

// act sets the scheduler and the weights, sends the requests and judges the answers.
func (s *stage) act(ctx context.Context, first bool, a act, requests int) (*Result, error) {
	s.screen.title("Scheduler " + a.scheduler)
	service, server := "-E", "-e"
	if first {
		service, server = "-A", "-a"
	}
	if err := s.run(ctx, "ipvsadm", service, "-t", s.vip.String(), "-s", a.scheduler); err != nil {
		return nil, err
	}
	for i, one := range s.servers {
		args := []string{server, "-t", s.vip.String(), "-r", one.addr.String(), s.forward}
		if a.weights[i] != 1 || !first {
			args = append(args, "-w", strconv.Itoa(a.weights[i]))
		}
		if err := s.run(ctx, "ipvsadm", args...); err != nil {
			return nil, err
		}
	}
	answers, err := s.ask(ctx, requests)
	r := &Result{Scenario: s.scenario, Scheduler: a.scheduler, VIP: s.vip.Addr().String(), Sequence: []string{}}
	for i, one := range s.servers {
		r.Servers = append(r.Servers, Answered{Address: one.addr.Addr().String(), Weight: a.weights[i]})
	}
	for _, i := range answers {
		r.Servers[i].Answers++
		r.Sequence = append(r.Sequence, r.Servers[i].Address)
	}
	if err != nil {
		return r, err
	}
	if err := promises[a.scheduler].kept(a.weights, answers); err != nil {
		return r, fmt.Errorf("%s: %w: %w", a.scheduler, ErrBroken, err)
	}
	r.OK = true
	s.screen.verdict(*r, promises[a.scheduler].words)
	return r, nil
}

// ask sends the requests and finds out which servers answered.
func (s *stage) ask(ctx context.Context, requests int) (answers []int, err error) {
	s.screen.requests(s.client.Name, s.vip, requests)
	for n := range requests {
		text, err := s.client.Get(ctx, s.vip)
		if ctx.Err() != nil {
			return answers, context.Cause(ctx)
		}
		if err != nil {
			return answers, fmt.Errorf("request %d: %w", n+1, err)
		}
		who, err := s.who(text)
		if err != nil {
			return answers, fmt.Errorf("request %d: %w", n+1, err)
		}
		answers = append(answers, who)
		s.screen.answer(n, requests, who, text)
	}
	return answers, nil
}

func (s *stage) who(answer string) (int, error) {
	for i, one := range s.servers {
		if strings.HasPrefix(answer, one.String()+" ") {
			return i, nil
		}
	}
	return 0, fmt.Errorf("answered by nobody we know: %q", answer)
}

// run runs our binary in the director under the name by which an operator would call it, and shows it.
func (s *stage) run(ctx context.Context, name string, args ...string) error {
	s.screen.command(s.director.Name, name, args)
	c := s.director.Command(ctx, s.program, args...)
	c.Args[0] = name
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	s.screen.output(string(out))
	return nil
}

// keep hands the listeners to processes that outlive this one, and leaves the network up.
func (s *stage) keep(ctx context.Context) error {
	for i, server := range s.servers {
		l, err := s.open[i].File()
		if err != nil {
			return err
		}
		c := server.host.Command(context.WithoutCancel(ctx), s.program, "lab", "serve", server.String())
		c.ExtraFiles = []*os.File{l}
		c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		err = c.Start()
		l.Close()
		if err != nil {
			return fmt.Errorf("server %s: %w", server.host.Name, err)
		}
		s.open[i].Close()
	}
	s.screen.kept(s)
	return s.network.Keep()
}

// ServeInherited is [Serve] on the listener that a kept lab leaves to a process as file descriptor 3.
func ServeInherited(who string) error {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return fmt.Errorf("the inherited listener: %w", err)
	}
	return Serve(l, who)
}
