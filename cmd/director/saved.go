// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"lvs/ipvsadm"
)

// exit is an exit code whose reason was told already.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func runIPVSadm(argv ...string) error {
	if code := ipvsadm.Run(ipvsadm.System(openDirector), argv); code != 0 {
		return exit(code)
	}
	return nil
}

type saveVerb struct {
	Numeric bool `short:"n" help:"Addresses and ports in numbers, not names."`
}

// Help is what --help adds.
func (saveVerb) Help() string {
	return `The same as ipvsadm-save: the commands that make the table anew, on the standard output.

Example:
  director save -n >table`
}

// Run saves.
func (v saveVerb) Run() error {
	if v.Numeric {
		return runIPVSadm("ipvsadm", "-S", "-n")
	}
	return runIPVSadm("ipvsadm", "-S")
}

type restoreVerb struct{}

// Help is what --help adds.
func (restoreVerb) Help() string {
	return `The same as ipvsadm-restore: the table is emptied, and made anew out of the standard input. Lines that are refused are
reported, and the others count; 'director apply' is for all or nothing.

Example:
  director restore <table`
}

// Run restores.
func (restoreVerb) Run() error {
	return runIPVSadm("ipvsadm-restore")
}
