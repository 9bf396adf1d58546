// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a program costs is asked of the kernel by BPF_PROG_RUN with repeat, which hands it the same packet again and again; not
// as it was, but as the program has left it, with the server's address, one hop less, and an outer header. So a program
// runs before, which makes the packet what it was and goes on with the other one by a tail call. It costs the same
// whatever comes after it: what counts is the difference to a program after it that only returns.

// client is how a packet's client differs from one run to the next.
type client int

const (
	sameClient client = iota
	nextClient        // one after the other
	anyClient         // any of so many
)

// again is a packet that is made anew for each run.
type again struct {
	frame   []byte
	client  client // of IPv4
	clients uint32 // a power of two
}

// numbered gives the packet of a client by its number: there are 65,536 addresses, with ports of their own.
func (a again) numbered(n uint32) []byte {
	frame := slices.Clone(a.frame)
	binary.LittleEndian.PutUint16(frame[28:], uint16(n))
	binary.LittleEndian.PutUint16(frame[34:], uint16(n>>16|0x8000))
	return frame
}

// A program of XDP has another context than one of tc.
type contextLayout struct{ data, end int16 }

var layouts = map[ebpf.ProgramType]contextLayout{ebpf.XDP: {0, 4}, ebpf.SchedCLS: {76, 80}}

// bounds has the packet's begin in R2, and goes to "broken" if it is shorter than n bytes.
func bounds(kind ebpf.ProgramType, n int) asm.Instructions {
	at := layouts[kind]
	return asm.Instructions{
		asm.LoadMem(asm.R2, asm.R6, at.data, asm.Word), asm.LoadMem(asm.R3, asm.R6, at.end, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2), asm.Add.Imm(asm.R4, int32(n)), asm.JGT.Reg(asm.R4, asm.R3, "broken"),
	}
}

// broken ends a program that cannot do what it is for, with a verdict that no race takes.
var broken = asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("broken"), asm.Return()}

// program gives a program that makes the packet and goes on with the one in the array.
func (a again) program(kind ebpf.ProgramType, next, turn *ebpf.Map) asm.Instructions {
	ins := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	if kind == ebpf.XDP { // takes off what has been put in front
		ins = append(ins, asm.FnXdpGetBuffLen.Call(), asm.Mov.Reg(asm.R2, asm.R0), asm.Sub.Imm(asm.R2, int32(len(a.frame))),
			asm.JEq.Imm(asm.R2, 0, "whole"), asm.Mov.Reg(asm.R1, asm.R6), asm.FnXdpAdjustHead.Call())
	}
	ins = append(ins, asm.Mov.Imm(asm.R7, 0).WithSymbol("whole"))
	switch a.client {
	case nextClient:
		ins = append(ins, asm.StoreImm(asm.RFP, -4, 0, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, turn.FD()), asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "broken"),
			asm.LoadMem(asm.R7, asm.R0, 0, asm.Word), asm.Mov.Reg(asm.R1, asm.R7), asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(asm.R0, 0, asm.R1, asm.Word))
	case anyClient:
		ins = append(ins, asm.FnGetPrandomU32.Call(), asm.Mov.Reg(asm.R7, asm.R0))
	}
	ins = append(ins, bounds(kind, len(a.frame))...)
	for at, left := 0, a.frame; len(left) > 0; {
		n, size, v := 1, asm.Byte, uint64(left[0])
		switch {
		case len(left) >= 8:
			n, size, v = 8, asm.DWord, binary.NativeEndian.Uint64(left)
		case len(left) >= 4:
			n, size, v = 4, asm.Word, uint64(binary.NativeEndian.Uint32(left))
		}
		ins = append(ins, asm.LoadImm(asm.R1, int64(v), asm.DWord), asm.StoreMem(asm.R2, int16(at), asm.R1, size))
		at, left = at+n, left[n:]
	}
	if a.client != sameClient { // as numbered does
		ins = append(ins, asm.And.Imm(asm.R7, int32(a.clients-1)),
			asm.StoreMem(asm.R2, 28, asm.R7, asm.Half),
			asm.RSh.Imm(asm.R7, 16), asm.Or.Imm(asm.R7, 0x8000), asm.StoreMem(asm.R2, 34, asm.R7, asm.Half))
	}
	ins = append(ins, asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, next.FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call())
	return append(ins, broken...)
}

