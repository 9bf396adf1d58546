// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// dryRun is what a dry run answers.
type dryRun struct {
	plan    bpfPlan
	found   bpfFinding
	reason  bpfReason
	verdict uint32
	out     []byte
}

// fate is what becomes of the packet. Verdicts of tc alone do not tell: what is left alone at our device is redirected, too.
func (r *dryRun) fate() string {
	const shot = 2
	f := &r.plan.Decision
	switch {
	case f.Outcome == bpfOutcomeOUTCOME_PASS:
		return Left
	case f.Outcome == bpfOutcomeOUTCOME_RESET:
		return Reset
	case f.Outcome == bpfOutcomeOUTCOME_DROP || r.verdict == shot:
		return Dropped
	case f.Outcome == bpfOutcomeOUTCOME_REFUSE:
		return Answered
	case r.reason != bpfReasonREASON_NONE && f.Direction == bpfDirectionDIRECTION_OUTPUT:
		return Left
	case r.reason != bpfReasonREASON_NONE:
		return Answered
	case r.found.Routed == bpfRoutedROUTED_LOCALLY:
		return Delivered
	}
	return Forwarded
}

// private are the maps that a dry run has for itself: what is worked in, and what is counted; and copied are those that are
// as the running programs have them when it begins. All others are those of the running programs.
var (
	private = []string{bpfMapFindings, bpfMapPlans, bpfMapReasons, bpfMapRoutes, bpfMapIcmpBudgets, bpfMapQuotes, bpfMapCounters}
	copied  = []string{bpfMapLoads, bpfMapLinks}
)

// rehearsal is the program for the rest once more, for dry runs: it decides about any packet.
type rehearsal struct {
	*ebpf.Collection
	program *ebpf.Program
	live    map[string]*ebpf.Map // those of the running programs, of what is copied
}

// rehearse loads the running program once more, with the constant dry set. The kernel's tags of both tell that the
// instructions are the same.
func (in *instance) rehearse() (*rehearsal, error) {
	c, err := loadBpf()
	if err != nil {
		return nil, err
	}
	name := programPins[restPin]
	c.Programs = map[string]*ebpf.ProgramSpec{name: c.Programs[name]}
	shared, live := map[string]*ebpf.Map{}, map[string]*ebpf.Map{}
	for of, m := range c.Maps {
		if of == constants {
			continue
		}
		pinned, err := in.m(mapPin(of))
		if err != nil {
			return nil, err
		}
		m.MaxEntries = pinned.MaxEntries()
		switch {
		case of == bpfMapCounters:
			m.MaxEntries = 1 // nobody asks for them
		case slices.Contains(copied, of), of == bpfMapPlans:
			live[of] = pinned
		case !slices.Contains(private, of):
			shared[of] = pinned
		}
	}
	if err := in.takeConstants(c); err != nil {
		return nil, err
	}
	if err := c.Variables[bpfVarDry].Set(true); err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollectionWithOptions(c, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return nil, explainLoad(err)
	}
	r := &rehearsal{coll, coll.Programs[name], live}
	if err := in.same(r.program); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// takeConstants sets the constants of a program as those of the running ones, by their names.
func (in *instance) takeConstants(c *ebpf.CollectionSpec) error {
	running, err := loadBpf()
	if err != nil {
		return err
	}
	m, err := in.m(mapPin(constants))
	if err != nil {
		return err
	}
	bytes, err := m.LookupBytes(uint32(0))
	if err != nil {
		return fmt.Errorf("constants of the running program: %w", err)
	}
	if len(bytes) != int(running.Maps[constants].ValueSize) {
		return errOtherVersion
	}
	for name, v := range c.Variables {
		if v.SectionName != constants {
			continue
		}
		of := running.Variables[name]
		if of == nil || of.Size() != v.Size() {
			return errOtherVersion
		}
		v.Value = bytes[of.Offset : of.Offset+of.Size()]
	}
	return nil
}

var errOtherVersion = errors.New("the running program is that of another version of director, which may decide otherwise: `director upgrade` replaces it")

func (in *instance) same(p *ebpf.Program) error {
	running, err := in.program(restPin)
	if err != nil {
		return err
	}
	defer running.Close()
	theirs, err := running.Info()
	if err != nil {
		return err
	}
	ours, err := p.Info()
	if err != nil {
		return err
	}
	if theirs.Tag != ours.Tag {
		return errOtherVersion
	}
	return nil
}

// copyMap copies all entries of a map into one of the same size.
func copyMap(to, from *ebpf.Map) error {
	size := int(from.MaxEntries()) * int(from.ValueSize())
	source, err := unix.Mmap(from.FD(), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %v into memory: %w", from, err)
	}
	defer unix.Munmap(source)
	target, err := unix.Mmap(to.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %v into memory: %w", to, err)
	}
	defer unix.Munmap(target)
	copy(target, source)
	return nil
}

// run asks about a packet with a mark at an interface, where it comes in or, with egress, leaves.
func (r *rehearsal) run(frame []byte, egress bool, ifindex, mark uint32) (*dryRun, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	for _, name := range copied {
		if err := copyMap(r.Maps[name], r.live[name]); err != nil {
			return nil, err
		}
	}
	reasons := r.Maps[bpfMapReasons]
	for why := range bpfReasonREASONS {
		if err := reasons.Put(uint32(why), make([]uint64, cpus)); err != nil {
			return nil, err
		}
	}
	plans := make([]bpfPlan, cpus)
	if err := r.live[bpfMapPlans].Lookup(uint32(0), &plans); err != nil {
		return nil, err
	}
	for i := range plans {
		plans[i] = bpfPlan{Turn: plans[i].Turn, Begun: plans[i].Begun, Template: noLine}
		plans[i].Flow.Leaves = egress
		plans[i].Decision.At = noLine
	}
	if err := r.Maps[bpfMapPlans].Put(uint32(0), plans); err != nil {
		return nil, err
	}
	if err := r.Maps[bpfMapFindings].Put(uint32(0), bpfFinding{}); err != nil {
		return nil, err
	}
	d := &dryRun{}
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: [48]uint32{2: mark, 10: ifindex}} // struct __sk_buff
	if d.verdict, err = r.program.Run(o); err != nil {
		return nil, fmt.Errorf("dry run: %w", err)
	}
	d.out = o.DataOut
	if err := r.Maps[bpfMapFindings].Lookup(uint32(0), &d.found); err != nil {
		return nil, err
	}
	if err := r.Maps[bpfMapPlans].Lookup(uint32(0), &plans); err != nil {
		return nil, err
	}
	for i := range plans {
		if plans[i].Flow.Family != 0 { // this CPU's
			d.plan = plans[i]
		}
	}
	for why := range bpfReasonREASONS {
		var counted []uint64
		if err := reasons.Lookup(uint32(why), &counted); err != nil {
			return nil, err
		}
		if slices.Max(counted) > 0 {
			d.reason = why
		}
	}
	return d, nil
}

// dryRun asks about a packet.
func (in *instance) dryRun(a *arrival, egress bool, ifindex, mark uint32) (*dryRun, error) {
	r, err := in.rehearse()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.run(a.frame, egress, ifindex, mark)
}
