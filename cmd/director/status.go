// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"lvs/dataplane"
)

type statusVerb struct {
	JSON bool `name:"json" help:"Print one JSON object."`
}

// Help is what --help adds.
func (statusVerb) Help() string {
	return `Examples:
  director status
  director status --json`
}

// Run prints the status.
func (v statusVerb) Run() error {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	s, err := d.Status()
	if err != nil {
		return err
	}
	if v.JSON {
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", "  ")
		return out.Encode(s)
	}
	return printStatus(os.Stdout, s)
}

// version compares programs with those of this binary.
func version(p dataplane.Programs) string {
	if p.UpgradeDue {
		return "this director has " + p.Own
	}
	return "this director's"
}

func printStatus(out io.Writer, s *dataplane.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	has := func(b bool) string {
		if b {
			return "yes"
		}
		return "no"
	}
	dash := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	row("kernel\t%s\tBTF %s, tcx %s, JIT %s", s.Features.Kernel, has(s.Features.BTF), has(s.Features.TCX), has(s.Features.JIT))
	if s.Loaded {
		row("pinned in\t%s\t", s.Pins)
		row("programs\t%s, layout %d\t%s", s.Programs.Running, s.Programs.Layout, version(s.Programs))
		row("connections\t%d of %d\t%d have expired, %d sweeps", s.Conns.Used, s.Conns.Size, s.Expired, s.Sweeps)
		row("services\t%d of %d\t", s.Services.Used, s.Services.Size)
		row("servers\t%d of %d\t", s.Servers.Used, s.Servers.Size)
		row("memory\t%d MiB\t%d MiB of it the connection table", s.MemoryBytes>>20, s.TableBytes>>20)
		if len(s.Marks) > 0 {
			row("marks\t%s\t", strings.Join(s.Marks, ", "))
		}
		row("\nINTERFACE\tTC\tXDP\tEGRESS\t")
		for _, i := range s.Interfaces {
			if i.Missing {
				row("%s\tmissing\t-\t-\t%s", i.Name, i.Advice)
				continue
			}
			row("%s\t%s\t%s\t%s\t%s", i.Name, dash(i.TC), dash(i.XDP), dash(i.Egress), i.Advice)
		}
		row("\nNOT FORWARDED\tPACKETS\t")
		for _, r := range s.Reasons {
			row("%s\t%d\t%s", r.Name, r.Packets, r.Meaning)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, a := range s.Advice {
		fmt.Fprintln(out, "\nadvice:", a)
	}
	return nil
}
