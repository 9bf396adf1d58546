// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs"
	"lvs/place"
)

// ErrNotRoot says that the caller may not load programs or open what is pinned.
var ErrNotRoot = place.ErrNotRoot

// Director is the instance of the calling thread's network namespace. Nothing is loaded before something is changed.
// It keeps nothing open: each call opens what is pinned, under the instance's lock, and closes it.
//
// A Director is for one goroutine at a time. The change of an Update may call its other methods, which then read what
// was there before the change.
type Director struct {
	place    place.Place
	sizes    Sizes
	asked    Sizes     // 0 if any will do
	updating *instance // open and locked by an Update under way
}

var _ lvs.Director = (*Director)(nil)

// Open finds the place of the calling thread's network namespace; the Director goes on with that one, on any thread,
// save for what attaches to interfaces. The sizes are for the case that this Director loads the instance; [Director.Attach]
// refuses others than those of an instance that is there.
func Open(s Sizes) (*Director, error) {
	p, err := place.Find("")
	if err != nil {
		return nil, err
	}
	d := &Director{place: p, sizes: s.orDefault(), asked: s}
	return d, d.sizes.check()
}

// Namespace names the network namespace, by its cookie; no other one gets that name while the machine is up.
func (d *Director) Namespace() string { return filepath.Base(d.place.Path) }

// Update is as [lvs.Director] says. It loads the instance if there is none, and attaches it to interfaces that are
// up and were not attached to before.
func (d *Director) Update(change func(*lvs.Table) error) error {
	in, err := d.loaded()
	if err != nil {
		return err
	}
	defer in.close()
	if err := in.repair(); err != nil {
		return err
	}
	t, err := in.table()
	if err != nil {
		return err
	}
	d.updating = in
	err = change(t)
	d.updating = nil
	if err != nil {
		return err
	}
	return in.commit(t)
}

// reading opens the instance to be read under a lock; the function it answers closes it.
func (d *Director) reading(how int) (*instance, func(), error) {
	if d.updating != nil {
		return d.updating, func() {}, nil
	}
	in, err := d.open(how)
	if err != nil {
		return nil, nil, err
	}
	return in, in.close, nil
}

// Table is as [lvs.Director] says. Where nothing is loaded the table is empty.
func (d *Director) Table() (*lvs.Table, error) {
	in, done, err := d.reading(unix.LOCK_SH)
	if errors.Is(err, fs.ErrNotExist) {
		return &lvs.Table{Timeouts: lvs.DefaultTimeouts}, nil
	}
	if err != nil {
		return nil, err
	}
	if d.updating != nil || !in.broken() {
		defer done()
		return in.table()
	}
	// a change was cut short: it has to be finished before anybody may look
	done()
	if in, err = d.open(unix.LOCK_EX); err != nil {
		return nil, err
	}
	defer in.close()
	if err := in.repair(); err != nil {
		return nil, err
	}
	return in.table()
}

// Conns is as [lvs.Director] says. It waits for nobody, and nobody waits for it: whoever reads may take all the time.
func (d *Director) Conns() iter.Seq2[lvs.Conn, error] {
	return func(yield func(lvs.Conn, error) bool) {
		in, done, err := d.reading(unix.LOCK_UN)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(lvs.Conn{}, err)
			return
		}
		defer done()
		in.conns(jiffies(in.hz), yield)
	}
}

// Size is as [lvs.Director] says: for a loaded instance its own size, else that which it would be loaded with.
func (d *Director) Size() int {
	in, done, err := d.reading(unix.LOCK_SH)
	if err != nil {
		return connsIn(d.sizes.segments())
	}
	defer done()
	return in.size()
}

// Unload detaches everything and removes all that is pinned: services, connections, counters. It is no error if nothing
// is loaded.
func (d *Director) Unload() error {
	in, err := d.open(unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return d.place.Remove()
	}
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrOtherVersion) {
		return d.tearDown()
	}
	if err != nil {
		return err
	}
	defer in.close()
	if err := in.steer(nil, true); err != nil {
		return err
	}
	if err := in.detach(nil); err != nil {
		return err
	}
	if err := in.restoreLo(); err != nil {
		return err
	}
	return d.place.Remove()
}

