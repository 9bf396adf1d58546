// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/term"

	"lvs/lab"
)

type labVerb struct {
	Nat   natVerb      `cmd:"" help:"NAT: requests spread over HTTP servers behind the director."`
	Clean cleanVerb    `cmd:"" help:"Take away a lab that was kept, or that a killed one left."`
	Serve labServeVerb `cmd:"" hidden:""`
}

// scenarioFlags are those of each scenario.
type scenarioFlags struct {
	Scheduler string `help:"Only this scheduler: rr, wrr, lc or wlc. Otherwise rr, then wrr." placeholder:"NAME"`
	Weights   []int  `help:"Weights of the servers, of which there are as many (default: 1,3)." placeholder:"W,..."`
	Requests  int    `help:"Requests to send with each scheduler." default:"8" placeholder:"N"`
	XDP       bool   `name:"xdp" help:"Use the XDP hook of the director's interfaces too."`
	IPv6      bool   `name:"ipv6" help:"Use IPv6."`
	Keep      bool   `help:"Leave the lab up at the end, and say how to enter its hosts."`
	JSON      bool   `name:"json" help:"Print one JSON object a line for each scheduler, and nothing else."`
}

func (f scenarioFlags) options() lab.Options {
	return lab.Options{Scheduler: f.Scheduler, Weights: f.Weights, Requests: f.Requests,
		XDP: f.XDP, IPv6: f.IPv6, Keep: f.Keep}
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
func (v natVerb) Run(ctx context.Context) error { return v.play(ctx, lab.NAT) }

// play runs a scenario with its story on the standard output, or its results there as JSON.
func (f scenarioFlags) play(ctx context.Context,
	scenario func(context.Context, lab.Options, lab.Screen) ([]lab.Result, error)) error {
	screen := lab.Screen{Out: os.Stdout, Colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""}
	if f.JSON {
		screen = lab.Screen{Out: io.Discard}
	}
	results, err := scenario(ctx, f.options(), screen)
	if f.JSON {
		lines := json.NewEncoder(os.Stdout)
		for _, r := range results {
			err = errors.Join(err, lines.Encode(r))
		}
	}
	return err
}

type cleanVerb struct{}

// Help is what --help adds.
func (cleanVerb) Help() string {
	return `What runs in the hosts of the lab is killed, and their namespaces are removed.

Example:
  director lab clean`
}

// Run takes the lab away.
func (cleanVerb) Run() error {
	found, err := lab.Clean(lab.Name)
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
