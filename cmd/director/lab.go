// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"lvs/lab"
)

type labVerb struct {
	Nat         natVerb         `cmd:"" help:"NAT: requests spread over HTTP servers behind the director."`
	Dr          drVerb          `cmd:"" help:"Direct routing: servers with the virtual address answer clients directly."`
	Tun         tunVerb         `cmd:"" help:"Tunnels: the same, with servers in other networks."`
	Fullnat     fullnatVerb     `cmd:"" help:"FULLNAT: servers with any gateway, which see the client's address all the same."`
	Fwmark      fwmarkVerb      `cmd:"" help:"Services by firewall mark."`
	Persistence persistenceVerb `cmd:"" help:"Persistence per port, per client and per firewall mark, side by side."`
	All         allVerb         `cmd:"" help:"Play every lab, and show a table of how each went."`
	Clean       cleanVerb       `cmd:"" help:"Take away a lab that was kept, or that a killed one left."`
	Serve       labServeVerb    `cmd:"" hidden:""`
}

// stageFlags are those of each scenario.
type stageFlags struct {
	XDP  bool   `name:"xdp" help:"Use the XDP hook of the director's interfaces too."`
	IPv6 bool   `name:"ipv6" help:"Use IPv6."`
	Name string `help:"Name of the network: labs with different ones can be up at once." default:"lab" placeholder:"NAME"`
	Keep bool   `help:"Leave the lab up at the end, and say how to enter its hosts."`
	JSON bool   `name:"json" help:"Print one JSON object a line for each thing shown, and nothing else."`
}

func (f stageFlags) options() lab.Options {
	return lab.Options{Name: f.Name, XDP: f.XDP, IPv6: f.IPv6, Keep: f.Keep}
}

// scenarioFlags are those of the scenarios that spread requests.
type scenarioFlags struct {
	stageFlags `embed:""`

	Scheduler string `help:"Only this scheduler: rr, wrr, lc or wlc. Otherwise rr, or wrr if there are weights; nat shows both." placeholder:"NAME"`
	Weights   []int  `help:"Weights of the servers, of which there are as many (default: 1,3)." placeholder:"W,..."`
	Requests  int    `help:"Requests to send with each scheduler." default:"8" placeholder:"N"`
}

func (f scenarioFlags) options() lab.Options {
	o := f.stageFlags.options()
	o.Scheduler, o.Weights, o.Requests = f.Scheduler, f.Weights, f.Requests
	return o
}

type natVerb struct {
	scenarioFlags `embed:""`
}

// Help is what --help adds.
func (natVerb) Help() string {
	return `A client in 172.16.249.0/24, a director with the virtual address 172.16.249.57, and HTTP servers in
192.168.100.0/24 whose gateway is the director. The exit status is 0 only if the answers are what the scheduler
promises.

Examples:
  director lab nat
  director lab nat --scheduler wlc --weights 1,2,4 --requests 70
  director lab nat --xdp --ipv6 --json
  director lab nat --keep && ip netns exec lab-client curl http://172.16.249.57/; director lab clean`
}

// Run plays the scenario.
func (v natVerb) Run(ctx context.Context) error { return lab.Play(ctx, "nat", v.options(), v.screen()) }

// screen is the standard output: with the story, or with what was shown as JSON.
func (f stageFlags) screen() lab.Screen {
	if f.JSON {
		return lab.Screen{Out: io.Discard, JSON: os.Stdout}
	}
	return lab.Screen{Out: os.Stdout, Colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""}
}

type drVerb struct {
	scenarioFlags `embed:""`
}

// Help is what --help adds.
func (drVerb) Help() string {
	return `Everybody is in the tutorial's network 172.16.0.0/16: a client, a director with the virtual address 172.16.50.50, and
servers from 172.16.200.10 on, which have that address too, but tell nobody. The director passes requests on in a frame for the
server, and the server answers the client. The exit status is 0 only if packets went that way, and the answers are what the
scheduler promises.

Examples:
  director lab dr
  director lab dr --xdp --ipv6
  director lab dr --scheduler wlc --weights 1,2,4 --requests 70
  director lab dr --keep && ip netns exec lab-server1 director realserver status; director lab clean`
}

// Run plays the scenario.
func (v drVerb) Run(ctx context.Context) error { return lab.Play(ctx, "dr", v.options(), v.screen()) }

type tunVerb struct {
	scenarioFlags `embed:""`
	TunType       string `enum:"ipip,gre,gue" default:"ipip" placeholder:"TYPE" help:"The tunnel: ipip, gre or gue."`
}

