// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"lvs"
	"lvs/dataplane"
	"lvs/ipvsadm"
	"lvs/saved"
)

// tally tells how far a file is, once that takes longer than a second.
type tally struct {
	progress
	began time.Time
	verb  string
	of    int // entries; 0 if that is not known
	n     int
}

func newTally(verb string, of int) *tally {
	inPlace := term.IsTerminal(int(os.Stderr.Fd()))
	return &tally{progress: progress{out: os.Stderr, inPlace: inPlace}, began: time.Now(), verb: verb, of: of}
}

func (t *tally) one() {
	const seldom = 1 << 12 // entries, for the clock's sake
	if t.n++; t.n%seldom != 0 || time.Since(t.began) < time.Second || time.Since(t.printed) < time.Second || !t.due() {
		return
	}
	line := fmt.Sprintf("%s %d entries", t.verb, t.n)
	if t.of > 0 {
		line = fmt.Sprintf("%s %d of %d entries", t.verb, t.n, t.of)
	}
	t.print(line)
}

// saveConns writes the table and the connections to a file, which is there whole or not at all.
func saveConns(file string) (err error) {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	t, err := d.Table()
	if err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(out.Name())
		}
	}()
	counts, err := writeConns(out, t, d.Entries())
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.Rename(out.Name(), file); err != nil {
		return err
	}
	fmt.Printf("%d connections and %d templates are saved in %s.\n", counts.Conns, counts.Templates, file)
	return nil
}

func writeConns(out io.Writer, t *lvs.Table, entries iter.Seq2[lvs.Entry, error]) (saved.Counts, error) {
	var rules []string
	for _, r := range ipvsadm.Rules(t) {
		rules = append(rules, r.Text)
	}
	w, progress := saved.NewWriter(out, rules), newTally("saved", 0)
	defer progress.end()
	for e, err := range entries {
		if err != nil {
			return w.Counts, err
		}
		w.Entry(&e)
		progress.one()
	}
	return w.Counts, w.Close()
}

// restoreConns makes the table and the connections of a file again. All of it is read before anything changes.
func restoreConns(file string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	var rules []string
	counts, err := saved.Read(in, func(r string) error { rules = append(rules, r); return nil }, func(*lvs.Entry) error { return nil })
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	want, err := ipvsadm.ReadTable(ipvsadm.System(nil), strings.NewReader(strings.Join(rules, "\n")))
	if err != nil {
		return fmt.Errorf("%s: its rules: %w", file, err)
	}
	d, err := openDataplane()
	if err != nil {
		return err
	}
	if err := d.Update(func(t *lvs.Table) error { return t.Follow(want, true) }); err != nil {
		return err
	}
	done, err := d.Restore(entriesOf(in, counts))
	report(os.Stdout, done)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

var errEnough = errors.New("no more is wanted")

// entriesOf reads the entries of a file, which was read before.
func entriesOf(file io.ReadSeeker, counts saved.Counts) iter.Seq2[*lvs.Entry, error] {
	return func(yield func(*lvs.Entry, error) bool) {
		progress := newTally("restored", counts.Conns+counts.Templates)
		defer progress.end()
		_, err := file.Seek(0, io.SeekStart)
		if err == nil {
			_, err = saved.Read(file, func(string) error { return nil }, func(e *lvs.Entry) error {
				if !yield(e, nil) {
					return errEnough
				}
				progress.one()
				return nil
			})
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// report tells what has become of the entries of a file.
func report(out io.Writer, r dataplane.Restored) {
	fmt.Fprintf(out, "%d connections and %d templates are restored", r.Conns, r.Templates)
	if r.There > 0 {
		fmt.Fprintf(out, ", %d were there already", r.There)
	}
	fmt.Fprintln(out, ".")
	for _, reason := range []struct {
		n   int
		why string
	}{
		{r.NoServer, "their server or its service is not there"},
		{r.NoLocal, "their local address is in no pool, or their local port another connection's"},
		{r.InTheWay, "the client's port has another connection with the same server"},
		{r.NoRoom, "the connection table has no room"},
	} {
		if reason.n > 0 {
			fmt.Fprintf(out, "%d are left out: %s.\n", reason.n, reason.why)
		}
	}
}
