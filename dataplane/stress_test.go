// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/cilium/ebpf"

	"lvs/needs"
)

//go:generate clang -target bpfel -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -mcpu=v3 -I/usr/include/x86_64-linux-gnu -fdebug-compilation-dir=. -c bpf/stress.bpf.c -o testdata/stress.o
//go:generate llvm-strip -g testdata/stress.o

// worker is C's struct worker.
type worker struct {
	Random, Steps, Keys, Permanent                                                         uint64
	Found, Inserted, Deleted, Refused, LostInserts, LostDeletes, Duplicates, Wrong, Missed uint64
}

// attack is a way to use the connection table hard.
type attack struct {
	segments, keys, permanent int
	batches, steps            int // of each worker; all lines that were deleted are released between two batches
	switches                  []string
}

// stressed is a connection table under attack.
type stressed struct {
	*instance
	coll    *ebpf.Collection
	workers []worker
	table   connTable
	set     bpfSetting
}

const workers = 2

func mustStress(t testing.TB, a attack) *stressed {
	t.Helper()
	c, err := ebpf.LoadCollectionSpec("testdata/stress.o")
	must(t, err)
	for name, n := range map[string]int{
		bpfMapConns: a.segments, bpfMapGuards: a.segments, bpfMapServers: a.keys, bpfMapLoads: a.keys, bpfMapCounters: a.keys * 64, "entries": a.keys,
	} {
		c.Maps[name].MaxEntries = uint32(n)
	}
	must(t, c.Variables[bpfVarSegments].Set(uint32(a.segments)))
	must(t, c.Variables[bpfVarTestClock].Set(true))
	must(t, c.Variables[bpfVarSeed].Set([6]uint32{0x9e3779b9, 0x7f4a7c15, 0x85ebca6b, 0xc2b2ae35, 0x27d4eb2f, 0x165667b1}))
	must(t, c.Variables[bpfVarNextLife].Set(nextLives()))
	for _, name := range a.switches {
		must(t, c.Variables[name].Set(true))
	}
	coll, err := ebpf.NewCollection(c)
	must(t, err)
	s := &stressed{coll: coll, instance: &instance{pinned: map[string]*ebpf.Map{}}}
	for name, m := range coll.Maps {
		s.pinned[name] = m
	}
	t.Cleanup(s.close)
	s.workers, err = mapped[worker](s.instance, "workers")
	must(t, err)
	s.loads, err = mapped[bpfLoad](s.instance, bpfMapLoads)
	must(t, err)
	s.table = s.mustConnTable(t)
	s.set = bpfSetting{Now: 1 << 20}
	for i := range s.set.Timeout {
		s.set.Timeout[i] = 1 << 30
	}
	must(t, coll.Maps[settingsMap].Put(uint32(0), s.set))
	for i := range s.workers {
		s.workers[i] = worker{Random: uint64(i)*0x123456789 + 0xfedcba987654321, Steps: uint64(a.steps), Keys: uint64(a.keys), Permanent: uint64(a.permanent)}
	}
	s.mustRun(t, "stress_fill", 0)
	return s
}

func (s *stressed) mustRun(t testing.TB, program string, number uint32) {
	t.Helper()
	var skb [48]uint32
	skb[2] = number // mark
	r, err := s.coll.Programs[program].Run(&ebpf.RunOptions{Data: make([]byte, 64), Context: skb})
	if err != nil || r != 0 {
		t.Errorf("%s: %d, %v", program, int32(r), err)
	}
}

// batch has all workers take their steps at the same time, each on a CPU of its own.
func (s *stressed) batch(t testing.TB) {
	var all, ready sync.WaitGroup
	ready.Add(workers)
	for i := range workers {
		all.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread keeps to its CPU
			if err := pin(i); err != nil {
				t.Error(err)
			}
			ready.Done()
			ready.Wait()
			s.mustRun(t, "stress", uint32(i))
		})
	}
	all.Wait()
}

// release ends what is past its time, lets a second pass, and releases the lines of all that has ended.
func (s *stressed) release(t testing.TB) {
	s.mustRun(t, "sweep_all", 0)
	s.set.Now += 1000
	must(t, s.coll.Maps[settingsMap].Put(uint32(0), s.set))
	s.mustRun(t, "sweep_all", 0)
}

func (s *stressed) sum() (sum worker) {
	for _, w := range s.workers {
		sum.Found += w.Found
		sum.Inserted += w.Inserted
		sum.Deleted += w.Deleted
		sum.Refused += w.Refused
		sum.LostInserts += w.LostInserts
		sum.LostDeletes += w.LostDeletes
		sum.Duplicates += w.Duplicates
		sum.Wrong += w.Wrong
		sum.Missed += w.Missed
	}
	return sum
}

