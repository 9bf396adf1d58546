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
	Numeric bool   `short:"n" help:"Addresses and ports in numbers, not names."`
	Conns   string `placeholder:"FILE" help:"Write the table and all connections to FILE instead."`
}

// Help is what --help adds.
func (saveVerb) Help() string {
	return `The same as ipvsadm-save: the commands that make the table anew, on the standard output.

With --conns, FILE has the connections too, with their states, templates, local ports and the time that they have left: for a move to
another machine, or for a connection table of another size; and the settings, and what services and servers have counted. It is written
while packets go on, and is there whole or not at all.

Examples:
  director save -n >table
  director save --conns file; director unload; director attach --conns 4M; director restore --conns file`
}

// Run saves.
func (v saveVerb) Run() error {
	if v.Conns != "" {
		return saveConns(v.Conns)
	}
	if v.Numeric {
		return runIPVSadm("ipvsadm", "-S", "-n")
	}
	return runIPVSadm("ipvsadm", "-S")
}

type restoreVerb struct {
	Conns string `placeholder:"FILE" help:"Make the table and the connections again that FILE has, a file of 'director save --conns'."`
}

// Help is what --help adds.
func (restoreVerb) Help() string {
	return `The same as ipvsadm-restore: the table is emptied, and made anew out of the standard input. Lines that are refused are
reported, and the others count; 'director apply' is for all or nothing.

With --conns, all of FILE is read first, and nothing changes if any of it is wrong. The table becomes that of FILE at once; then its connections
are made while packets come. A connection that is there already stays as it is, so that the command may be repeated. What is left out,
and why, is counted: connections of servers that had been removed, for instance. The settings become those of FILE, too; counters do
where nothing has been counted yet. A FILE of director's first version has neither.

Examples:
  director restore <table
  director restore --conns file`
}

// Run restores.
func (v restoreVerb) Run() error {
	if v.Conns != "" {
		return restoreConns(v.Conns)
	}
	return runIPVSadm("ipvsadm-restore")
}
