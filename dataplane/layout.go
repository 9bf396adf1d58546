// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// The forms of all maps together are a layout, and layouts are numbered. What was loaded by another version of this package is
// brought to its own layout by the steps in between, in order. Programs of both versions run at the same time for a moment, on the
// maps that keep their form; the others are made anew out of the former ones, before any of the new programs runs.

// step leads from one layout to the next: what becomes of the entries of maps that have another form. Maps that it does not name keep theirs,
// and one that is new is made as in a new instance.
type step map[string]conversion

// conversion gives an entry its next form. Of lists and pools these are the entries of the maps in them; of what each CPU has for itself,
// each CPU's.
type conversion struct {
	from  int // bytes that an entry had
	entry func(e []byte) []byte
}

// steps are those of all layouts that there were; the first one leads from layout 1 to layout 2.
var steps = []step{
	{settingsMap: {372, func(e []byte) []byte { return append(e, make([]byte, 8)...) }}}, // nat_icmp_send, schedule_icmp
}

// ownLayout is the number of this version's layout.
func ownLayout() uint32 { return uint32(len(steps)) + 1 }

// still are the maps that never change their form: programs of both versions may be at work on the same connection, and take
// the same locks. What a connection needs more has room in the spare bytes of its line, where zero is what it was before.
var still = []string{bpfMapConns, bpfMapGuards, bpfMapLinks, bpfMapLoads}

// passing are the maps that each set of programs has for itself: what is worked in for the time of a packet.
var passing = []string{bpfMapPlans, bpfMapFindings, bpfMapQuotes, bpfMapSupers, bpfMapMessages, bpfMapPieces, bpfMapQuotedHeaders, bpfMapRestTc, bpfMapRestXdp, constants}

// release is the version of an instance's programs and maps. It is pinned beside them.
type release struct {
	Layout   uint32
	Spare    uint32
	Programs [8]byte
}

const releasePin = "release"

// ownRelease is that of this version. Programs differ if the object does, or what they are told.
func ownRelease() release {
	h := sha256.New()
	h.Write(_BpfBytes)
	binary.Write(h, binary.NativeEndian, nextLives())
	r := release{Layout: ownLayout()}
	copy(r.Programs[:], h.Sum(nil))
	return r
}

func (r release) String() string { return hex.EncodeToString(r.Programs[:4]) }

func (r release) pin(dir string) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: releasePin, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(binary.Size(r)), MaxEntries: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Put(uint32(0), r); err != nil {
		return err
	}
	return m.Pin(filepath.Join(dir, releasePin))
}

// readRelease reads what is pinned in a directory.
func readRelease(dir string) (r release, err error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, releasePin), nil)
	if err != nil {
		return r, pinError(releasePin, err)
	}
	defer m.Close()
	if m.ValueSize() != uint32(binary.Size(r)) {
		return r, pinError(releasePin, errForeign)
	}
	if err := m.Lookup(uint32(0), &r); err != nil || r.Layout == 0 {
		return r, pinError(releasePin, errors.Join(err, errForeign))
	}
	return r, nil
}

// ErrOtherVersion says that what is loaded is another version's, with maps that this one does not know.
var ErrOtherVersion = errors.New("another version of director has loaded this")

// check says what to do about maps of another layout.
func (r release) check() error {
	switch own := ownLayout(); {
	case r.Layout < own:
		return fmt.Errorf("%w: its maps have layout %d, and this version's %d; `director upgrade` brings them there, and keeps every connection", ErrOtherVersion, r.Layout, own)
	case r.Layout > own:
		return fmt.Errorf("%w: its maps have layout %d, and this version knows none after %d; use that version, or a newer one", ErrOtherVersion, r.Layout, own)
	}
	return nil
}

// errForeign says that something else is pinned in the place of something of ours.
var errForeign = errors.New("something else is pinned there")

// ErrDamaged says that something that is pinned is missing, or something else.
var ErrDamaged = errors.New("damaged pins")

// pinDamage is what is wrong with a pin.
type pinDamage struct {
	pin string
	why error
}

func (d pinDamage) what() string {
	if errors.Is(d.why, fs.ErrNotExist) {
		return d.pin + " is missing"
	}
	return fmt.Sprintf("%s: %v", d.pin, d.why)
}

func (d pinDamage) Error() string {
	return fmt.Sprintf("%v: %s (`director upgrade` mends that out of what runs, and keeps every connection)", ErrDamaged, d.what())
}

func (d pinDamage) Is(target error) bool { return target == ErrDamaged }

// pinError tells what is wrong with a pin.
func pinError(pin string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return pinDamage{pin, err}
}

// conversions are those that lead a map from a layout to this version's; none if it keeps its form.
func conversions(name string, layout uint32) (all []conversion) {
	for _, s := range steps[layout-1:] {
		if c, ok := s[name]; ok {
			all = append(all, c)
		}
	}
	return all
}

func convertEntry(e []byte, all []conversion) []byte {
	for _, c := range all {
		e = c.entry(e)
	}
	return e
}
