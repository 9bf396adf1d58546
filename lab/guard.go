// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// states is where it is noted which networks are up: a file for each, locked as long as its process lives.
const states = "/run/director-lab"

// guard holds the name of a network, and knows what is to be taken away under it.
type guard struct {
	name  string
	file  *os.File
	state state
}

// state is what the file says: enough to clear up after a process that was killed.
type state struct {
	Process int    `json:"process"`
	Kept    bool   `json:"kept,omitempty"`
	Hosts   []rest `json:"hosts"`
}

type rest struct {
	Namespace string   `json:"namespace"`
	Leave     []string `json:"leave,omitempty"`
}

// claim takes the name for a new network, after clearing away what is left of an old one.
func claim(name string) (*guard, error) {
	g, err := open(name)
	if err != nil {
		return nil, err
	}
	if g.state.Kept {
		g.file.Close()
		return nil, fmt.Errorf("%w: it was kept; take it away with: %s", ErrUp, cleaning(name))
	}
	if len(g.state.Hosts) == 0 {
		return g, nil
	}
	if err := g.clear(); err != nil {
		return nil, fmt.Errorf("clearing away what an earlier lab left: %w", err)
	}
	return open(name)
}

// cleaning is the command that takes a network away.
func cleaning(name string) string {
	if name == Name {
		return "director lab clean"
	}
	return "director lab clean --name " + name
}

// open takes the lock of a name and reads what is noted under it.
func open(name string) (*guard, error) {
	if err := os.MkdirAll(states, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(states, name)
	for {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return nil, err
		}
		locked := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if locked == nil && !isAt(file, path) {
			file.Close() // whoever had it took it away meanwhile
			continue
		}
		g := &guard{name: name, file: file}
		text, err := io.ReadAll(file)
		if err == nil && len(text) > 0 {
			err = json.Unmarshal(text, &g.state)
		}
		if locked != nil {
			err = fmt.Errorf("%w: process %d runs it; end that first: kill %[2]d", ErrUp, g.state.Process)
		} else if err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
		if err != nil {
			file.Close()
			return nil, err
		}
		return g, nil
	}
}

// isAt tells whether an open file is the one that has this path now.
func isAt(file *os.File, path string) bool {
	mine, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}

// note writes down which hosts there are going to be, before there is any.
func (g *guard) note(hosts []*Host) error {
	for _, h := range hosts {
		if _, err := os.Lstat(filepath.Join(namespaces, h.namespace)); err == nil {
			return fmt.Errorf("network namespace %s exists, and no lab made it: delete it, if you can, with: ip netns delete %[1]s",
				h.namespace)
		}
	}
	g.state.Process = os.Getpid()
	for _, h := range hosts {
		g.state.Hosts = append(g.state.Hosts, rest{h.namespace, h.Leave})
	}
	return g.write()
}

func (g *guard) write() error {
	text, err := json.Marshal(g.state)
	if err != nil {
		return err
	}
	if err := g.file.Truncate(0); err != nil {
		return err
	}
	_, err = g.file.WriteAt(append(text, '\n'), 0)
	return err
}

// keep leaves everything in place for [Clean] and gives up the lock.
func (g *guard) keep() error {
	g.state.Kept = true
	return errors.Join(g.write(), g.file.Close())
}

// clear takes away all that is noted, and the note if nothing is left.
func (g *guard) clear() error {
	defer g.file.Close()
	var failed error
	for _, r := range g.state.Hosts {
		h := &Host{namespace: r.Namespace}
		failed = errors.Join(failed, h.leave(r.Leave))
	}
	var left error
	for _, r := range slices.Backward(g.state.Hosts) {
		h := &Host{namespace: r.Namespace}
		if err := h.remove(); err != nil {
			left = errors.Join(left, fmt.Errorf("removing %s: %w", r.Namespace, err))
		}
	}
	if left == nil {
		left = os.Remove(filepath.Join(states, g.name))
	}
	return errors.Join(failed, left)
}

// leave runs the last command of a host, if both are still there.
func (h *Host) leave(command []string) error {
	if len(command) == 0 {
		return nil
	}
	if _, err := os.Stat(filepath.Join(namespaces, h.namespace)); err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := h.Command(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w: %s", command, err, bytes.TrimSpace(out))
	}
	return nil
}