// loaded opens the instance for changes, and loads it first if there is none.
func (d *Director) loaded() (*instance, error) {
	for {
		in, err := d.open(unix.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) || d.emptied() {
			if err = d.place.Create(d.sizes.load); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := in.follow(func(error) {}); err != nil {
			in.close()
			return nil, err
		}
		return in, nil
	}
}

// emptied says whether somebody has removed all pins. All that was attached by links has ended with them, so nothing can be lost any more.
func (d *Director) emptied() bool {
	entries, err := os.ReadDir(d.place.Path)
	return err == nil && len(entries) == 0
}

// instance is what is pinned for a namespace, open and locked.
type instance struct {
	dir    string
	lock   place.Lock
	pinned map[string]*ebpf.Map
	mapped map[string][]byte // shared with the kernel, by the maps' names

	services []bpfService
	servers  []bpfServer
	loads    []bpfLoad
	counters []bpfCounter
	rates    struct{ servers, services []bpfEstimate } // by slot
	cpus     int
	hz       uint32
	named    map[uint32]bool // servers' slots that places name; nil if that was not read yet
}

func (d *Director) open(how int) (*instance, error) {
	l, err := d.lock(how)
	if err != nil {
		return nil, err
	}
	in := &instance{dir: d.place.Path, lock: l, pinned: map[string]*ebpf.Map{}}
	if err := in.open(); err != nil {
		in.close()
		if errors.Is(err, ErrDamaged) && d.emptied() {
			err = fmt.Errorf("%w: somebody has removed all of them, and what they kept alive; the next change begins anew", ErrDamaged)
		}
		return nil, fmt.Errorf("%s: %w", d.place.Shown, err)
	}
	return in, nil
}

// lock takes the place's lock, and completes an upgrade that was cut short.
func (d *Director) lock(how int) (place.Lock, error) {
	for {
		l, err := place.LockDir(d.place.Path, how)
		if err != nil || how == unix.LOCK_UN || !d.upgrading() {
			return l, err
		}
		l.Release()
		if err := d.tidy(); err != nil {
			return place.Lock{}, err
		}
	}
}

// tidy completes an upgrade, or removes what is left of one.
func (d *Director) tidy() error {
	l, err := place.LockDir(d.place.Path, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.Release()
	return d.complete()
}

func (in *instance) open() (err error) {
	r, err := readRelease(in.dir)
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return err
	}
	if in.hz, err = hertz(); err != nil {
		return err
	}
	if in.services, err = mapped[bpfService](in, bpfMapServices); err != nil {
		return err
	}
	if in.servers, err = mapped[bpfServer](in, bpfMapServers); err != nil {
		return err
	}
	if in.loads, err = mapped[bpfLoad](in, bpfMapLoads); err != nil {
		return err
	}
	if in.counters, err = mapped[bpfCounter](in, bpfMapCounters); err != nil {
		return err
	}
	if in.rates.servers, err = mapped[bpfEstimate](in, bpfMapServerEstimates); err != nil {
		return err
	}
	if in.rates.services, err = mapped[bpfEstimate](in, bpfMapServiceEstimates); err != nil {
		return err
	}
	in.cpus = len(in.counters) / len(in.servers)
	return nil
}

func (in *instance) close() {
	for _, b := range in.mapped {
		unix.Munmap(b)
	}
	for _, m := range in.pinned {
		m.Close()
	}
	in.lock.Release()
	in.mapped, in.pinned = nil, nil
}

// m opens a pinned map.
func (in *instance) m(name string) (*ebpf.Map, error) {
	if m := in.pinned[name]; m != nil {
		return m, nil
	}
	m, err := loadMap(in.dir, name)
	if err != nil {
		return nil, err
	}
	in.pinned[name] = m
	return m, nil
}

// mapped gives the entries of a map as memory that is shared with the kernel.
func mapped[T any](in *instance, name string) ([]T, error) {
	m, err := in.m(name)
	if err != nil {
		return nil, err
	}
	var one T
	if uint32(unsafe.Sizeof(one)) != m.ValueSize() {
		return nil, pinError(name, fmt.Errorf("its entries have %d bytes, and should have %d", m.ValueSize(), unsafe.Sizeof(one)))
	}
	n := int(m.MaxEntries())
	b := in.mapped[name]
	if b == nil {
		b, err = unix.Mmap(m.FD(), 0, n*int(m.ValueSize()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map %s into memory: %w", name, err)
		}
		if in.mapped == nil {
			in.mapped = map[string][]byte{}
		}
		in.mapped[name] = b
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), n), nil
}

func (in *instance) settings() (s bpfSetting, err error) {
	m, err := in.m(settingsPin)
	if err == nil {
		err = m.Lookup(uint32(0), &s)
	}
	return s, err
}

func (in *instance) putSettings(s bpfSetting) error {
	m, err := in.m(settingsPin)
	if err != nil {
		return err
	}
	return m.Put(uint32(0), s)
}
