// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"lvs/place"
)

// state is all that was asked for and all that was changed for it, in the order of changing. It lives in a map that is
// pinned, so that it ends when what it describes does: with the namespace, or with the kernel.
type state struct {
	Modes     []Mode
	VIPs      []netip.Addr
	GUEPorts  []uint16
	Directors []netip.Prefix
	Decap     Decap // empty without the mode Tunnel
	Complete  bool  // nothing was cut short
	Changes   []change
}

// instance is the place of a namespace, locked, and its state.
type instance struct {
	place place.Place
	lock  place.Lock
	state state
}

const statePin = "state"

func find() (place.Place, error) { return place.Find("realserver") }

// open opens what is there; it answers [os.ErrNotExist] if nothing is.
func open(p place.Place, how int) (*instance, error) {
	l, err := place.LockDir(p.Path, how)
	if err != nil {
		return nil, err
	}
	in := &instance{place: p, lock: l}
	if err := in.load(); err != nil {
		l.Release()
		return nil, fmt.Errorf("what was changed, in %s: %w", in.pin(statePin), err)
	}
	return in, nil
}

// create makes a place with an empty state, and the link that tells when the namespace ends.
func create(p place.Place) error {
	return p.Create(func(dir string) error {
		anchors, err := load(nil, bpfProgRealserverAnchor, bpfProgRealserverAnchorTc)
		if err != nil {
			return err
		}
		defer anchors.Close()
		in := &instance{place: place.Place{Path: dir}}
		return errors.Join(in.save(),
			place.Anchor(dir, anchors.Programs[bpfProgRealserverAnchorTc], anchors.Programs[bpfProgRealserverAnchor]))
	})
}

func (in *instance) pin(name string) string { return filepath.Join(in.place.Path, name) }

func (in *instance) load() error {
	m, err := ebpf.LoadPinnedMap(in.pin(statePin), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	text := make([]byte, m.ValueSize())
	if err := m.Lookup(uint32(0), text); err != nil {
		return err
	}
	return json.Unmarshal(text, &in.state)
}

// save writes the state beside the old one and puts it in its place.
func (in *instance) save() error {
	text, err := json.Marshal(in.state)
	if err != nil {
		return err
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "realserver", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(text)), MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("write down what is going to be changed: %w", err)
	}
	defer m.Close()
	if err := m.Put(uint32(0), text); err != nil {
		return err
	}
	aside := in.pin(statePin + "-new")
	os.Remove(aside) // of an attempt that was cut short
	if err := m.Pin(aside); err != nil {
		return err
	}
	return os.Rename(aside, in.pin(statePin))
}

// between is called between any two changes; tests end the process there.
var between = func() {}

// make makes a change unless what it is for is so already, and writes it down before.
func (in *instance) make(c change) error {
	k := kinds[c.Kind]
	if held, err := k.holds(in, c); err != nil || held {
		return wrap(c, err)
	}
	if !slices.ContainsFunc(in.state.Changes, c.same) {
		if k.was != nil {
			was, err := k.was(c)
			if err != nil {
				return wrap(c, err)
			}
			c.Was = was
		}
		in.state.Changes = append(in.state.Changes, c)
		if err := in.save(); err != nil {
			return err
		}
	}
	between()
	err := k.do(in, c)
	between()
	return wrap(c, err)
}

// undo takes back those changes for which the function says so, the last one first. What cannot be undone stays
// written down, and the others are undone nevertheless.
func (in *instance) undo(which func(change) bool) error {
	var failed error
	for i := len(in.state.Changes) - 1; i >= 0; i-- {
		c := in.state.Changes[i]
		if !which(c) {
			continue
		}
		if err := kinds[c.Kind].undo(in, c); err != nil {
			failed = errors.Join(failed, wrap(c, err))
			continue
		}
		between()
		in.state.Changes = slices.Delete(in.state.Changes, i, i+1)
		if err := in.save(); err != nil {
			return errors.Join(failed, err)
		}
		between()
	}
	return failed
}

func wrap(c change, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", c, err)
	}
	return nil
}
