// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"iter"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
)

// swap puts another map in a place of a map of maps, or none. The kernel answers when no program uses the former one any more: after a
// grace period of RCU, some 15 ms on an idle machine. So the swaps of many services are asked for together, and wait for the same one.
type swap struct {
	of *ebpf.Map
	at uint32
	to *ebpf.Map // nil is none
}

// changesAtOnce is how many go in step: each asks for up to three swaps together, with a map open and a thread to wait in for every one.
const changesAtOnce = 128

func (s swap) do() error {
	if s.to != nil {
		return s.of.Put(s.at, s.to)
	}
	if err := s.of.Delete(s.at); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// swapAll asks for swaps together, and waits for all.
func swapAll(swaps []swap) error {
	errs := make([]error, len(swaps))
	var asked sync.WaitGroup
	defer asked.Wait()
	for i, s := range swaps {
		cut()
		asked.Go(func() { errs[i] = s.do() })
	}
	asked.Wait()
	return errors.Join(errs...)
}

// change is work with swaps in it: it hands those over that may be made at the same time, and goes on when they are; or ends with the error
// that it hears.
type change func(made func(...swap) error) error

var errOtherFailed = errors.New("another change has failed")

// inStep carries changes out that do not touch each other. Each goes on, in their order, as far as its next swap; then these are made.
// After an error the others go no further.
func inStep(changes []change) error {
	for some := range slices.Chunk(changes, changesAtOnce) {
		if err := together(some); err != nil {
			return err
		}
	}
	return nil
}

func together(changes []change) error {
	type begun struct {
		next func() ([]swap, bool)
		err  error
	}
	var all []*begun
	for _, c := range changes {
		b := &begun{}
		next, stop := iter.Pull(func(yield func([]swap) bool) {
			b.err = c(func(s ...swap) error {
				if !yield(s) {
					return errOtherFailed
				}
				return nil
			})
		})
		defer stop()
		b.next = next
		all = append(all, b)
	}
	for len(all) > 0 {
		var swaps []swap
		var going []*begun
		for _, b := range all {
			s, more := b.next()
			if b.err != nil {
				return b.err
			}
			if more {
				swaps, going = append(swaps, s...), append(going, b)
			}
		}
		if err := swapAll(swaps); err != nil {
			return err
		}
		all = going
	}
	return nil
}
