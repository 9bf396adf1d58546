// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"

	"lvs/place"
)

// running is what runs in a namespace, of whichever version: found by its pins and, where one of them is missing or is something else,
// by the programs that use it. A map lives as long as they do.
type running struct {
	dir     string
	release release
	maps    map[string]*ebpf.Map  // by pin
	used    map[ebpf.MapID]string // by the programs, with the name that the kernel knows, which is cut short
	wrong   []string              // what is wrong with the pins
}

// kernelName is what the kernel has left of a map's name.
func kernelName(name string) string { return name[:min(len(name), 15)] }

// loadMap opens a pinned map, and refuses one that is not the one of its name.
func loadMap(dir, pin string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, pin), nil)
	if err != nil {
		return nil, pinError(pin, err)
	}
	info, err := m.Info()
	if err == nil && mapPin(info.Name) != pin && info.Name != kernelName(pin) {
		err = errForeign
	}
	if err != nil {
		m.Close()
		return nil, pinError(pin, err)
	}
	return m, nil
}

// findRunning finds what runs by what is pinned in a directory.
func findRunning(dir string) (*running, error) {
	c, err := loadBpf()
	if err != nil {
		return nil, err
	}
	f := &running{dir: dir, maps: map[string]*ebpf.Map{}, used: map[ebpf.MapID]string{}}
	f.release, err = readRelease(dir)
	if f.note(err) {
		f.release, err = release{Layout: ownLayout()}, nil // whether it is, the forms of the maps tell
	}
	if err == nil {
		err = f.readPrograms()
	}
	if err != nil {
		return nil, err
	}
	_, err = readJournal(dir)
	f.note(err)
	for _, name := range slices.Sorted(maps.Keys(c.Maps)) {
		if err := f.findMap(name); err != nil {
			f.close()
			return nil, err
		}
	}
	return f, nil
}

// note keeps what is wrong with a pin, if that is what an error says.
func (f *running) note(err error) bool {
	d, ok := errors.AsType[pinDamage](err)
	if ok {
		f.wrong = append(f.wrong, d.what())
	}
	return ok
}

func (f *running) close() {
	for _, m := range f.maps {
		m.Close()
	}
}

// readPrograms asks the programs that are pinned, and those that links run, which maps they use; and those that these call.
func (f *running) readPrograms() error {
	var entry []*ebpf.Program
	for pin, name := range programPins {
		p, err := ebpf.LoadPinnedProgram(filepath.Join(f.dir, pin), nil)
		if err == nil && !isProgram(p, name) {
			p.Close()
			err = errForeign
		}
		if err != nil {
			f.note(pinError(pin, err))
			continue
		}
		entry = append(entry, p)
	}
	links, err := pinnedLinks(f.dir)
	if err != nil {
		return err
	}
	for _, l := range links {
		if p, err := ebpf.NewProgramFromID(l.program); err == nil {
			entry = append(entry, p)
		}
	}
	for _, p := range entry {
		err = errors.Join(err, f.readUsed(p))
		p.Close()
	}
	return err
}

// isProgram says whether a program is the one that the kernel knows by a name.
func isProgram(p *ebpf.Program, name string) bool {
	info, err := p.Info()
	return err == nil && info.Name == kernelName(name)
}

