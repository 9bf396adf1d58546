// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs"
	"lvs/place"
)

// settingsPin is the pin of the map that C calls .data.settings; a bpffs has no dots.
const settingsPin, settingsMap = "settings", ".data.settings"

// programPins are the pinned programs: those for the hooks, and what an upgrade that was cut short needs, whoever completes it.
var programPins = map[string]string{
	"tc": bpfProgDirectorTc, "xdp": bpfProgDirectorXdp, "out": bpfProgDirectorOut, restPin: bpfProgDirectorRest, startPin: bpfProgDirectorStart, lookupPin: bpfProgDirectorAnchor,
}

const restPin, startPin, lookupPin = "rest", "start", "lookup"

// hertz is the kernel's tick rate, as the resolution of its coarse clock tells it.
func hertz() (uint32, error) {
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil || ts.Nsec == 0 {
		return 0, fmt.Errorf("the kernel's tick rate: %w", err)
	}
	return uint32((1e9 + ts.Nsec/2) / ts.Nsec), nil
}

// spec gives the program with its sizes and constants set.
func spec(s Sizes) (*ebpf.CollectionSpec, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	c, err := loadBpf()
	if err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	hz, err := hertz()
	if err != nil {
		return nil, err
	}
	var seed [6]uint32
	if err := binary.Read(rand.Reader, binary.NativeEndian, &seed); err != nil {
		return nil, err
	}
	segments := s.segments()
	for name, n := range map[string]uint32{
		bpfMapConns: segments, bpfMapGuards: segments, bpfMapLinks: segments, bpfMapServices: uint32(s.Services) + 1, bpfMapLists: uint32(s.Services) + 1,
		bpfMapContests:     uint32(s.Services) + 1,
		bpfMapPools:        poolOf(0, uint32(s.Services), true) + 1,
		bpfMapReals:        uint32(s.Servers) * uint32(len(realProtocols)),
		bpfMapServiceSlots: uint32(s.Services), bpfMapServers: uint32(s.Servers) + 1, bpfMapLoads: uint32(s.Servers) + 1,
		bpfMapServerEstimates: uint32(s.Servers) + 1, bpfMapServiceEstimates: uint32(s.Services) + 1,
		bpfMapCounters: uint32((s.Servers + 1) * cpus), bpfMapRoutes: uint32(cpus * routesPerCPU), bpfMapSupers: uint32(cpus),
	} {
		c.Maps[name].MaxEntries = n
	}
	if s.Accounting {
		c.Maps[bpfMapAccounts].MaxEntries = segments
	}
	for name, v := range map[string]any{
		bpfVarAccounting: s.Accounting, bpfVarSegments: segments, bpfVarSeed: seed, bpfVarCpus: uint32(cpus), bpfVarHz: hz,
		bpfVarNextLife: nextLives(), bpfVarSctpEvents: lvs.SCTPChunks, bpfVarCrcShift: crcShift(), bpfVarLoopback: uint32(1),
		bpfVarServersSize: uint32(s.Servers) + 1, bpfVarServicesSize: uint32(s.Services) + 1,
	} {
		if err := c.Variables[name].Set(v); err != nil {
			return nil, fmt.Errorf("constant %s: %w", name, err)
		}
	}
	return c, c.Variables[bpfVarSettings].Set(newSettings(hz, segments))
}

const routesPerCPU = 1024

// nextLives is C's form of what [lvs.Machine] says.
func nextLives() (t [int(lvs.Machines) * 1024]uint16) {
	for m, p := range machines {
		m := lvs.Machine(m)
		events, states := m.Shape()
		for dir := range lvs.Directions {
			for event := range events {
				for state := range states {
					next := m.Next(state, dir, event)
					life := uint16(next)
					if next.Active(p) {
						life |= lifeActive
					}
					t[int(m)*1024+int(dir)*256+int(event)*16+int(state)] = life
				}
			}
		}
	}
	return t
}

// crcShift is what 1<<n bytes of zeros make of a change in what comes before them, in a CRC32c: 1, times x to the power of 8<<n.
func crcShift() (shifts [16]uint32) {
	product := func(a, b uint32) (p uint32) {
		for ; a != 0; a <<= 1 {
			p ^= b & -(a >> 31)
			b = b>>1 ^ crc32.Castagnoli&-(b&1)
		}
		return p
	}
	shift := uint32(1 << (31 - 8))
	for i := range shifts {
		shifts[i] = shift
		shift = product(shift, shift)
	}
	return shifts
}

// machines are those of [lvs.Machine], with a protocol that goes by each.
var machines = [lvs.Machines]lvs.Protocol{lvs.TCPMachine: lvs.TCP, lvs.TCPSecure: lvs.TCP, lvs.SCTPMachine: lvs.SCTP, lvs.Stateless: lvs.UDP}

