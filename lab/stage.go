// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// stage is what a scenario plays on.
type stage struct {
	scenario
	options  Options
	acts     []act
	network  Network
	names    map[string]netip.Addr
	client   *Host
	director *Host
	servers  []server
	program  string // the path of our binary
	screen   Screen
	open     []opened
}

type server struct {
	host *Host
	addr netip.Addr
}

func (s server) String() string { return s.host.Name + " " + s.addr.String() }

// opened is a listener of a server.
type opened struct {
	server
	*net.TCPListener
}

// play brings the network up, plays and takes the network away again, or leaves it if it is to be kept.
func (s *stage) play(ctx context.Context) (err error) {
	s.director.Leave = []string{s.program, "unload"}
	for _, one := range s.servers {
		if len(s.before) > 0 {
			one.host.Leave = []string{s.program, "realserver", "stop"}
		}
	}
	if err := s.network.Up(ctx); err != nil {
		return err
	}
	defer func() {
		if s.options.Keep && ctx.Err() == nil { // a lab that went wrong is worth a look, too
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
	if err := s.listen(); err != nil {
		return err
	}
	s.screen.picture(s)
	if err := s.prepare(ctx); err != nil {
		return err
	}
	script := s.scenario.play
	if script == nil {
		script = (*stage).spread
	}
	return script(s, ctx)
}

// listen starts the HTTP servers.
func (s *stage) listen() error {
	network := "tcp4"
	if s.options.IPv6 {
		network = "tcp6"
	}
	for _, one := range s.servers {
		ports := s.ports
		if len(ports) == 0 {
			ports = []uint16{80}
		}
		for _, port := range ports {
			l, err := one.host.Listen(network, fmt.Sprintf(":%d", port))
			if err != nil {
				return fmt.Errorf("server %s: %w", one.host.Name, err)
			}
			s.open = append(s.open, opened{one, l.(*net.TCPListener)})
			go Serve(l, one.String()) // ends with its listener
		}
	}
	return nil
}

// prepare does what is needed before there is a service.
func (s *stage) prepare(ctx context.Context) error {
	commands := slices.Clone(s.before)
	if len(s.marks) > 0 {
		rules, err := s.rules()
		if err != nil {
			return err
		}
		commands = append(commands, rules...)
	}
	if s.options.XDP {
		attach := "director# director attach --xdp"
		for _, i := range s.director.Interfaces {
			attach += " " + i.Name
		}
		commands = append(commands, attach)
	}
	if len(commands) > 0 {
		s.screen.title("To begin with")
	}
	for _, c := range commands {
		same := s.expand(c)
		for i, c := range same {
			on, c, _ := strings.Cut(c, "# ")
			if err := s.run(ctx, s.host(on), len(same) > 4 && i > 0, c); err != nil {
				return err
			}
		}
		if len(same) > 4 {
			s.screen.output(fmt.Sprintf("and the same on %d more", len(same)-1))
		}
	}
	return nil
}

// command shows a command of the director, and runs it.
func (s *stage) command(ctx context.Context, line string) error {
	for _, l := range s.expand(line) {
		if err := s.run(ctx, s.director, false, l); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command in a host. Our binary has the name there by which an operator would call it.
func (s *stage) run(ctx context.Context, on *Host, quiet bool, line string) error {
	if !quiet {
		s.screen.command(on.Name, line)
	}
	args := words(line)
	program := s.program
	if args[0] != "director" && args[0] != "ipvsadm" {
		path, err := exec.LookPath(args[0])
		if err != nil {
			return err
		}
		program = path
	}
	c := on.Command(ctx, program, args[1:]...)
	c.Args[0] = args[0]
	out, err := c.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, bytes.TrimSpace(out))
	}
	if !quiet {
		s.screen.output(string(out))
	}
	return nil
}

// words splits a command as a shell does that knows single quotes.
func words(line string) (all []string) {
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

// keep hands the listeners to processes that outlive this one, and leaves the network up.
func (s *stage) keep(ctx context.Context) error {
	for _, one := range s.open {
		l, err := one.File()
		if err != nil {
			return err
		}
		c := one.host.Command(context.WithoutCancel(ctx), s.program, "lab", "serve", one.String())
		c.ExtraFiles = []*os.File{l}
		c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		err = c.Start()
		l.Close()
		if err != nil {
			return fmt.Errorf("server %s: %w", one.host.Name, err)
		}
		one.Close()
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
