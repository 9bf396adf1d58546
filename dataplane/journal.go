// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/cilium/ebpf"

	"lvs"
)

// A change takes many steps. Before the first, its records and time-outs are written into a map that is pinned as "journal"; after the
// last, the pin is removed. A process that is killed in between leaves the journal, and the next one carries the
// records out again. A journal is pinned whole or not at all.

const journalPin = "journal"

const journalChunk = 4096

// journalMost is more than a record has entries of anything.
const journalMost = 1 << 20

type journalHead struct {
	Size     uint64 // of all that follows
	Services uint64
	Timeouts lvs.Timeouts
	Spare    uint32
}

func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

func (in *instance) journalPath() string { return filepath.Join(in.dir, journalPin) }

func encodeRecords(records []*record, t lvs.Timeouts) []byte {
	var body []byte
	for _, r := range records {
		n := uint64(len(r.servers))
		body = append(body, bytesOf(&r.service)...)
		body = append(body, bytesOf(&n)...)
		for i := range r.servers {
			body = append(body, bytesOf(&r.servers[i])...)
		}
		n = uint64(len(r.locals))
		body = append(body, bytesOf(&n)...)
		for i := range r.locals {
			body = append(body, bytesOf(&r.locals[i])...)
		}
	}
	head := journalHead{Size: uint64(len(body)), Services: uint64(len(records)), Timeouts: t}
	return append(bytesOf(&head)[:unsafe.Sizeof(head):unsafe.Sizeof(head)], body...)
}

var errJournal = errors.New("the journal of an unfinished change is damaged")

func decodeRecords(b []byte) ([]*record, lvs.Timeouts, error) {
	take := func(into []byte) bool {
		if len(b) < len(into) {
			return false
		}
		b = b[copy(into, b):]
		return true
	}
	var head journalHead
	if !take(bytesOf(&head)) || uint64(len(b)) < head.Size {
		return nil, head.Timeouts, errJournal
	}
	b = b[:head.Size]
	var records []*record
	for range head.Services {
		r, n := &record{}, uint64(0)
		if !take(bytesOf(&r.service)) || !take(bytesOf(&n)) || n > ServersPerService {
			return nil, head.Timeouts, errJournal
		}
		r.servers = make([]bpfServer, n)
		for i := range r.servers {
			if !take(bytesOf(&r.servers[i])) {
				return nil, head.Timeouts, errJournal
			}
		}
		if !take(bytesOf(&n)) || n > lvs.LocalsPerPool {
			return nil, head.Timeouts, errJournal
		}
		r.locals = make([]bpfLocal, n)
		for i := range r.locals {
			if !take(bytesOf(&r.locals[i])) {
				return nil, head.Timeouts, errJournal
			}
		}
		if int(r.service.Scheduler) >= len(schedulers) {
			return nil, head.Timeouts, errJournal
		}
		records = append(records, r)
	}
	return records, head.Timeouts, nil
}

func (in *instance) writeJournal(records []*record, t lvs.Timeouts) error {
	return pinJournal(in.dir, encodeRecords(records, t))
}

func pinJournal(dir string, b []byte) error {
	chunks := (len(b) + journalChunk - 1) / journalChunk
	b = append(b, make([]byte, chunks*journalChunk-len(b))...)
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "journal", Type: ebpf.Array, KeySize: 4, ValueSize: journalChunk, MaxEntries: uint32(chunks),
	})
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer m.Close()
	keys := make([]uint32, chunks)
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := m.BatchUpdate(keys, unsafe.Slice((*[journalChunk]byte)(unsafe.Pointer(unsafe.SliceData(b))), chunks), nil); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return m.Pin(filepath.Join(dir, journalPin))
}

func (in *instance) removeJournal() error { return os.Remove(in.journalPath()) }

// carryJournal has a change that was cut short finished by whoever comes after an upgrade. Its records are entries of maps, and become
// what these become.
func (f *running) carryJournal(dir string) error {
	b, err := readJournal(f.dir)
	if errors.Is(err, ErrDamaged) {
		return nil // none of ours
	}
	if err != nil || b == nil {
		return err
	}
	if f.release.Layout != ownLayout() {
		if b, err = f.convertRecords(b); err != nil {
			return err
		}
	}
	return pinJournal(dir, b)
}

// convertRecords is to the records of another layout what convertMap is to maps.
func (f *running) convertRecords(b []byte) ([]byte, error) {
	head := journalHead{}
	if len(b) < int(unsafe.Sizeof(head)) {
		return nil, errJournal
	}
	left := b[copy(bytesOf(&head), b):]
	var body []byte
	entries := func(name string, own uintptr, counted bool) error {
		all, size, n := conversions(name, f.release.Layout), int(own), uint64(1)
		if len(all) > 0 {
			size = all[0].from
		}
		if counted {
			if len(left) < 8 {
				return errJournal
			}
			n = binary.NativeEndian.Uint64(left)
			body, left = append(body, left[:8]...), left[8:]
		}
		if n > journalMost || uint64(len(left)) < n*uint64(size) {
			return errJournal
		}
		for range n {
			body, left = append(body, convertEntry(left[:size:size], all)...), left[size:]
		}
		return nil
	}
	for range head.Services {
		for _, err := range []error{
			entries(bpfMapServices, unsafe.Sizeof(bpfService{}), false), entries(bpfMapServers, unsafe.Sizeof(bpfServer{}), true),
			entries(bpfMapPools, unsafe.Sizeof(bpfLocal{}), true),
		} {
			if err != nil {
				return nil, err
			}
		}
	}
	head.Size = uint64(len(body))
	return append(bytesOf(&head)[:unsafe.Sizeof(head):unsafe.Sizeof(head)], body...), nil
}

// broken says whether a change was cut short.
func (in *instance) broken() bool {
	_, err := os.Lstat(in.journalPath())
	return err == nil
}

// readJournal reads what is pinned in a directory, if anything is.
func readJournal(dir string) ([]byte, error) {
	if _, err := os.Lstat(filepath.Join(dir, journalPin)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	m, err := loadMap(dir, journalPin)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	b := make([]byte, 0, m.MaxEntries()*journalChunk)
	var chunk [journalChunk]byte
	for i := range m.MaxEntries() {
		if err := m.Lookup(i, &chunk); err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		b = append(b, chunk[:]...)
	}
	return b, nil
}

// repair finishes a change that was cut short.
func (in *instance) repair() error {
	b, err := readJournal(in.dir)
	if err != nil || b == nil {
		return err
	}
	records, timeouts, err := decodeRecords(b)
	if err != nil {
		return err
	}
	if err := in.apply(records, true); err != nil {
		return fmt.Errorf("finish a change that was cut short: %w", err)
	}
	if err := in.setTimeouts(timeouts); err != nil {
		return err
	}
	if err := in.followReals(); err != nil {
		return err
	}
	return in.removeJournal()
}
