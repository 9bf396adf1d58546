// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/term"

	"lvs"
	"lvs/dataplane"
	"lvs/ipvsadm"
)

type applyVerb struct {
	File          string        `arg:"" help:"The wanted table, in the format of ipvsadm-save; - is the standard input."`
	DryRun        bool          `help:"Only print what would change."`
	Prune         bool          `help:"Remove services and servers that FILE does not have. Otherwise they are left alone."`
	RollbackAfter time.Duration `placeholder:"60s" help:"Return to the former table after this time, unless 'director confirm' comes before."`
}

// Help is what --help adds.
func (applyVerb) Help() string {
	return `FILE is the whole table as it shall be. Only what differs is touched, so connections go on, and all of it changes at
once or nothing does: the first line that is wrong is named, and changes nothing. What is printed are lines of FILE's
format, those that go after a -, those that come after a +. Time-outs change if FILE has a line --set. New servers go
before the others of their service, and servers that stay keep their order, whatever the order of FILE is.

The rollback comes also when the terminal is gone. It returns to the table before the apply as a whole: what other
commands change in the meantime is lost. Should its process be killed, the next command of director or ipvsadm says so, and
takes its place.

Examples:
  ipvsadm-save -n >table; edit table; director apply --dry-run table
  director apply --prune table
  director apply --rollback-after 60s table && curl -m 5 http://192.0.2.1/ && director confirm
  ssh lb1 ipvsadm-save -n | director apply --prune -`
}

// Run applies.
func (v applyVerb) Run() error {
	want, err := v.read()
	if err != nil {
		return err
	}
	d, err := openDataplane()
	if err != nil {
		return err
	}
	out := differ{os.Stdout, colourful(os.Stdout)}
	if v.DryRun {
		t, err := d.Table()
		if err != nil {
			return err
		}
		edits, err := follow(t, want, v.Prune)
		if err == nil {
			out.print(edits, countPlanned)
		}
		return err
	}
	edits, err := v.apply(d, want)
	if err != nil {
		return err
	}
	out.print(edits, countMade)
	if v.RollbackAfter > 0 && edits.changes() > 0 {
		fmt.Printf("In %v the former table returns, unless `director confirm` comes before.\n", v.RollbackAfter)
	}
	return nil
}

func (v applyVerb) read() (*lvs.Table, error) {
	in, name := io.Reader(os.Stdin), "standard input"
	if v.File != "-" {
		f, err := os.Open(v.File)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = f, v.File
	}
	want, err := ipvsadm.ReadTable(ipvsadm.System(nil), in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return want, nil
}

func (v applyVerb) apply(d *dataplane.Director, want *lvs.Table) (edits edits, err error) {
	var armed *rollback
	err = d.Update(func(t *lvs.Table) error {
		if err := rollbackOf(d).waits(); err != nil {
			return err
		}
		former, err := remember(t, v.RollbackAfter)
		if err != nil {
			return err
		}
		if edits, err = follow(t, want, v.Prune); err != nil || edits.changes() == 0 || v.RollbackAfter <= 0 {
			return err
		}
		armed = rollbackOf(d)
		return armed.arm(former)
	})
	if err != nil && armed != nil {
		err = errors.Join(err, armed.forget())
	}
	return edits, err
}

func colourful(f *os.File) bool { return term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" }

// edit is a line of the table that goes, comes, or goes for another one.
type edit struct{ was, is string }

// edits are what a table goes through, and the lines that it has beyond what is wanted.
type edits struct {
	all    []edit
	beyond []string
}

func (e edits) changes() int { return len(e.all) }

// follow lets a table follow another and tells what that changes.
func follow(t, want *lvs.Table, prune bool) (edits, error) {
	before := ipvsadm.Rules(t)
	if err := t.Follow(want, prune); err != nil {
		return edits{}, err
	}
	after := ipvsadm.Rules(t)
	e := edits{all: compare(before, after)}
	if !prune {
		for _, extra := range compare(after, ipvsadm.Rules(want)) {
			if extra.is == "" {
				e.beyond = append(e.beyond, extra.was)
			}
		}
	}
	return e, nil
}

type ruleKey struct {
	service lvs.ServiceID
	server  lvs.ServerID
	local   netip.Addr
}

func keyOf(r ipvsadm.Rule) ruleKey { return ruleKey{r.Service, r.Server, r.Local} }

// compare gives what differs, in the order of the table after; what goes stands where its service ends, or at the end.
func compare(before, after []ipvsadm.Rule) (all []edit) {
	was, stays := map[ruleKey]string{}, map[ruleKey]bool{}
	leaves := map[lvs.ServiceID][]ipvsadm.Rule{}
	for _, r := range after {
		stays[keyOf(r)] = true
	}
	for _, r := range before {
		was[keyOf(r)] = r.Text
		if !stays[keyOf(r)] {
			leaves[r.Service] = append(leaves[r.Service], r)
		}
	}
	for i, r := range after {
		if text := was[keyOf(r)]; text != r.Text {
			all = append(all, edit{text, r.Text})
		}
		if i+1 == len(after) || after[i+1].Service != r.Service {
			for _, gone := range leaves[r.Service] {
				all = append(all, edit{was: gone.Text})
			}
		}
	}
	for _, r := range before {
		if !stays[keyOf(r)] && !stays[ruleKey{service: r.Service}] {
			all = append(all, edit{was: r.Text})
		}
	}
	return all
}

// differ prints edits as a diff.
type differ struct {
	io.Writer
	colour bool
}

func (d differ) line(colour, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if d.colour && colour != "" {
		text = "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	fmt.Fprintln(d, text)
}

// How edits are counted before they are made, and after.
const (
	countPlanned = "%d to add, %d to change, %d to remove."
	countMade    = "%d added, %d changed, %d removed."
)

// print shows the edits and counts them.
func (d differ) print(e edits, count string) {
	const red, green, faint = "31", "32", "2"
	added, removed := 0, 0
	for _, x := range e.all {
		if x.was != "" {
			d.line(red, "- %s", x.was)
		} else {
			added++
		}
		if x.is != "" {
			d.line(green, "+ %s", x.is)
		} else {
			removed++
		}
	}
	for _, text := range e.beyond {
		d.line(faint, "  %s", text)
	}
	if n := len(e.all); n == 0 {
		d.line("", "Nothing is to be done.")
	} else {
		d.line("", count, added, n-added-removed, removed)
	}
	if n := len(e.beyond); n > 0 {
		d.line("", "%d beyond FILE are left alone; --prune removes them.", n)
	}
}
