// SPDX-License-Identifier: Apache-2.0

package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Unfinished is where the directory is built; a process that is killed leaves it there.
func (p Place) Unfinished() string { return p.Path + "-new" }

// Create has the place's directory built aside and renamed, all or nothing, unless another process was faster. First it
// sweeps away the places whose namespaces are gone, and those that were never finished.
func (p Place) Create(build func(dir string) error) error {
	l, err := p.lockParent()
	if err != nil {
		return err
	}
	defer l.Release()
	p.sweep()
	if there, err := os.ReadDir(p.Path); err == nil && len(there) > 0 {
		return nil
	}
	if err := p.make(build); err != nil {
		return err
	}
	return os.Rename(p.Unfinished(), p.Path)
}

// make has a directory built aside, all or nothing.
func (p Place) make(build func(dir string) error) error {
	aside := p.Unfinished()
	if err := removePins(aside); err != nil {
		return err
	}
	if err := os.Mkdir(aside, 0o700); err != nil {
		return err
	}
	if err := build(aside); err != nil {
		return errors.Join(err, removePins(aside))
	}
	return nil
}

// Exchange has another directory built aside, with an anchor of its own, and puts it in the place's stead at once. What was there is at
// [Place.Unfinished] then, until it is removed with [Place.Discard] or put back with [Place.Return]. Whoever calls it holds the
// place's lock, and has the new directory's afterwards, too.
func (p Place) Exchange(build func(dir string) error) (Lock, error) {
	parent, err := p.lockParent()
	if err != nil {
		return Lock{}, err
	}
	defer parent.Release()
	if err := p.make(build); err != nil {
		return Lock{}, err
	}
	l, err := LockDir(p.Unfinished(), unix.LOCK_EX)
	if err == nil {
		err = p.Return()
	}
	if err != nil {
		l.Release()
		return Lock{}, errors.Join(err, removePins(p.Unfinished()))
	}
	return l, nil
}

// Return exchanges the place's directory and that aside once more.
func (p Place) Return() error {
	if err := unix.Renameat2(unix.AT_FDCWD, p.Unfinished(), unix.AT_FDCWD, p.Path, unix.RENAME_EXCHANGE); err != nil {
		return fmt.Errorf("exchange %s: %w", p.Path, err)
	}
	return nil
}

// Discard removes what is aside. Whoever calls it holds the place's lock.
func (p Place) Discard() error { return removePins(p.Unfinished()) }

// lockParent takes the lock under which places come and go, and makes the directory that it is of.
func (p Place) lockParent() (Lock, error) {
	for {
		if err := os.Mkdir(p.Parent, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return Lock{}, err
		}
		l, err := LockDir(p.Parent, unix.LOCK_EX)
		if !errors.Is(err, fs.ErrNotExist) { // the last place of another namespace may have gone just now
			return l, err
		}
	}
}

// Remove removes the place, and what was never finished of it, while none can come or be swept, and the parent after the
// last one. Whoever calls it holds the place's lock.
func (p Place) Remove() error {
	l, err := LockDir(p.Parent, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Release()
	for _, dir := range []string{p.Path, p.Unfinished()} {
		if err := removePins(dir); err != nil {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
	}
	os.Remove(p.Parent)
	return nil
}

func removePins(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		os.Remove(filepath.Join(dir, e.Name()))
	}
	if err := os.Remove(dir); !errors.Is(err, fs.ErrNotExist) { // a sweep of another process may have been faster
		return err
	}
	return nil
}

func (p Place) sweep() {
	entries, _ := os.ReadDir(p.Parent)
	for _, e := range entries {
		dir := filepath.Join(p.Parent, e.Name())
		if !Alive(dir) {
			removePins(dir)
		}
	}
}

// AnchorPin is the name of the pin of the link that [Anchor] makes.
const AnchorPin = "anchor"

// Anchor attaches and pins in a directory what tells later commands whether the calling thread's namespace is still
// there: a link that the kernel cuts when lo or the namespace goes. It takes a tc program, and, for kernels before tcx
// (Linux 6.6), a socket look-up program that looks at nothing.
func Anchor(dir string, tc, lookup *ebpf.Program) error {
	l, err := anchor(tc, lookup)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(filepath.Join(dir, AnchorPin))
}

func anchor(tc, lookup *ebpf.Program) (link.Link, error) {
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1, Program: tc, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return nil, fmt.Errorf("attach to lo: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	n, err := link.AttachNetNs(int(ns.Fd()), lookup)
	if err != nil {
		return nil, fmt.Errorf("attach to the network namespace: %w", err)
	}
	return n, nil
}

// Alive says whether the namespace of the instance in a directory still exists. Any link tells, for somebody may have removed
// the anchor's pin. Where the kernel does not let us know it counts as one that does.
func Alive(dir string) bool {
	if there, err := Anchored(dir); there || err != nil {
		return true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		there, err := holds(filepath.Join(dir, e.Name()))
		return there || err != nil
	})
}

// Anchored says whether the anchor in a directory holds.
func Anchored(dir string) (bool, error) { return holds(filepath.Join(dir, AnchorPin)) }

// holds says whether a pin is that of a link to something that is there. An error says that it is not known: this process may
// not look, or there is no descriptor left to do it with.
func holds(pin string) (bool, error) {
	if f, err := os.Lstat(pin); errors.Is(err, fs.ErrNotExist) || err == nil && !f.Mode().IsRegular() {
		return false, nil
	}
	l, err := link.LoadPinnedLink(pin, nil)
	if err != nil {
		return false, unknown(pin, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, unknown(pin, err)
	}
	if t := info.TCX(); t != nil {
		return t.Ifindex != 0, nil
	}
	if x := info.XDP(); x != nil {
		return x.Ifindex != 0, nil
	}
	if n := info.NetNs(); n != nil {
		return n.NetnsInode != 0, nil
	}
	return false, nil
}

// unknown leaves of an error about a pin what the kernel refused: that it is gone, or is no link, is known.
func unknown(pin string, err error) error {
	var refused unix.Errno
	if !errors.As(err, &refused) || refused == unix.ENOENT {
		return nil
	}
	return fmt.Errorf("%s: %w", pin, err)
}