// mustAgain gives a program that has another one run on the packet.
func (a again) mustAgain(b *testing.B, p *ebpf.Program) *ebpf.Program {
	b.Helper()
	next := mustMap(b, &ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(b, next.Put(uint32(0), p))
	turn := mustMap(b, &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	return mustAssemble(b, p.Type(), a.program(p.Type(), next, turn))
}

func mustMap(b *testing.B, s *ebpf.MapSpec) *ebpf.Map {
	b.Helper()
	m, err := ebpf.NewMap(s)
	must(b, err)
	b.Cleanup(func() { m.Close() })
	return m
}

func mustAssemble(b *testing.B, kind ebpf.ProgramType, ins asm.Instructions) *ebpf.Program {
	b.Helper()
	spec := &ebpf.ProgramSpec{Type: kind, Instructions: ins, License: "GPL"}
	if kind == ebpf.XDP {
		spec.AttachType = ebpf.AttachXDP // without which the kernel lets it call no program that has it
	}
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		b.Fatalf("%+v", err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// verdicts are those of a packet that was sent on.
var verdicts = map[ebpf.ProgramType]uint32{ebpf.XDP: xdpRedirect, ebpf.SchedCLS: tcRedirect}

// mustBare is a program that only returns.
func mustBare(b *testing.B, kind ebpf.ProgramType) *ebpf.Program {
	return mustAssemble(b, kind, asm.Instructions{asm.Mov.Imm(asm.R0, int32(verdicts[kind])), asm.Return()})
}

// found ends a program that has looked for a key in front of the stack's end.
func found(m *ebpf.Map, kind ebpf.ProgramType, then ...asm.Instruction) asm.Instructions {
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -16), asm.LoadMapPtr(asm.R1, m.FD()), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "broken"),
	}
	return append(append(append(ins, then...), asm.Mov.Imm(asm.R0, int32(verdicts[kind])), asm.Return()), broken...)
}

// mustLookup is the least that a balancer does: it looks at the kinds of the packet's headers, and finds its destination
// in a BPF hash map.
func (a again) mustLookup(b *testing.B, kind ebpf.ProgramType) *ebpf.Program {
	protocol, address, size := int16(23), 30, 4
	if a.frame[12] == 0x86 {
		protocol, address, size = 20, 38, 16
	}
	m := mustMap(b, &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 8, MaxEntries: 64})
	key := make([]byte, 16)
	copy(key, a.frame[address:address+size])
	must(b, m.Put(key, uint64(1)))
	ins := append(asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, bounds(kind, 54)...)
	ins = append(ins, asm.LoadMem(asm.R3, asm.R2, 12, asm.Half),
		asm.JNE.Imm(asm.R3, int32(binary.NativeEndian.Uint16(a.frame[12:])), "broken"),
		asm.LoadMem(asm.R3, asm.R2, protocol, asm.Byte), asm.JNE.Imm(asm.R3, 6, "broken"),
		asm.Mov.Imm(asm.R3, 0), asm.StoreMem(asm.RFP, -16, asm.R3, asm.DWord), asm.StoreMem(asm.RFP, -8, asm.R3, asm.DWord))
	for i := 0; i < size; i += 4 {
		ins = append(ins, asm.LoadMem(asm.R3, asm.R2, int16(address+i), asm.Word), asm.StoreMem(asm.RFP, int16(i-16), asm.R3, asm.Word))
	}
	return mustAssemble(b, kind, append(ins, found(m, kind)...))
}

// mustExact keeps exact connections in a BPF hash map, as a program would that has nothing but that: it finds the
// connection of an IPv4 packet by addresses and ports, and notes the time and the packet in it. Then it returns, or does what is said.
func (a again) mustExact(b *testing.B, kind ebpf.ProgramType, then ...asm.Instruction) *ebpf.Program {
	m := mustMap(b, &ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 56, MaxEntries: a.clients})
	for n := range a.clients {
		key := make([]byte, 16)
		copy(key, a.numbered(n)[26:38])
		must(b, m.Put(key, make([]byte, 56)))
	}
	ins := append(asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}, bounds(kind, 54)...)
	ins = append(ins, asm.StoreImm(asm.RFP, -4, 0, asm.Word))
	for i := range int16(3) {
		ins = append(ins, asm.LoadMem(asm.R3, asm.R2, 26+4*i, asm.Word), asm.StoreMem(asm.RFP, 4*i-16, asm.R3, asm.Word))
	}
	note := asm.Instructions{
		asm.Mov.Reg(asm.R7, asm.R0), asm.FnJiffies64.Call(), asm.StoreMem(asm.R7, 0, asm.R0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R7, 8, asm.DWord), asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.R7, 8, asm.R1, asm.DWord),
	}
	return mustAssemble(b, kind, append(ins, found(m, kind, append(note, then...)...)...))
}

