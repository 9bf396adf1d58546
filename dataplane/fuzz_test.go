// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs"
)

// judge runs frames through both programs, on a thread that stays in the world's namespace, and says what must not be.
type judge struct {
	*world
	frames chan []byte
	said   chan error
	rounds int
	sent   map[uint32]int // by the verdict of tc
}

func mustJudge(t testing.TB) *judge {
	t.Helper()
	w := mustWorld(t, small)
	w.mustServe()
	w.mustUpdate(func(t *lvs.Table) error { return t.DeleteService(local.id()) })
	for _, p := range slices.Concat(established4, established6, []packet{dgram4, dgram6}) {
		w.run(w.tc, w.side(p), p.frame(t))
	}
	j := &judge{world: w, frames: make(chan []byte), said: make(chan error), sent: map[uint32]int{}}
	ns, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread keeps to its CPU and namespace
		ready <- errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close(), pin(0))
		for frame := range j.frames {
			j.said <- j.both(frame)
		}
	}()
	must(t, <-ready)
	t.Cleanup(func() { close(j.frames) })
	return j
}

// seeds are valid packets, and for each whether it comes from the servers' side.
func seeds(t testing.TB) (frames [][]byte) {
	for _, r := range rows {
		frame := r.in.frame(t)
		if r.damage != nil {
			frame = r.damage(frame)
		}
		frames = append(frames, frame)
	}
	return frames
}

// check judges a frame; the kernel takes none without an Ethernet header, nor any larger than a page has room for.
func (j *judge) check(frame []byte) error {
	if len(frame) < headers || len(frame) > 2000 {
		return nil
	}
	j.frames <- frame
	return <-j.said
}

var errDiffer = errors.New("XDP sends it otherwise than tc")

func (j *judge) both(frame []byte) error {
	if j.rounds++; j.rounds%4000 == 0 { // or the table fills up
		j.settings.Now += 1 << 24
		if err := j.putNow(); err != nil {
			return err
		}
	}
	xdp, xdpOut, err := j.once(j.xdp, frame)
	if err != nil {
		return err
	}
	if err := judgeXDP(xdp, frame, xdpOut); err != nil {
		return fmt.Errorf("XDP, verdict %d: %w\nin\n%s\nout\n%s", xdp, err, hex.Dump(frame), hex.Dump(xdpOut))
	}
	tc, tcOut, err := j.once(j.tc, frame)
	if errors.Is(err, unix.EINVAL) {
		return nil // shorter than an IP header: the kernel does not run it
	}
	if err != nil {
		return err
	}
	j.sent[tc]++
	if err := judgeTC(tc, frame, tcOut); err != nil {
		return fmt.Errorf("tc, verdict %d: %w\nin\n%s\nout\n%s", int32(tc), err, hex.Dump(frame), hex.Dump(tcOut))
	}
	if xdp == xdpRedirect && (tc != tcRedirect || !bytes.Equal(xdpOut, tcOut)) || xdp == xdpDrop && tc != tcDrop {
		return fmt.Errorf("%w: verdicts %d and %d\nin\n%s\nXDP\n%s\ntc\n%s", errDiffer, xdp, int32(tc), hex.Dump(frame), hex.Dump(xdpOut), hex.Dump(tcOut))
	}
	return nil
}

func (j *judge) putNow() error {
	m, err := ebpf.LoadPinnedMap(j.place.Path+"/"+settingsPin, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Put(uint32(0), j.settings)
}

func (j *judge) once(p *ebpf.Program, frame []byte) (uint32, []byte, error) {
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+512), Context: contextOf(p, j.clients, frame, 0)}
	verdict, err := p.Run(o)
	return verdict, o.DataOut, err
}

var (
	errTouched = errors.New("it was left, and changed")
	errVerdict = errors.New("an unknown verdict")
)

