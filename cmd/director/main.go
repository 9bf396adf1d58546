// SPDX-License-Identifier: Apache-2.0

// Command director is the Linux Virtual Server in one binary.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

type verbs struct {
	Lab labVerb `cmd:"" help:"Networks out of namespaces that show the director at work."`
}

func main() {
	// SIGPIPE too: a closed pipe must not end a lab before it is taken away.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	verb := kong.Parse(&verbs{}, kong.Name("director"), kong.UsageOnError(), kong.BindTo(ctx, (*context.Context)(nil)))
	if err := verb.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "director: %v\n", err)
		os.Exit(1)
	}
}
