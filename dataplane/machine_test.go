// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// machine carries out a program step by step, on what the maps of a running instance hold, and notes what a clock cannot tell on a
// busy computer: how many instructions a packet takes, which helpers it calls, and which cache lines it touches. Nothing that it
// writes leaves it.
type machine struct {
	t         testing.TB
	in        *instance
	programs  map[string]asm.Instructions
	maps      map[string]*ebpf.MapSpec
	inner     map[string]*ebpf.Map // those that others hold
	cpu       uint64
	memory    []area
	values    map[string]uint64 // addresses of map values, by map and index
	calls     int               // how deep
	data, end uint64            // of the packet

	instructions int
	helpers      map[asm.BuiltinFunc]int
	lines        map[string]map[uint64]bool // by map
}

// area is some memory: of a map, the stack, the packet. Its address is its number, and above that the offset.
type area struct {
	name  string
	bytes []byte
	first uint64 // where in its map the value begins
}

const areaBits = 32

// registers hold numbers and addresses.
type registers [11]uint64

func newMachine(t testing.TB, in *instance, cpu int) *machine {
	t.Helper()
	c, err := spec(small)
	must(t, err)
	must(t, in.takeConstants(c))
	m := &machine{t: t, in: in, programs: map[string]asm.Instructions{}, maps: c.Maps, inner: map[string]*ebpf.Map{}, cpu: uint64(cpu), memory: []area{{name: "null"}}, values: map[string]uint64{},
		helpers: map[asm.BuiltinFunc]int{}, lines: map[string]map[uint64]bool{}}
	for name, p := range c.Programs {
		m.programs[name] = p.Instructions
	}
	return m
}

func (m *machine) place(a area) uint64 {
	m.memory = append(m.memory, a)
	return uint64(len(m.memory)-1)<<areaBits | 1<<20
}

// span gives n bytes at an address.
func (m *machine) span(at uint64, n int) []byte {
	m.t.Helper()
	i, off := at>>areaBits, int64(at&(1<<areaBits-1))-1<<20
	if i == 0 || i >= uint64(len(m.memory)) || off < 0 || off+int64(n) > int64(len(m.memory[i].bytes)) {
		m.t.Fatalf("%d bytes at %x are nowhere", n, at)
	}
	a := m.memory[i]
	if a.name != "stack" && a.name != "packet" && a.name != "context" {
		if m.lines[a.name] == nil {
			m.lines[a.name] = map[uint64]bool{}
		}
		for l := (a.first + uint64(off)) / 64; l <= (a.first+uint64(off)+uint64(n)-1)/64; l++ {
			m.lines[a.name][l] = true
		}
	}
	return a.bytes[off : off+int64(n)]
}

func (m *machine) load(at uint64, size int) uint64 {
	m.t.Helper()
	b := make([]byte, 8)
	copy(b, m.span(at, size))
	return binary.LittleEndian.Uint64(b)
}

func (m *machine) store(at uint64, size int, v uint64) {
	m.t.Helper()
	copy(m.span(at, size), binary.LittleEndian.AppendUint64(nil, v))
}

// value is the address of a map's value, or 0.
func (m *machine) value(name string, key []byte) uint64 {
	m.t.Helper()
	id := fmt.Sprintf("%s/%x", name, key)
	if at, ok := m.values[id]; ok {
		return at
	}
	var err error
	s, in := m.maps[name], m.inner[name]
	if in == nil {
		in, err = m.in.m(mapPin(name))
		must(m.t, err)
	}
	var bytes []byte
	switch s.Type {
	case ebpf.PerCPUArray:
		var all [][]byte
		must(m.t, in.Lookup(key, &all))
		bytes = all[m.cpu]
	case ebpf.ArrayOfMaps:
		var of *ebpf.Map
		if err = in.Lookup(key, &of); err != nil {
			return 0
		}
		m.t.Cleanup(func() { of.Close() })
		m.maps[id], m.inner[id] = s.InnerMap, of
		at := m.place(area{name: "map " + id})
		m.values[id] = at
		return at
	default:
		if bytes, err = in.LookupBytes(key); err != nil || bytes == nil {
			return 0
		}
	}
	first := uint64(0)
	if s.Type == ebpf.Array {
		first = uint64(binary.LittleEndian.Uint32(key)) * uint64((s.ValueSize+7)/8*8)
	}
	at := m.place(area{name, bytes, first})
	m.values[id] = at
	return at
}