func judgeXDP(verdict uint32, in, out []byte) error {
	switch verdict {
	case xdpDrop:
		return nil
	case xdpPass:
		if !bytes.Equal(in, out) {
			return errTouched
		}
		return nil
	case xdpRedirect:
		return rewritten(in, out)
	}
	return errVerdict
}

func judgeTC(verdict uint32, in, out []byte) error {
	switch verdict {
	case tcDrop:
		return nil
	case tcPass:
		if bytes.Equal(in, out) {
			return nil
		}
		if !bytes.Equal(in[:headers], out[:min(headers, len(out))]) {
			return errTouched
		}
		return rewritten(in, out) // too big for the way, and may be cut
	case tcRedirect:
		if bytes.Equal(in[6:12], out[:6]) && bytes.Equal(in[:6], out[6:12]) {
			return icmpAbout(in, out)
		}
		return rewritten(in, out)
	}
	return errVerdict
}

// parts finds what NAT may change about a packet, by an own and simple reading of it.
type parts struct {
	ip, transport int // offsets
	addresses     []byte
	protocol      byte
	segment       []byte // the transport header and all after it
}

var errNotOurs = errors.New("not a packet that can be forwarded")

func partsOf(b []byte) (p parts, err error) {
	p.ip = headers
	at, end := 0, headers+ipLength(b)
	if end > len(b) {
		return p, errNotOurs
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case 0x0800:
		at = headers + int(b[14]&15)*4
		p.protocol, p.addresses = b[23], b[26:34]
		if b[14]>>4 != 4 || binary.BigEndian.Uint16(b[20:])&0x3fff != 0 {
			return p, errNotOurs
		}
	case 0x86dd:
		at = headers + 40
		p.protocol, p.addresses = b[20], b[22:54]
		for p.protocol != 6 && p.protocol != 17 {
			if at+8 > end || p.protocol != 0 && p.protocol != 43 && p.protocol != 60 {
				return p, errNotOurs
			}
			p.protocol, at = b[at], at+int(b[at+1]+1)*8
		}
	default:
		return p, errNotOurs
	}
	least := map[byte]int{6: 20, 17: 8}[p.protocol]
	if least == 0 || at+least > end {
		return p, errNotOurs
	}
	p.transport, p.segment = at, b[at:end]
	if p.protocol == 17 {
		n := int(binary.BigEndian.Uint16(p.segment[4:]))
		if n < 8 || n > len(p.segment) {
			return p, errNotOurs
		}
		p.segment = p.segment[:n]
	}
	return p, nil
}

func (p parts) checksum() int { return p.transport + map[byte]int{6: 16, 17: 6}[p.protocol] }

// valid says whether the checksums hold; a UDP checksum of zero does.
func (p parts) valid(b []byte) (ip, transport bool) {
	ip = len(p.addresses) == 32 || sum(b[p.ip:p.ip+int(b[p.ip]&15)*4], 0) == 0xffff
	if p.protocol == 17 && binary.BigEndian.Uint16(p.segment[6:]) == 0 {
		return ip, true
	}
	return ip, sum(p.segment, sum(p.addresses, uint64(p.protocol)+uint64(len(p.segment)))) == 0xffff
}

