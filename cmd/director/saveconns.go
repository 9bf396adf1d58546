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
	settings, err := d.Settings()
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
	counts, err := writeConns(out, settings.Asked(), t, d.Entries())
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.Rename(out.Name(), file); err != nil {
		return err
	}
	fmt.Printf("%d connections and %d templates are saved in %s.\n", counts.Conns, counts.Templates, file)
	return nil
}

func writeConns(out io.Writer, settings lvs.Settings, t *lvs.Table, entries iter.Seq2[lvs.Entry, error]) (saved.Counts, error) {
	var rules []string
	for _, r := range ipvsadm.Rules(t) {
		rules = append(rules, r.Text)
	}
	w, progress := saved.NewWriter(out, settings, rules), newTally("saved", 0)
	defer progress.end()
	for _, s := range t.Services() {
		w.Counters(saved.Counters{Service: s.ServiceID, Stats: s.Stats})
		for _, server := range s.Servers {
			w.Counters(saved.Counters{Service: s.ServiceID, Server: &server.ServerID, Stats: server.Stats})
		}
	}
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
	f, err := readConns(in)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	d, err := openDataplane()
	if err != nil {
		return err
	}
	if f.settings != nil {
		if err := d.Set(func(s *lvs.Settings) error { *s = *f.settings; return nil }); err != nil {
			return err
		}
	}
	if err := d.Update(f.follow); err != nil {
		return err
	}
	done, err := d.Restore(entriesOf(in, f.counts))
	report(os.Stdout, done)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// connsFile is what a file has besides its entries.
type connsFile struct {
	settings *lvs.Settings // nil in a file of version 1
	want     *lvs.Table
	counters []saved.Counters
	counts   saved.Counts
}

// readConns reads all of a file, its entries just to judge them.
func readConns(in io.Reader) (f connsFile, err error) {
	var rules []string
	f.counts, err = saved.Read(in, saved.Into{
		Settings: func(s lvs.Settings) error { f.settings = &s; return nil },
		Rule:     func(r string) error { rules = append(rules, r); return nil },
		Counters: func(c saved.Counters) error { f.counters = append(f.counters, c); return nil },
	})
	if err != nil {
		return f, err
	}
	if f.want, err = ipvsadm.ReadTable(ipvsadm.System(nil), strings.NewReader(strings.Join(rules, "\n"))); err != nil {
		return f, fmt.Errorf("its rules: %w", err)
	}
	return f, nil
}

// follow makes a table like that of the file, with the counters that it had.
func (f connsFile) follow(t *lvs.Table) error {
	if err := t.Follow(f.want, true); err != nil {
		return err
	}
	for _, c := range f.counters {
		t.Carry(c.Service, c.Server, c.Stats)
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
			_, err = saved.Read(file, saved.Into{Entry: func(e *lvs.Entry) error {
				if !yield(e, nil) {
					return errEnough
				}
				progress.one()
				return nil
			}})
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
