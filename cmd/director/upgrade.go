// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
)

type upgradeVerb struct {
	Again bool `help:"Also if the programs that run are those of this binary."`
	JSON  bool `name:"json" help:"Print one JSON object."`
}

// Help is what --help adds.
func (upgradeVerb) Help() string {
	return `For the time after another version was installed; a package does it by itself. Services, connections, templates, counters,
rates and settings stay, and packets go on. If the kernel does not take the new programs, or anything else fails, those go on that
ran before, and the exit status is 1. Nothing loaded, and nothing to replace, is no failure.

What is pinned is mended as well, if something of it is missing or is something else.

Examples:
  director upgrade
  director upgrade --json`
}

// Run upgrades.
func (v upgradeVerb) Run() error {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	u, err := d.Upgrade(v.Again)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if v.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(u)
	}
	for _, wrong := range u.Mended {
		fmt.Println("mended:", wrong)
	}
	switch {
	case !u.Loaded:
		fmt.Println("nothing is loaded: there is nothing to upgrade")
	case !u.Done:
		fmt.Printf("the programs %s are those of this binary already\n", u.To)
	case u.Layout[0] != u.Layout[1]:
		fmt.Printf("programs %s replaced by %s, layout %d by %d; %d connections kept\n", u.From, u.To, u.Layout[0], u.Layout[1], u.Conns)
	default:
		fmt.Printf("programs %s replaced by %s; %d connections kept\n", u.From, u.To, u.Conns)
	}
	return nil
}
