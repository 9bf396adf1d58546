// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lvs"
	"lvs/dataplane"
)

// A change that waits for confirmation is a file, and a process of ours that waits with it. The file has the former table
// and the time; the process holds the file's lock as long as it lives. Confirming removes the file. When the time has come
// and the file is still there, the process returns to the former table and removes it. Both happen under the director's
// own lock, so only one of them does. Whoever finds the file without a lock knows that the process was killed, and does
// its work.

const rollbackFolder = "/run/director"

var (
	errWaits     = errors.New("an earlier apply waits for `director confirm`")
	errConfirmed = errors.New("the change was confirmed")
)

// former is what the file says.
type former struct {
	Boot     string        `json:"boot"`  // the boot of the machine that the time belongs to
	Until    time.Duration `json:"until"` // since then
	Timeouts lvs.Timeouts  `json:"timeouts"`
	Locals   []lvs.LocalAddr
	Services []*lvs.Service
}

func sinceBoot() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

func (f former) left() time.Duration { return f.Until - sinceBoot() }

// remember writes a table down, to be returned to after a time, if there is one.
func remember(t *lvs.Table, after time.Duration) ([]byte, error) {
	if after <= 0 {
		return nil, nil
	}
	return json.Marshal(former{bootID(), sinceBoot() + after, t.Timeouts, t.Locals, t.Services()})
}

// rollback is the file for a director.
type rollback struct {
	director *dataplane.Director
	path     string
}

func rollbackOf(d *dataplane.Director) *rollback {
	return &rollback{d, filepath.Join(rollbackFolder, "rollback-"+d.Namespace())}
}

// read reads the file; os.ErrNotExist says that nothing waits.
func (r *rollback) read() (f former, err error) {
	text, err := os.ReadFile(r.path)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	return f, err
}

// waits answers an error if a change waits for confirmation.
func (r *rollback) waits() error {
	f, err := r.read()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, fmt.Errorf("%w, or for the former table to return in %v", errWaits, f.left().Round(time.Second)))
}

// forget removes the file.
func (r *rollback) forget() error {
	if err := os.Remove(r.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// arm writes the file, which comes into being whole and locked, and starts the process that waits.
func (r *rollback) arm(text []byte) error {
	if err := os.MkdirAll(rollbackFolder, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(rollbackFolder, ".rollback-")
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	if err := os.Rename(f.Name(), r.path); err != nil {
		return err
	}
	return startWatch(f)
}

// startWatch starts the process that waits, with the locked file, in a session of its own: no terminal reaches it. It is on
// its way when startWatch returns.
func startWatch(f *os.File) error {
	ready, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	c := exec.Command("/proc/self/exe", "watch-rollback")
	c.Args[0] = "director"
	c.Dir = "/"
	c.ExtraFiles = []*os.File{f, theirs}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = c.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start of the process that watches over the rollback: %w", err)
	}
	said, err := io.ReadAll(ready)
	if err != nil || string(said) != readyWord {
		return fmt.Errorf("the process that watches over the rollback: %s", said)
	}
	return c.Process.Release()
}

const readyWord = "ready"

type watchVerb struct{}

// Run waits for the time that the inherited file names, and returns to the former table unless the file is gone by then.
func (watchVerb) Run() error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	signal.Reset(syscall.SIGTERM, syscall.SIGINT)
	file, ready := os.NewFile(3, "rollback"), os.NewFile(4, "ready")
	d, err := dataplane.Open(dataplane.Sizes{})
	if err != nil {
		fmt.Fprint(ready, err)
		return err
	}
	fmt.Fprint(ready, readyWord)
	ready.Close()
	r := rollbackOf(d)
	for {
		if !r.is(file) {
			return nil
		}
		f, err := r.read()
		if err != nil {
			return err
		}
		if left := f.left(); left <= 0 {
			return r.undo(file, f)
		} else {
			time.Sleep(min(left, time.Second))
		}
	}
}

// is tells whether the file is still the one that was opened.
func (r *rollback) is(file *os.File) bool {
	opened, err1 := file.Stat()
	now, err2 := os.Stat(r.path)
	return err1 == nil && err2 == nil && os.SameFile(opened, now)
}

// undo returns to the former table.
func (r *rollback) undo(file *os.File, f former) error {
	err := r.director.Update(func(t *lvs.Table) error {
		if !r.is(file) {
			return errConfirmed
		}
		t.Clear()
		for _, s := range f.Services {
			t.Put(s)
		}
		t.Timeouts, t.Locals = f.Timeouts, f.Locals
		return nil
	})
	if errors.Is(err, errConfirmed) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("return to the former table: %w", err)
	}
	return r.forget()
}

// revive looks for a rollback whose process was killed, and does its work: it returns to the former table if it is time,
// and starts another process if not. It tells what it does.
func (r *rollback) revive(tell io.Writer) error {
	file, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // somebody waits
	}
	if !r.is(file) {
		return nil
	}
	f, err := r.read()
	if err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	switch left := f.left(); {
	case f.Boot != bootID():
		return r.forget()
	case left > 0:
		fmt.Fprintf(tell, "director: the process that watched over a rollback was killed. Another one does now: without `director confirm` the former table returns in %v.\n", left.Round(time.Second))
		return startWatch(file)
	}
	fmt.Fprintln(tell, "director: the process that watched over a rollback was killed. Nobody confirmed the change in time: this command returns to the former table first.")
	return r.undo(file, f)
}

type confirmVerb struct{}

// Help is what --help adds.
func (confirmVerb) Help() string {
	return `Without it the change of 'director apply --rollback-after' is undone when its time is over.

Example:
  director confirm`
}

// Run confirms.
func (confirmVerb) Run() error {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	r := rollbackOf(d)
	if _, err := r.read(); errors.Is(err, fs.ErrNotExist) {
		return errors.New("nothing waits for confirmation: there was no apply --rollback-after, or its time is over and the former table is back")
	}
	return d.Update(func(*lvs.Table) error {
		f, err := r.read()
		if errors.Is(err, fs.ErrNotExist) || err == nil && f.left() <= 0 {
			return errors.New("too late: the time is over, the former table returns")
		}
		if err != nil {
			return err
		}
		return r.forget()
	})
}

// openDataplane opens the director of this network namespace, after a rollback that nobody watches over was seen to.
func openDataplane() (*dataplane.Director, error) {
	d, err := dataplane.Open(dataplane.Sizes{})
	if err != nil {
		return nil, err
	}
	if err := rollbackOf(d).revive(os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "director:", err) // the command goes on: it may be the one that helps
	}
	return d, nil
}
