// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
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
	b := encodeRecords(records, t)
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
	return m.Pin(in.journalPath())
}

func (in *instance) removeJournal() error { return os.Remove(in.journalPath()) }

// broken says whether a change was cut short.
func (in *instance) broken() bool {
	_, err := os.Lstat(in.journalPath())
	return err == nil
}

// repair finishes a change that was cut short.
func (in *instance) repair() error {
	m, err := ebpf.LoadPinnedMap(in.journalPath(), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	defer m.Close()
	b := make([]byte, 0, m.MaxEntries()*journalChunk)
	var chunk [journalChunk]byte
	for i := range m.MaxEntries() {
		if err := m.Lookup(i, &chunk); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		b = append(b, chunk[:]...)
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
	return in.removeJournal()
}