// newSettings are the settings of a fresh instance: the whole table is swept about once a second. Where there is much to do in it that is
// by more ticks, each of as little work as sweep.h has it at once; where there is not, others have their rest.
func newSettings(hz, segments uint32) bpfSetting {
	const ticks = 16
	s := bpfSetting{IcmpBurst: 50, IcmpEvery: max(hz/1000, 1), SweepSlice: max(segments/ticks, 1), SweepEvery: 1e9 / ticks, ShedAfter: hz}
	s.setPublic(lvs.DefaultSettings)
	s.setTimeouts(lvs.DefaultTimeouts, hz)
	return s
}

func (s *bpfSetting) setTimeouts(t lvs.Timeouts, hz uint32) {
	for m, p := range machines {
		_, states := lvs.Machine(m).Shape()
		for state := range states {
			*s.timeout(lvs.Machine(m), state) = t.Of(p, state) * hz
		}
	}
}

func (s *bpfSetting) timeout(m lvs.Machine, state lvs.State) *uint32 {
	return &s.Timeout[int(m)*16+int(state)]
}

func (s *bpfSetting) timeouts(hz uint32) lvs.Timeouts {
	return lvs.Timeouts{
		TCP: *s.timeout(lvs.TCPMachine, lvs.TCPEstablished) / hz, TCPFin: *s.timeout(lvs.TCPMachine, lvs.TCPFinWait) / hz,
		UDP: *s.timeout(lvs.Stateless, 0) / hz,
	}
}

// load makes the instance in a directory.
func (s Sizes) load(dir string) error {
	c, err := spec(s)
	if err != nil {
		return err
	}
	if err := fits(c); err != nil {
		return err
	}
	return build(dir, c)
}

func build(dir string, c *ebpf.CollectionSpec) error {
	coll, err := ebpf.NewCollection(c)
	if err != nil {
		return explainLoad(err)
	}
	defer coll.Close()
	in := &instance{dir: dir, pinned: map[string]*ebpf.Map{}}
	for _, step := range []func() error{
		func() error { return putRest(coll) },
		func() error { return pinAll(coll, dir) },
		func() error {
			return place.Anchor(dir, coll.Programs[bpfProgDirectorTc], coll.Programs[bpfProgDirectorAnchor])
		},
		func() error { return ownRelease().pin(dir) },
		func() error { return start(coll.Programs[bpfProgDirectorStart]) },
		in.setLo,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	for _, m := range in.pinned {
		m.Close()
	}
	return nil
}

// constants is the map of C's constants.
const constants = ".rodata"

// mapPin is the name that a map is pinned by.
func mapPin(name string) string {
	switch {
	case name == settingsMap:
		return settingsPin
	case strings.HasPrefix(name, "."):
		return strings.ReplaceAll(name[1:], ".", "_")
	}
	return name
}

// putRest has the programs for the rest called by the first ones.
func putRest(c *ebpf.Collection) error {
	for _, r := range []struct {
		programs, program string
		at                bpfRest
	}{
		{bpfMapRestTc, bpfProgDirectorRest, bpfRestREST_USUAL},
		{bpfMapRestTc, bpfProgDirectorRelated, bpfRestREST_RELATED},
		{bpfMapRestTc, bpfProgDirectorFragment, bpfRestREST_FRAGMENT},
		{bpfMapRestTc, bpfProgDirectorReset, bpfRestREST_RESET},
		{bpfMapRestXdp, bpfProgDirectorRestXdp, bpfRestREST_USUAL},
	} {
		if err := c.Maps[r.programs].Put(uint32(r.at), c.Programs[r.program]); err != nil {
			return err
		}
	}
	return nil
}

// pinAll pins maps and programs in a directory; as copies, for what is pinned already would only be moved.
func pinAll(c *ebpf.Collection, dir string) error {
	for name, m := range c.Maps {
		other, err := m.Clone()
		if err == nil {
			err = errors.Join(other.Pin(filepath.Join(dir, mapPin(name))), other.Close())
		}
		if err != nil {
			return err
		}
	}
	for pin, name := range programPins {
		other, err := c.Programs[name].Clone()
		if err == nil {
			err = errors.Join(other.Pin(filepath.Join(dir, pin)), other.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// start runs the program that starts the timers.
func start(p *ebpf.Program) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, _, err := p.Test(make([]byte, 14))
	if err == nil && r != 0 {
		err = fmt.Errorf("bpf_timer_start answers %d", int32(r))
	}
	if err != nil {
		return fmt.Errorf("start the timers: %w", err)
	}
	return nil
}

// explainLoad says what to do about a kernel that does not take the program.
func explainLoad(err error) error {
	if _, e := os.Stat("/sys/kernel/btf/vmlinux"); e != nil {
		return fmt.Errorf("this kernel has no BTF (CONFIG_DEBUG_INFO_BTF), which Linux 6.1 and later of all distributions have: %w", err)
	}
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("%w (director attach --conns chooses a smaller connection table): %w", ErrNoMemory, err)
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, os.ErrPermission) {
		var verifier *ebpf.VerifierError
		if !errors.As(err, &verifier) {
			return fmt.Errorf("%w: %w", ErrNotRoot, err)
		}
	}
	return fmt.Errorf("load the program: %w", err)
}
