// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Name is the network that the scenarios of `director lab` use if they are not told another one.
const Name = "lab"

const mostServers = 200

// scenario is what a lab shows: a network, what is typed on its hosts, and what that promises. Its texts have names in
// place of addresses (VIP), or of the option -6 (FAMILY), and a line that speaks of {i}, a server's number, {n}, the end of its address, or RIP, its
// address, stands for as many lines as there are servers.
type scenario struct {
	name  string
	about string // what it shows, in a few words
	names string // a line for each: its name, and the address that it has in IPv4 and in IPv6
	hosts string // in the words of [Parse]
	first int    // {n} of the first server

	between string // which host stands between the client and the others in the picture, and by which names
	others  string // who those others are

	before  []string // commands: "server{i}# director realserver start --mode dr --vip VIP"
	marks   []mark   // what the director's firewall marks
	service string   // the service, in the words of ipvsadm: "-t VIP:80"
	server  string   // each server in it: "-r RIP:80 -m"
	ports   []uint16 // what the servers listen on; none is 80
	both    bool     // two schedulers are to be seen, and not just one
	stray   uint16   // a port that is not balanced, as the lab shows

	way   string // how the first packets of a connection go, a line a hop: "client → director: CIP → VIP"
	moral string // what is to be learned from that

	play func(*stage, context.Context) error // none: requests are spread by schedulers
}

// Options say how a scenario is played. The zero value plays all that it has to show.
type Options struct {
	Name      string // of the network; none is [Name]
	Scheduler string // play only this one
	Weights   []int  // of the servers, of which there are as many
	Requests  int    // to be sent with each scheduler
	Tunnel    string // for tun: ipip, gre or gue
	XDP       bool   // attach to the native XDP hook of the director's interfaces as well
	IPv6      bool
	Keep      bool // leave everything up at the end
}

// ErrBroken says that something was not what a scenario promises.
var ErrBroken = errors.New("not as promised")

// Play plays a scenario. It answers [ErrBroken] if what happened is not what was promised.
func Play(ctx context.Context, name string, o Options, screen Screen) error {
	sc, err := find(name)
	if err != nil {
		return err
	}
	acts, err := o.acts(sc.both)
	if err != nil {
		return err
	}
	if o.IPv6 && !haveIPv6() {
		return errors.New("this kernel has IPv6 switched off")
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s, err := newStage(sc, o, len(acts[0].weights))
	if err != nil {
		return err
	}
	s.program, s.screen, s.acts = program, screen, acts
	return s.play(ctx)
}

// newStage makes the hosts of a scenario, in both address families at once.
func newStage(sc scenario, o Options, servers int) (*stage, error) {
	s := &stage{scenario: sc, options: o, names: map[string]netip.Addr{}}
	if o.Tunnel != "" && o.Tunnel != "ipip" {
		s.scenario.server += " --tun-type " + o.Tunnel
	}
	if o.Tunnel == "gue" {
		s.scenario.server += " --tun-port 6080"
	}
	for line := range strings.Lines(sc.names) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] != "RIP" {
			s.names[f[0]] = netip.MustParseAddr(f[s.family()])
		}
	}
	var text strings.Builder
	for line := range strings.SplitSeq(sc.hosts, "\n") {
		if !strings.Contains(line, "{i}") {
			text.WriteString(line + "\n")
		}
	}
	for i := range servers {
		for line := range strings.SplitSeq(sc.hosts, "\n") {
			if strings.Contains(line, "{i}") {
				text.WriteString(s.numbered(line, i) + "\n")
			}
		}
	}
	hosts, err := Parse(text.String())
	if err != nil {
		return nil, err
	}
	s.network = Network{Name: cmp.Or(o.Name, Name), Hosts: hosts, XDP: o.XDP}
	for i, h := range hosts {
		for j := range h.Interfaces {
			h.Interfaces[j].MAC = fmt.Sprintf("02:00:00:00:%02x:%02x", i+1, j)
		}
	}
	s.client, s.director = s.host("client"), s.host("director")
	for i := range servers {
		s.servers = append(s.servers, server{s.host(fmt.Sprintf("server%d", i+1)), s.rip(i)})
	}
	return s, nil
}

// family is the column of the addresses that are used.
func (s *stage) family() int {
	if s.options.IPv6 {
		return 2
	}
	return 1
}

// rip gives the address of a server.
func (s *stage) rip(i int) netip.Addr {
	for line := range strings.Lines(s.scenario.names) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RIP" {
			return netip.MustParseAddr(s.numbered(f[s.family()], i))
		}
	}
	return netip.Addr{}
}

func (s *stage) numbered(text string, i int) string {
	return strings.NewReplacer("{i}", fmt.Sprint(i+1), "{n}", fmt.Sprint(i+s.first)).Replace(text)
}

func (s *stage) host(name string) *Host {
	for _, h := range s.network.Hosts {
		if h.Name == name {
			return h
		}
	}
	panic("the scenario has no host " + name)
}

// expand puts addresses in the place of their names, and gives a line for each server if the line is about one.
func (s *stage) expand(line string) (lines []string) {
	family := ""
	if s.options.IPv6 {
		family = " -6"
	}
	line = strings.ReplaceAll(line, " FAMILY", family)
	one := func(line string, rip netip.Addr) string {
		var pairs []string
		add := func(name string, a netip.Addr) {
			pairs = append(pairs, name+":", strings.TrimSuffix(netip.AddrPortFrom(a, 0).String(), "0"), name, a.String())
		}
		for name, a := range s.names {
			add(name, a)
		}
		add("RIP", rip)
		return strings.NewReplacer(pairs...).Replace(line)
	}
	if !strings.Contains(line, "{i}") && !strings.Contains(line, "RIP") {
		return []string{one(line, netip.Addr{})}
	}
	for i, server := range s.servers {
		lines = append(lines, one(s.numbered(line, i), server.addr))
	}
	return lines
}

// vip gives the virtual address with a port.
func (s *stage) vip(port uint16) netip.AddrPort { return netip.AddrPortFrom(s.names["VIP"], port) }