// run hands the machine a frame of an interface on XDP: what the program answers.
func (m *machine) run(program string, frame []byte, ifindex int) uint64 {
	m.t.Helper()
	const head = 256
	m.data = m.place(area{name: "packet", bytes: append(make([]byte, head), frame...)}) + head
	m.end = m.data + uint64(len(frame))
	context := m.place(area{name: "context", bytes: make([]byte, 64)})
	m.store(context+contextIfindex, 4, uint64(ifindex))
	return m.function(m.programs[program], program, registers{1: context})
}

// contextIfindex is where struct xdp_md has ingress_ifindex; data and data_end are its first members.
const contextIfindex = 12

// function runs a function to its end.
func (m *machine) function(program asm.Instructions, name string, r registers) uint64 {
	m.t.Helper()
	if m.calls++; m.calls > 8 {
		m.t.Fatal("too many calls")
	}
	defer func() { m.calls-- }()
	stack := m.place(area{name: "stack", bytes: make([]byte, 512)})
	r[10] = stack + 512
	raw, at := map[int]int{}, map[string]int{} // index by offset, and by symbol
	offset, offsets := 0, make([]int, len(program))
	for i, ins := range program {
		raw[offset], offsets[i] = i, offset
		offset += int(ins.Width())
		if s := ins.Symbol(); s != "" {
			at[s] = i
		}
	}
	i := at[name]
	for steps := 0; ; steps++ {
		if steps > 1<<16 {
			m.t.Fatal("no end")
		}
		ins := program[i]
		m.instructions++
		next := i + 1
		jump := func() { next = raw[offsets[i]+1+int(ins.Offset)] }
		switch op := ins.OpCode; op.Class() {
		case asm.ALU64Class, asm.ALUClass:
			m.alu(ins, &r)
		case asm.LdClass:
			switch {
			case ins.IsLoadFromMap() && ins.Src == asm.PseudoMapValue:
				r[ins.Dst] = m.value(ins.Reference(), make([]byte, 4)) + uint64(ins.Constant)>>32
			case ins.Reference() != "" && m.maps[ins.Reference()] != nil:
				r[ins.Dst] = m.place(area{name: "map " + ins.Reference()})
			default:
				r[ins.Dst] = uint64(ins.Constant)
				if ins.IsLoadOfFunctionPointer() {
					r[ins.Dst] = m.place(area{name: "function " + ins.Reference()})
				}
			}
		case asm.LdXClass:
			at := r[ins.Src] + uint64(int64(ins.Offset))
			switch context := m.memory[at>>areaBits].name == "context"; {
			case context && ins.Offset == 0:
				r[ins.Dst] = m.data
			case context && ins.Offset == 4:
				r[ins.Dst] = m.end
			default:
				r[ins.Dst] = m.load(at, op.Size().Sizeof())
			}
		case asm.StClass:
			m.store(r[ins.Dst]+uint64(int64(ins.Offset)), op.Size().Sizeof(), uint64(ins.Constant))
		case asm.StXClass:
			m.storeOrSwap(ins, &r)
		case asm.JumpClass, asm.Jump32Class:
			switch {
			case op.JumpOp() == asm.Exit:
				return r[0]
			case ins.IsFunctionCall():
				r[0] = m.function(program, ins.Reference(), r)
			case op.JumpOp() == asm.Call:
				answer, gone := m.helper(program, asm.BuiltinFunc(ins.Constant), &r)
				if gone {
					return answer
				}
				r[0] = answer
			case jumps(ins, &r):
				jump()
			}
		default:
			m.t.Fatalf("%v", ins)
		}
		i = next
	}
}

// alu is arithmetic.
func (m *machine) alu(ins asm.Instruction, r *registers) {
	m.t.Helper()
	op := ins.OpCode
	a, b := r[ins.Dst], uint64(ins.Constant)
	if op.Source() == asm.RegSource && op.ALUOp() != asm.Swap {
		b = r[ins.Src]
	}
	wide := op.Class() == asm.ALU64Class
	if !wide {
		a, b = uint64(uint32(a)), uint64(uint32(b))
	}
	shift := b & 63
	if !wide {
		shift = b & 31
	}
	switch op.ALUOp() {
	case asm.Add:
		a += b
	case asm.Sub:
		a -= b
	case asm.Mul:
		a *= b
	case asm.Div:
		if b == 0 {
			a = 0
		} else {
			a /= b
		}
	case asm.Mod:
		if b != 0 {
			a %= b
		}
	case asm.Or:
		a |= b
	case asm.And:
		a &= b
	case asm.Xor:
		a ^= b
	case asm.LSh:
		a <<= shift
	case asm.RSh:
		a >>= shift
	case asm.Neg:
		a = -a
	case asm.Mov:
		a = b
	case asm.ArSh:
		if wide {
			a = uint64(int64(a) >> shift)
		} else {
			a = uint64(int32(a) >> shift)
		}
	case asm.Swap:
		a = swapped(r[ins.Dst], ins.Constant, op.Endianness() == asm.BE || wide)
		wide = true
	default:
		m.t.Fatalf("%v", ins)
	}
	if !wide {
		a = uint64(uint32(a))
	}
	r[ins.Dst] = a
}

