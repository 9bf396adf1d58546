// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// swap puts another map in a place of a map of maps, or none. The kernel answers when no program uses the former one any more: after a
// grace period of RCU, some 15 ms on an idle machine. So the swaps of many services are asked for together, and wait for the same one.
type swap struct {
	of *ebpf.Map
	at uint32
	to *ebpf.Map // nil is none
}

// changesAtOnce is how many go in step: each asks for up to three swaps together, with a map open for every one, and where the kernel takes
// no batches a thread to wait in.
const changesAtOnce = 256

func (s swap) do() error {
	if s.to != nil {
		return s.of.Put(s.at, s.to)
	}
	if err := s.of.Delete(s.at); !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// batchesWaitOnce says whether the kernel waits once for a batch of swaps, as from Linux 6.8 on (generic_map_update_batch); else it does for
// each of them, one after the other.
var batchesWaitOnce = sync.OnceValue(func() bool {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false
	}
	var major, minor int
	fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return major > 6 || major == 6 && minor >= 8
})

// batch puts other maps in places of the same map of maps.
func batch(swaps []swap) error {
	keys, files := make([]uint32, len(swaps)), make([]uint32, len(swaps))
	for i, s := range swaps {
		keys[i], files[i] = s.at, uint32(s.to.FD())
	}
	_, err := swaps[0].of.BatchUpdate(keys, files, nil)
	runtime.KeepAlive(swaps)
	return err
}

// calls is what to ask the kernel for.
func calls(swaps []swap) (all []func() error) {
	for len(swaps) > 0 {
		first := swaps[0]
		if first.to == nil || !batchesWaitOnce() {
			all, swaps = append(all, first.do), swaps[1:]
			continue
		}
		var alike, others []swap
		for _, s := range swaps {
			if s.of == first.of && s.to != nil {
				alike = append(alike, s)
			} else {
				others = append(others, s)
			}
		}
		all, swaps = append(all, func() error { return batch(alike) }), others
	}
	return all
}

// swapAll asks for swaps together, and waits for all.
func swapAll(swaps []swap) error {
	all := calls(swaps)
	errs := make([]error, len(all))
	var asked sync.WaitGroup
	defer asked.Wait()
	for i, call := range all {
		cut()
		asked.Go(func() { errs[i] = call() })
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