// TestTableUnderStress has two CPUs insert, delete, find and sweep few keys in few segments, and holds the table to its promises.
func TestTableUnderStress(t *testing.T) {
	needs.BPF(t)
	if runtime.NumCPU() < workers {
		t.Skipf("needs %d CPUs", workers)
	}
	var all worker
	for _, a := range []attack{
		{segments: 1, keys: 64, permanent: 8, batches: 300, steps: 150},
		{segments: 1, keys: 400, permanent: 32, batches: 300, steps: 200},
		{segments: 2, keys: 64, permanent: 32, batches: 10, steps: 200_000, switches: []string{"at_once"}},
		{segments: 1, keys: 512, permanent: 32, batches: 10, steps: 200_000, switches: []string{"at_once"}},
		{segments: 32, keys: 16384, permanent: 32, batches: 10, steps: 200_000, switches: []string{"at_once"}},
		{segments: 1, keys: 64, permanent: 8, batches: 300, steps: 150, switches: []string{"sweeping"}},
		{segments: 2, keys: 400, permanent: 32, batches: 10, steps: 100_000, switches: []string{"sweeping", "at_once"}},
		{segments: 1, keys: 8, permanent: 2, batches: 10, steps: 30_000, switches: []string{"at_once", "slow"}},
	} {
		t.Run(fmt.Sprint(a), func(t *testing.T) {
			s := mustStress(t, a)
			for range a.batches {
				s.batch(t)
				s.check(t, a)
				s.release(t)
				if live, used := len(s.table.live()), s.table.used(); live != used {
					t.Errorf("%d lines are taken, %d of them by entries", used, live)
				}
				if t.Failed() {
					return
				}
			}
			sum := s.sum()
			t.Logf("%+v", sum)
			if sum.Duplicates+sum.Wrong+sum.Missed != 0 {
				t.Errorf("%d duplicates, %d wrong matches, %d permanent keys missed", sum.Duplicates, sum.Wrong, sum.Missed)
			}
			if live := len(s.table.live()); !slices.Contains(a.switches, "sweeping") && int(sum.Inserted-sum.Deleted) != live {
				t.Errorf("%d insertions and %d deletions, but %d live entries", sum.Inserted, sum.Deleted, live)
			}
			all.LostInserts += sum.LostInserts
			all.LostDeletes += sum.LostDeletes
		})
	}
	if !t.Failed() && (all.LostInserts == 0 || all.LostDeletes == 0) {
		t.Errorf("the CPUs did not meet: %d insertions and %d deletions lost to the other", all.LostInserts, all.LostDeletes)
	}
}

// check holds a table at rest to what must be true of it.
func (s *stressed) check(t testing.TB, a attack) {
	t.Helper()
	for _, wrong := range s.table.faults() {
		t.Error(wrong)
	}
	entries := map[uint32]int{}
	for _, e := range s.table.live() {
		entries[e.Server]++
	}
	for _, wrong := range s.table.overstated(s.loads) {
		t.Error(wrong)
	}
	for id := range a.permanent {
		if entries[uint32(id)] != 1 {
			t.Errorf("permanent key %d has %d entries", id, entries[uint32(id)])
		}
	}
	met := s.workers[0]
	s.mustRun(t, "stress_look", 0)
	found := s.workers[0]
	s.workers[0] = met
	if int(found.Found) != len(entries) || found.Wrong != met.Wrong {
		t.Errorf("%d keys are found, %d of them wrongly; there are %d", found.Found, found.Wrong-met.Wrong, len(entries))
	}
}

// The test above would notice: without what makes the table safe, it breaks.
func TestStressNotices(t *testing.T) {
	needs.BPF(t)
	if runtime.NumCPU() < workers {
		t.Skipf("needs %d CPUs", workers)
	}
	for _, c := range []struct {
		flaw    string
		symptom func(worker) uint64
	}{
		{"no_version", func(w worker) uint64 { return w.Duplicates }},
		{"no_second_look", func(w worker) uint64 { return w.Wrong }},
	} {
		t.Run(c.flaw, func(t *testing.T) {
			s := mustStress(t, attack{segments: 1, keys: 4, steps: 20_000, switches: []string{"at_once", "slow", c.flaw}})
			for range 100 {
				s.batch(t)
				if n := c.symptom(s.sum()); n > 0 {
					t.Logf("%d", n)
					return
				}
			}
			t.Errorf("%s is not noticed: %+v", c.flaw, s.sum())
		})
	}
}