// readUsed reads what a program uses, and what those use that it calls.
func (f *running) readUsed(p *ebpf.Program) error {
	info, err := p.Info()
	if err != nil {
		return err
	}
	ids, ok := info.MapIDs()
	if !ok {
		return errors.New("the kernel does not tell which maps a program uses")
	}
	for _, id := range ids {
		if _, known := f.used[id]; known {
			continue
		}
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			return fmt.Errorf("map %d: %w", id, err)
		}
		defer m.Close()
		info, err := m.Info()
		if err != nil {
			return err
		}
		f.used[id] = info.Name
		if m.Type() != ebpf.ProgramArray {
			continue
		}
		for i := range m.MaxEntries() {
			var called *ebpf.Program
			if m.Lookup(i, &called) != nil {
				continue
			}
			err := f.readUsed(called)
			called.Close()
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// findMap finds a map by its pin, if that is the one that the programs use, or else by them.
func (f *running) findMap(name string) error {
	pin := mapPin(name)
	m, err := ebpf.LoadPinnedMap(filepath.Join(f.dir, pin), nil)
	if err == nil {
		if f.isUsed(m, name) {
			f.maps[name] = m
			return nil
		}
		m.Close()
		err = errForeign
	}
	for id, known := range f.used {
		if known != kernelName(name) {
			continue
		}
		f.note(pinError(pin, err))
		if f.maps[name], err = ebpf.NewMapFromID(id); err != nil {
			return fmt.Errorf("map %s: %w", name, err)
		}
		return nil
	}
	if f.release.Layout == ownLayout() { // else it may be a new one
		f.note(pinError(pin, err))
	}
	return nil
}

// isUsed says whether a map that is pinned is the one of its name that the programs use. Of a map that none of them uses its name alone tells.
func (f *running) isUsed(m *ebpf.Map, name string) bool {
	info, err := m.Info()
	if err != nil || info.Name != kernelName(name) {
		return false
	}
	id, _ := info.ID()
	if _, ok := f.used[id]; ok {
		return true
	}
	for _, known := range f.used {
		if known == info.Name {
			return false
		}
	}
	return true
}

// constant gives the bytes of a constant of the running programs, as their own description of it has it.
func (f *running) constant(name string) ([]byte, error) {
	m := f.maps[constants]
	if m == nil {
		return nil, fmt.Errorf("%w: the constants of the running programs", ErrDamaged)
	}
	bytes, err := m.LookupBytes(uint32(0))
	if err != nil {
		return nil, err
	}
	h, err := m.Handle()
	if err != nil {
		return nil, fmt.Errorf("description of the constants: %w", err)
	}
	defer h.Close()
	types, err := h.Spec(nil)
	if err != nil {
		return nil, err
	}
	var section *btf.Datasec
	if err := types.TypeByName(constants, &section); err != nil {
		return nil, err
	}
	for _, v := range section.Vars {
		if v.Type.TypeName() == name && int(v.Offset+v.Size) <= len(bytes) {
			return bytes[v.Offset : v.Offset+v.Size], nil
		}
	}
	return nil, fmt.Errorf("the running programs have no constant %s", name)
}

// pinnedLink is a link that is pinned in a directory.
type pinnedLink struct {
	pin     string
	id      link.ID
	program ebpf.ProgramID
	lookup  bool // of a network namespace, not of an interface
	cut     bool // its interface is gone, or somebody has detached it
}

// kind is the pin of the program that the link runs.
func (l pinnedLink) kind() string {
	kind, _, _ := strings.Cut(l.pin, "-")
	switch {
	case kind != place.AnchorPin:
		return kind
	case l.lookup:
		return lookupPin
	}
	return "tc"
}

// isLinkPin says whether a pin has the name of a link.
func isLinkPin(pin string) bool {
	kind, number, ok := strings.Cut(pin, "-")
	return pin == place.AnchorPin || ok && number != "" && slices.Contains([]string{"tc", "xdp", "out"}, kind)
}

// pinnedLinks gives the links that are pinned in a directory.
func pinnedLinks(dir string) (all []pinnedLink, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !isLinkPin(e.Name()) {
			continue
		}
		l, err := link.LoadPinnedLink(filepath.Join(dir, e.Name()), nil)
		if errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		if err != nil {
			continue // something else: it attaches nothing
		}
		info, err := l.Info()
		l.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, pinnedLink{e.Name(), info.ID, info.Program, info.NetNs() != nil, isCut(info)})
	}
	return all, nil
}

// isCut says whether a link leads nowhere any more.
func isCut(info *link.Info) bool {
	t, x, n := info.TCX(), info.XDP(), info.NetNs()
	return t != nil && t.Ifindex == 0 || x != nil && x.Ifindex == 0 || n != nil && n.NetnsInode == 0
}
