// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"lvs/simulate"
)

type simulateVerb struct {
	Weights      []int32            `help:"Weights of the servers, of which there are as many." default:"1,2,5" placeholder:"W,..."`
	Schedulers   []string           `help:"Schedulers, or all." default:"all" placeholder:"NAME,..."`
	Flags        []string           `help:"Their flags: sh-port, sh-fallback, mh-port, mh-fallback." placeholder:"FLAG,..."`
	Arrivals     simulate.Arrivals  `help:"When connections come: poisson:200/s, constant:200/s, or burst:200/s:50 for 50 at once." default:"poisson:200/s" placeholder:"KIND:RATE"`
	Duration     simulate.Durations `help:"How long they last: exp:3s, const:3s, or pareto:3s, which has a few very long ones." default:"exp:3s" placeholder:"KIND:TIME"`
	Conns        int                `help:"How many there are." default:"1000000" placeholder:"N"`
	Clients      int                `help:"Clients that they come from, each as often as any other." default:"1000" placeholder:"N"`
	Destinations int                `help:"Addresses that they go to, which dh, lblc and lblcr go by." default:"1" placeholder:"N"`
	Replay       string             `help:"Take the connections from a file, or from the standard input (-), in place of all that." placeholder:"FILE"`
	Persistent   time.Duration      `short:"p" help:"Persistence: how long a client stays with its server." placeholder:"TIME"`
	TimeWait     time.Duration      `help:"How long a connection that is over counts as inactive." default:"2m" placeholder:"TIME"`
	Leave        int                `help:"Number of the server that leaves and comes back at the end (default: the last one)." placeholder:"N"`
	Quiesce      bool               `help:"It leaves by weight 0, and is not removed."`
	Seed         uint64             `help:"Another number, another row of chances." default:"1" placeholder:"N"`
	JSON         bool               `name:"json" help:"Print one JSON object a line for each scheduler."`
	SVG          string             `name:"svg" help:"Draw it into this file." placeholder:"FILE"`
}

// Help is what --help adds.
func (simulateVerb) Help() string {
	return `The same connections for each scheduler: what share of them each server has, how busy that keeps it, how fair that is to
the weights, how many clients stay with their server, and how many are moved when another server leaves and comes back. The
schedulers are those that the director has, flags, tie-breaks and all; nothing is sent, and no root is needed. ovf takes weights
for numbers of connections, and refuses what is too much.

A line of a file to replay is TIME,CLIENT[:PORT],DURATION[,DESTINATION[:PORT]], with commas or blanks between. Times are seconds
or have a unit:

  time,client,duration
  0.00,198.51.100.7:40112,3.2
  0.25,[2001:db8::7]:51820,1m30s

Examples:
  director simulate
  director simulate --weights 1,2,5 --arrivals poisson:200/s --duration exp:3s --schedulers wrr,wlc,mh --svg loads.svg
  director simulate --schedulers sh,mh --flags sh-port --clients 100000 --leave 1 --quiesce
  director simulate --weights 100,100 --arrivals burst:50/s:20 --duration pareto:10s -p 5m --json | jq .load_fairness
  director simulate --replay arrivals.csv --weights 3,1 --schedulers wlc,sed`
}

// Run simulates.
func (v simulateVerb) Run(ctx context.Context) error {
	contenders, err := simulate.Contenders(v.Schedulers, v.Flags)
	if err != nil {
		return fmt.Errorf("--%w", err)
	}
	s, err := v.setup()
	if err != nil {
		return err
	}
	if err := s.Check(); err != nil {
		return fmt.Errorf("--%w", err)
	}
	var done atomic.Int64
	shown := showProgress(&done, s.Total(len(contenders)))
	results, err := s.Run(ctx, contenders, &done)
	shown()
	if err != nil {
		return err
	}
	if v.SVG != "" {
		if err := writeFile(v.SVG, func(out io.Writer) error { return s.SVG(out, results) }); err != nil {
			return err
		}
	}
	if v.JSON {
		lines := json.NewEncoder(os.Stdout)
		for _, r := range results {
			if err := lines.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.Table(os.Stdout, results); err != nil {
		return err
	}
	width, colour := 72, false
	if wide, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		width, colour = min(max(wide-20, 20), 100), os.Getenv("NO_COLOR") == ""
	}
	return s.Chart(os.Stdout, results, width, colour)
}

func (v simulateVerb) setup() (simulate.Setup, error) {
	s := simulate.Setup{
		Weights: v.Weights, TimeWait: v.TimeWait, Persistent: v.Persistent, Leaver: v.Leave, Quiesce: v.Quiesce, Seed: v.Seed,
		Load: simulate.Load{Arrivals: v.Arrivals, Durations: v.Duration, Conns: v.Conns, Clients: v.Clients, Destinations: v.Destinations},
	}
	if v.Replay == "" {
		return s, nil
	}
	in := os.Stdin
	if v.Replay != "-" {
		file, err := os.Open(v.Replay)
		if err != nil {
			return s, fmt.Errorf("--replay: %w", err)
		}
		defer file.Close()
		in = file
	}
	replay, err := simulate.ReadReplay(in)
	if err != nil {
		return s, fmt.Errorf("--replay %s: %w", v.Replay, err)
	}
	s.Load.Replay = replay
	return s, nil
}

// writeFile writes a file, and says so if that, too, does not work in the end.
func writeFile(name string, write func(io.Writer) error) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(file)
	err = write(out)
	if err == nil {
		err = out.Flush()
	}
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}

// showProgress tells, on a terminal, how much of what takes more than a second is done. The function that it answers
// ends it.
func showProgress(done *atomic.Int64, total int64) func() {
	if !term.IsTerminal(int(os.Stderr.Fd())) {
		return func() {}
	}
	over, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		const clear = "\r\x1b[K"
		for wait := time.Second; ; wait = 200 * time.Millisecond {
			select {
			case <-over:
				fmt.Fprint(os.Stderr, clear)
				return
			case <-time.After(wait):
				fmt.Fprintf(os.Stderr, "%s%d %% of %d connections", clear, done.Load()*100/max(total, 1), total)
			}
		}
	}()
	return func() {
		close(over)
		<-gone
	}
}