// mustStay lets benchmarks below b run where b does: in its network namespace, and on its CPU.
func mustStay(b *testing.B) (enter func(*testing.B)) {
	b.Helper()
	enterOn := mustStayOn(b)
	return func(b *testing.B) { must(b, enterOn(0)) }
}

// mustStayOn lets threads be in b's network namespace, each on a CPU.
func mustStayOn(b *testing.B) (enter func(cpu int) error) {
	b.Helper()
	ns, err := os.Open("/proc/thread-self/ns/net")
	must(b, err)
	b.Cleanup(func() { ns.Close() })
	mustNotWait(b)
	return func(cpu int) error {
		runtime.LockOSThread() // never unlocked, as in mustNamespace
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return pin(cpu)
	}
}

// mustNotWait has grace periods of RCU be short. The kernel waits for one each time that a program runs on XDP, and a CPU that has
// slept is slow at first.
func mustNotWait(b *testing.B) {
	b.Helper()
	const expedited = "/sys/kernel/rcu_expedited"
	was, err := os.ReadFile(expedited)
	must(b, err)
	must(b, os.WriteFile(expedited, []byte("1"), 0o644))
	b.Cleanup(func() { must(b, os.WriteFile(expedited, was, 0o644)) })
}

// runs is how often a program runs at a time: some milliseconds.
const runs = 20_000

// spend has a program run on a packet many times, and gives the nanoseconds of one; those of this thread, for others want the CPU, too. The
// packet has to be sent on.
func spend(b *testing.B, p *ebpf.Program, from netlink.Link, frame []byte, times int) float64 {
	b.Helper()
	return spendFor(b, p, verdicts[p.Type()], from, frame, times)
}

// spendFor is the same for any verdict.
func spendFor(b *testing.B, p *ebpf.Program, want uint32, from netlink.Link, frame []byte, times int) float64 {
	b.Helper()
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Repeat: uint32(times), Context: contextOf(p, from, frame, 0)}
	begin := threadTime(b)
	verdict, err := p.Run(o)
	took := threadTime(b) - begin
	must(b, err)
	if verdict != want {
		b.Fatalf("the last packet's verdict is %d, and should be %d", int32(verdict), int32(want))
	}
	return float64(took) / float64(times)
}

func threadTime(b *testing.B) int64 {
	var ts unix.Timespec
	must(b, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
	return ts.Nano()
}

// race has a program and what it is compared with run in turn, on packets that are made anew. Twice a minute XDP leaves a packet to the
// kernel so that it verifies the neighbour, which is done beside.
func (w *world) race(b *testing.B, program *ebpf.Program, bare *ebpf.Program, beside map[string]*ebpf.Program, from netlink.Link, frame []byte) {
	b.Helper()
	var floor, own []float64
	others := map[string][]float64{}
	for b.Loop() {
		w.run(w.tc, from, frame)
		floor = append(floor, spend(b, bare, from, frame, runs))
		own = append(own, spend(b, program, from, frame, runs))
		for name, p := range beside {
			others[name] = append(others[name], spend(b, p, from, frame, runs))
		}
	}
	report(b, floor, own, others)
}

// report gives what was measured in turn: ns is the program alone, without the floor, which is all there is beside it; the others are
// compared with in the same way. Who shares the core with this machine, which it does not see, may take half of it for seconds; so the
// figures are of the tenth that was least disturbed, and the median is told beside it.
func report(b *testing.B, floor, own []float64, others map[string][]float64) {
	b.Helper()
	alone := func(all []float64, q float64) float64 { return quantile(all, q) - quantile(floor, q) }
	net := alone(own, 0.1)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(net, "ns")
	b.ReportMetric(alone(own, 0.5), "ns-median")
	for name, other := range others {
		b.ReportMetric(alone(other, 0.1), name+"-ns")
		b.ReportMetric(net/alone(other, 0.1), "x-"+name)
	}
}

func quantile(all []float64, q float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[int(q*float64(len(all)-1))]
}