// Help is what --help adds.
func (tunVerb) Help() string {
	return `Client, director and servers are in networks of their own, with a router between them. The director sends requests to the
servers inside of other packets, and the servers answer the client. The exit status is 0 only if packets went that way, and
the answers are what the scheduler promises.

Examples:
  director lab tun
  director lab tun --tun-type gue --xdp
  director lab tun --tun-type gre --ipv6 --json`
}

// Run plays the scenario.
func (v tunVerb) Run(ctx context.Context) error {
	o := v.options()
	o.Tunnel = v.TunType
	return lab.Play(ctx, "tun", o, v.screen())
}

type fullnatVerb struct {
	scenarioFlags `embed:""`
}

// Help is what --help adds.
func (fullnatVerb) Help() string {
	return `Client, director and servers are in networks of their own, with a router between them that is everybody's gateway. The director
sends requests to the servers from a local address, so that answers come back to it, and a TCP option tells the servers who the client
is. The exit status is 0 only if packets went that way, servers have seen the client's address, and the answers are what the
scheduler promises.

Examples:
  director lab fullnat
  director lab fullnat --xdp --ipv6
  director lab fullnat --keep && ip netns exec lab-director director laddr list; director lab clean`
}

// Run plays the scenario.
func (v fullnatVerb) Run(ctx context.Context) error {
	return lab.Play(ctx, "fullnat", v.options(), v.screen())
}

type fwmarkVerb struct {
	scenarioFlags `embed:""`
}

// Help is what --help adds.
func (fwmarkVerb) Help() string {
	return `The network is that of nat. The director's firewall (iptables, or nft where that is missing) marks port 80 of the virtual
address with 5, and the service is that mark; port 8080 has none. The exit status is 0 only if packets went their way, the answers
are what the scheduler promises, and port 8080 was refused.

Examples:
  director lab fwmark
  director lab fwmark --xdp --ipv6`
}

// Run plays the scenario.
func (v fwmarkVerb) Run(ctx context.Context) error {
	return lab.Play(ctx, "fwmark", v.options(), v.screen())
}

type persistenceVerb struct {
	stageFlags `embed:""`
}

// Help is what --help adds.
func (persistenceVerb) Help() string {
	return `Two clients ask for ports 80, 443 and 8080, three times over: of a persistent service for each port (PPC), of one for all
ports (PCC), and of one for ports that a firewall marks alike (PFWMC). A table shows which requests stick to the server that
their client has already. The exit status is 0 only if those do that should, and no other ones.

Examples:
  director lab persistence
  director lab persistence --ipv6 --json`
}

// Run plays the scenario.
func (v persistenceVerb) Run(ctx context.Context) error {
	o := v.options()
	o.Requests = 1
	return lab.Play(ctx, "persistence", o, v.screen())
}

type allVerb struct {
	Labs []string `arg:"" optional:"" name:"lab" help:"Only these."`
	XDP  bool     `name:"xdp" help:"Use the XDP hook of the director's interfaces too."`
	IPv6 bool     `name:"ipv6" help:"Use IPv6."`
	Name string   `help:"Name of the network." default:"lab" placeholder:"NAME"`
	JSON bool     `name:"json" help:"Print one JSON object a line for each lab, and nothing else."`
}

// Help is what --help adds.
func (allVerb) Help() string {
	return `A table tells of each lab what it shows, how long it took and whether everything was as promised. The exit status is 1 if
something was not.

Examples:
  director lab all
  director lab all --xdp --ipv6
  director lab all --json nat dr`
}

// Run plays them.
func (v allVerb) Run(ctx context.Context) error {
	f := stageFlags{Name: v.Name, XDP: v.XDP, IPv6: v.IPv6, JSON: v.JSON}
	if len(v.Labs) == 0 {
		v.Labs = lab.Scenarios()
	}
	return lab.All(ctx, v.Labs, f.options(), f.screen())
}

type cleanVerb struct {
	Name string `help:"Name of the network." default:"lab" placeholder:"NAME"`
}

// Help is what --help adds.
func (cleanVerb) Help() string {
	return `What runs in the hosts of the lab is killed, and their namespaces are removed.

Examples:
  director lab clean
  director lab clean --name mine`
}

// Run takes the lab away.
func (v cleanVerb) Run() error {
	found, err := lab.Clean(v.Name)
	if err == nil && !found {
		fmt.Println("There is no lab to take away.")
	}
	return err
}

// labServeVerb is a server of a lab that is kept.
type labServeVerb struct {
	Who string `arg:""`
}

// Run answers requests until it is killed.
func (v labServeVerb) Run() error { return lab.ServeInherited(v.Who) }
