// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Played is how a scenario went.
type Played struct {
	Scenario string  `json:"scenario"`
	Tunnel   string  `json:"tunnel,omitempty"`
	Shows    string  `json:"shows"`
	Seconds  float64 `json:"seconds"`
	OK       bool    `json:"ok"`
	Error    string  `json:"error,omitempty"`
}

// Scenarios are the labs that there are.
func Scenarios() (names []string) {
	for _, sc := range scenarios {
		names = append(names, sc.name)
	}
	return names
}

// All plays the scenarios of these names, tunnels of each type, and shows how each went. It answers [ErrBroken] if one
// went wrong.
func All(ctx context.Context, names []string, o Options, screen Screen) error {
	o.Requests, o.Keep = 8, false
	screen.print("")
	screen.played("lab", "what it shows", "time", "")
	wrong, all := 0, 0
	for _, name := range names {
		sc, err := find(name)
		if err != nil {
			return err
		}
		for _, o.Tunnel = range sc.tunnels() {
			p := Played{Scenario: sc.name, Tunnel: o.Tunnel, Shows: sc.about}
			begin := time.Now()
			err := Play(ctx, name, o, Screen{Out: io.Discard})
			p.Seconds = time.Since(begin).Seconds()
			if ctx.Err() != nil || errors.Is(err, ErrUp) {
				return err
			}
			p.OK = err == nil
			all++
			mark := screen.paint(good, "✓")
			if err != nil {
				p.Error = err.Error()
				mark = screen.paint(bad, "✗")
				wrong++
			}
			screen.played(p.Scenario+" "+p.Tunnel, p.Shows, fmt.Sprintf("%.1f s", p.Seconds), mark)
			screen.output(p.Error)
			screen.json(p)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d labs: %w", wrong, all, ErrBroken)
	}
	return nil
}

func find(name string) (scenario, error) {
	for _, sc := range scenarios {
		if sc.name == name {
			return sc, nil
		}
	}
	return scenario{}, fmt.Errorf("no lab is called %s: there are %s", name, strings.Join(Scenarios(), ", "))
}

// tunnels are the types of tunnels that a scenario can be played with; that of one without tunnels has no name.
func (sc scenario) tunnels() []string {
	if sc.name == "tun" {
		return []string{"ipip", "gre", "gue"}
	}
	return []string{""}
}
