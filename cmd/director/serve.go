// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
)

type serveVerb struct{}

// Help is what --help adds.
func (serveVerb) Help() string {
	return `The director needs no process. This one attaches to interfaces at once when they come, or come back, or somebody has taken the
program off; without it, the next command that changes something does. director.service runs it.

Example:
  director serve`
}

// Run watches until it is told to end.
func (serveVerb) Run(ctx context.Context) error {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	fmt.Println("watching interfaces")
	return d.Watch(ctx, func(err error) { fmt.Fprintf(os.Stderr, "director: %v\n", err) })
}
