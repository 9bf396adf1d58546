// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"iter"
	"slices"
	"sync"

	"lvs"
)

// memory is a director that only remembers.
type memory struct {
	mu    sync.Mutex
	table *lvs.Table
	conns []lvs.Conn
	opens []Mode // what it was opened for
}

func newMemory() *memory { return &memory{table: &lvs.Table{}} }

func (m *memory) open(mode Mode) (lvs.Director, error) {
	m.opens = append(m.opens, mode)
	return m, nil
}

func (m *memory) Update(change func(*lvs.Table) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := clone(m.table)
	if err := change(t); err != nil {
		return err
	}
	m.table = t
	return nil
}

func (m *memory) Table() (*lvs.Table, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return clone(m.table), nil
}

func (m *memory) Conns() iter.Seq2[lvs.Conn, error] {
	return func(yield func(lvs.Conn, error) bool) {
		for _, c := range m.conns {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func (m *memory) Size() int { return 4096 }

func clone(t *lvs.Table) *lvs.Table {
	c := &lvs.Table{Timeouts: t.Timeouts, Locals: slices.Clone(t.Locals)}
	for _, s := range t.Services() {
		copied := *s
		copied.Servers = slices.Clone(s.Servers)
		for i, d := range s.Servers {
			server := *d
			copied.Servers[i] = &server
		}
		c.Put(&copied)
	}
	return c
}