// sum is the one's complement sum of bytes, on top of another.
func sum(b []byte, of uint64) uint64 {
	for i := 0; i < len(b)-1; i += 2 {
		of += uint64(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 != 0 {
		of += uint64(b[len(b)-1]) << 8
	}
	for of > 0xffff {
		of = of>>16 + of&0xffff
	}
	return of
}

var (
	errElsewhere = errors.New("more was changed than NAT may")
	errTTL       = errors.New("the TTL is not one less")
	errChecksum  = errors.New("a checksum was right, and is not")
	errZero      = errors.New("UDP's having a checksum has changed")
)

// rewritten says what is wrong with a forwarded packet: MAC addresses, TTL, addresses, ports and checksums may differ.
func rewritten(in, out []byte) error {
	was, err := partsOf(in)
	if err != nil {
		return err
	}
	if len(in) != len(out) {
		return errElsewhere
	}
	is, err := partsOf(out)
	if err != nil {
		return err
	}
	ttl := map[int]int{8: 22, 32: 21}[len(was.addresses)]
	if in[ttl] < 2 || out[ttl] != in[ttl]-1 {
		return errTTL
	}
	ipBefore, before := was.valid(in)
	ipAfter, after := is.valid(out)
	if ipBefore && !ipAfter || before && !after {
		return errChecksum
	}
	if at := was.checksum(); was.protocol == 17 && (in[at]|in[at+1] == 0) != (out[at]|out[at+1] == 0) {
		return errZero
	}
	a, b := slices.Clone(in), slices.Clone(out)
	for _, frame := range [][]byte{a, b} {
		p, _ := partsOf(frame)
		clear(frame[:12])
		clear(frame[p.checksum():][:2])
		clear(frame[p.transport:][:4])
		clear(p.addresses)
		frame[ttl] = 0
		if len(p.addresses) == 8 {
			clear(frame[24:26])
		}
	}
	if !bytes.Equal(a, b) {
		return errElsewhere
	}
	return nil
}

var errAnswer = errors.New("the ICMP error is not as it should be")

// icmpAbout says what is wrong with an ICMP error about a packet.
func icmpAbout(in, out []byte) error {
	v6 := in[12] == 0x86
	head, protocol, from, to, size := 20, byte(1), 26, 30, 4
	if v6 {
		head, protocol, from, to, size = 40, 58, 22, 38, 16
	}
	at := headers + head
	if len(out) < at+8 || len(out) != headers+ipLength(out) || !bytes.Equal(out[12:14], in[12:14]) {
		return errAnswer
	}
	quoted := out[at+8:]
	if !bytes.HasPrefix(in[headers:], quoted) || len(quoted) != min(512, ipLength(in)) {
		return errAnswer
	}
	if !bytes.Equal(out[from:from+size], in[to:to+size]) || !bytes.Equal(out[to:to+size], in[from:from+size]) {
		return errAnswer
	}
	pseudo := uint64(0)
	if v6 {
		pseudo = sum(out[from:from+2*size], uint64(protocol)+uint64(len(out)-at))
	} else if sum(out[headers:at], 0) != 0xffff {
		return errChecksum
	}
	if sum(out[at:], pseudo) != 0xffff {
		return errChecksum
	}
	return nil
}

// TestMutatedPackets damages valid packets in thousands of ways.
func TestMutatedPackets(t *testing.T) {
	j := mustJudge(t)
	r := rand.New(rand.NewPCG(1, 2))
	valid := seeds(t)
	for range 15_000 {
		frame := slices.Clone(valid[r.IntN(len(valid))])
		for range r.IntN(4) {
			switch r.IntN(5) {
			case 0:
				frame = frame[:r.IntN(len(frame)+1)]
			case 1:
				frame = append(frame, make([]byte, r.IntN(64))...)
			case 2, 3: // most of what is read lies in the first bytes
				if n := min(len(frame), 80); n > 12 {
					frame[12+r.IntN(n-12)] = byte(r.Uint32())
				}
			case 4:
				if n := min(len(frame), 80); n > 12 {
					frame[12+r.IntN(n-12)] ^= 1 << r.IntN(8)
				}
			}
		}
		if err := j.check(frame); err != nil {
			t.Fatal(err)
		}
	}
	if j.sent[tcPass] < 1000 || j.sent[tcRedirect] < 1000 {
		t.Errorf("too few of a kind: %v", j.sent)
	}
	t.Log(j.sent)
}

// FuzzPacket does the same with whatever the fuzzer finds.
func FuzzPacket(f *testing.F) {
	j := mustJudge(f)
	for _, frame := range seeds(f) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if err := j.check(frame); err != nil {
			t.Error(err)
		}
	})
}