func swapped(v uint64, width int64, turn bool) uint64 {
	switch {
	case !turn:
		return v & (1<<width - 1)
	case width == 16:
		return uint64(bits.ReverseBytes16(uint16(v)))
	case width == 32:
		return uint64(bits.ReverseBytes32(uint32(v)))
	}
	return bits.ReverseBytes64(v)
}

// storeOrSwap is a store of a register, or an atomic operation.
func (m *machine) storeOrSwap(ins asm.Instruction, r *registers) {
	m.t.Helper()
	at, size := r[ins.Dst]+uint64(int64(ins.Offset)), ins.OpCode.Size().Sizeof()
	if ins.OpCode.Mode() != asm.AtomicMode {
		m.store(at, size, r[ins.Src])
		return
	}
	was := m.load(at, size)
	switch op := ins.OpCode.AtomicOp(); op {
	case asm.AddAtomic, asm.FetchAdd:
		m.store(at, size, was+r[ins.Src])
	case asm.OrAtomic, asm.FetchOr:
		m.store(at, size, was|r[ins.Src])
	case asm.AndAtomic, asm.FetchAnd:
		m.store(at, size, was&r[ins.Src])
	case asm.Xchg:
		m.store(at, size, r[ins.Src])
	case asm.CmpXchg:
		if was == r[0]&(1<<(8*size-1)<<1-1) {
			m.store(at, size, r[ins.Src])
		}
		r[0] = was
		return
	default:
		m.t.Fatalf("%v", ins)
	}
	if op := ins.OpCode.AtomicOp(); op != asm.AddAtomic && op != asm.OrAtomic && op != asm.AndAtomic {
		r[ins.Src] = was
	}
}

// jumps says whether a jump is taken.
func jumps(ins asm.Instruction, r *registers) bool {
	a, b := r[ins.Dst], uint64(ins.Constant)
	if ins.OpCode.Source() == asm.RegSource {
		b = r[ins.Src]
	}
	x, y := int64(a), int64(b)
	if ins.OpCode.Class() == asm.Jump32Class {
		a, b, x, y = uint64(uint32(a)), uint64(uint32(b)), int64(int32(a)), int64(int32(b))
	}
	switch ins.OpCode.JumpOp() {
	case asm.Ja:
		return true
	case asm.JEq:
		return a == b
	case asm.JNE:
		return a != b
	case asm.JGT:
		return a > b
	case asm.JGE:
		return a >= b
	case asm.JLT:
		return a < b
	case asm.JLE:
		return a <= b
	case asm.JSet:
		return a&b != 0
	case asm.JSGT:
		return x > y
	case asm.JSGE:
		return x >= y
	case asm.JSLT:
		return x < y
	}
	return x <= y // JSLE
}

// helper carries out a helper; gone says that the program has ended by it.
func (m *machine) helper(program asm.Instructions, f asm.BuiltinFunc, r *registers) (answer uint64, gone bool) {
	m.t.Helper()
	m.helpers[f]++
	name := func(at uint64) string { return m.memory[at>>areaBits].name }
	switch f {
	case asm.FnMapLookupElem:
		of := name(r[1])[len("map "):]
		return m.value(of, append([]byte(nil), m.span(r[2], int(m.maps[of].KeySize))...)), false
	case asm.FnGetSmpProcessorId:
		return m.cpu, false
	case asm.FnGetPrandomU32:
		return 4, false
	case asm.FnRedirect:
		return xdpRedirect, false
	case asm.FnXdpAdjustHead:
		m.data += uint64(int64(int32(r[2])))
		return 0, false
	case asm.FnTailCall:
		if name(r[2]) != "map "+bpfMapRestXdp || r[3] != uint64(bpfRestREST_USUAL) {
			m.t.Fatalf("goes on with program %d of %s", r[3], name(r[2]))
		}
		return m.function(m.programs[bpfProgDirectorRestXdp], bpfProgDirectorRestXdp, registers{1: r[1]}), true
	case asm.FnSpinLock, asm.FnSpinUnlock:
		return 0, false
	case asm.FnLoop:
		step, n := name(r[2])[len("function "):], uint64(0)
		for stop := uint64(0); n < r[1] && stop == 0; n++ {
			stop = m.function(program, step, registers{1: n, 2: r[3]})
		}
		return n, false
	}
	m.t.Fatalf("calls %v, which this machine does not have", f)
	return 0, true
}
