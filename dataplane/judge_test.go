// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"lvs"
)

// judge runs frames through both hooks, on a thread that stays in the world's namespace, and says what must not be: that a
// packet goes where no connection leads, becomes what it should not, or has a checksum that was right and is not.
type judge struct {
	*world
	frames chan []byte
	said   chan error
	opens  []packet // begin the connections that are there
	rounds int
	sent   map[uint32]int // by the verdict of tc
	kinds  map[string]int // what became of packets that were sent
}

// byEveryWay are paths by every way of forwarding, each with a service of its own.
var byEveryWay = func() (paths map[path]lvs.ServerConfig) {
	paths = map[path]lvs.ServerConfig{}
	port := uint16(2000)
	for _, way := range []lvs.ServerConfig{
		{Forward: lvs.Masq}, {Forward: lvs.Route}, {Forward: lvs.FullNAT},
		{Forward: lvs.Tunnel}, {Forward: lvs.Tunnel, Tunnel: lvs.TunnelConfig{Type: lvs.GRE, Checksum: lvs.FullChecksum}},
		{Forward: lvs.Tunnel, Tunnel: lvs.TunnelConfig{Type: lvs.GUE, Port: 6080, Checksum: lvs.FullChecksum}},
	} {
		for _, p := range []path{tcp4, tcp6, udp4, udp6} {
			port++
			p.virtual = netip.AddrPortFrom(p.virtual.Addr(), port)
			p.server = netip.AddrPortFrom(p.server.Addr(), port)
			paths[p] = way
			if way.Tunnel.Type == lvs.GUE { // in the other family
				other := server6
				if p.client.Addr().Is6() {
					other = server4
				}
				p.virtual = netip.AddrPortFrom(p.virtual.Addr(), port+1000)
				p.server = netip.AddrPortFrom(other, port+1000)
				paths[p] = way
			}
		}
	}
	return paths
}()

func mustJudge(t testing.TB) *judge {
	t.Helper()
	w := mustWorld(t, small)
	w.mustServe()
	w.mustUpdate(func(t *lvs.Table) error { return t.DeleteService(local.id()) })
	j := &judge{world: w, frames: make(chan []byte), said: make(chan error), sent: map[uint32]int{}, kinds: map[string]int{}}
	j.opens = slices.Concat(established4, established6, []packet{dgram4, dgram6})
	for p, way := range byEveryWay {
		if way.Forward == lvs.FullNAT {
			w.mustUpdate(addFull(p, lvs.DefaultLocalPorts))
		} else {
			w.mustUpdate(addWay(p.id(), p.server.Addr(), way))
		}
		for range 2 { // the kernel verifies its neighbours
			j.opens = append(j.opens, p.in("S"), p.in("A"))
		}
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	must(t, err)
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread keeps to its CPU and namespace
		ready <- errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close(), pin(0), j.open())
		for frame := range j.frames {
			j.said <- j.both(frame)
		}
	}()
	must(t, <-ready)
	t.Cleanup(func() { close(j.frames) })
	return j
}

// open begins the connections.
func (j *judge) open() error {
	for _, p := range j.opens {
		if _, _, err := j.once(j.tc, p.frame(j.t)); err != nil {
			return err
		}
	}
	return nil
}

// check judges a frame; the kernel takes none without an Ethernet header, nor any larger than a page has room for.
func (j *judge) check(frame []byte) error {
	if len(frame) < headers || len(frame) > 2000 {
		return nil
	}
	j.frames <- frame
	return <-j.said
}

var (
	errDiffer  = errors.New("XDP sends it otherwise than tc")
	errTouched = errors.New("it was left, and changed")
	errVerdict = errors.New("an unknown verdict")
)

func (j *judge) both(frame []byte) error {
	if j.rounds++; j.rounds%2000 == 0 { // or the table fills up
		j.settings.Now += 1 << 24
		if err := errors.Join(j.putNow(), j.open()); err != nil {
			return err
		}
	}
	xdp, xdpOut, err := j.once(j.xdp, frame)
	if err != nil {
		return err
	}
	if err := j.judge(xdp, xdpPass, xdpDrop, xdpRedirect, frame, xdpOut); err != nil {
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
	if err := j.judge(tc, tcPass, tcDrop, tcRedirect, frame, tcOut); err != nil {
		return fmt.Errorf("tc, verdict %d: %w\nin\n%s\nout\n%s", int32(tc), err, hex.Dump(frame), hex.Dump(tcOut))
	}
	if xdp == xdpRedirect && (tc != tcRedirect || !bytes.Equal(undrawn(xdpOut), undrawn(tcOut))) || xdp == xdpDrop && tc != tcDrop {
		return fmt.Errorf("%w: verdicts %d and %d\nin\n%s\nXDP\n%s\ntc\n%s", errDiffer, xdp, int32(tc), hex.Dump(frame), hex.Dump(xdpOut), hex.Dump(tcOut))
	}
	return nil
}

// undrawn is a packet without the identification of a tunnel's, which is drawn by chance.
func undrawn(frame []byte) []byte {
	if r, ok := readFrame(frame); ok && r.src == local4 {
		frame = bytes.Clone(frame)
		clear(frame[18:20])
		clear(frame[24:26])
	}
	return frame
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

func (j *judge) judge(verdict, pass, drop, redirect uint32, in, out []byte) error {
	switch verdict {
	case drop:
		return nil
	case redirect:
		return j.forwarded(in, out)
	case pass:
		if bytes.Equal(in, out) {
			return nil
		}
		if pass == xdpPass || !bytes.Equal(in[:12], out[:12]) {
			return errTouched
		}
		return j.forwarded(in, out) // too big for the way, and may be cut
	}
	return errVerdict
}

var (
	errNotOurs   = errors.New("not a packet that can be forwarded")
	errNowhere   = errors.New("no connection leads there")
	errElsewhere = errors.New("more was changed than may be")
	errTTL       = errors.New("the TTL is not one less")
	errChecksum  = errors.New("a checksum was right, and is not")
	errZero      = errors.New("UDP's having a checksum has changed")
	errAnswer    = errors.New("the ICMP error is not as it should be")
)

// forwarded says what is wrong with a packet that was sent: it is the answer to what came in, or has become what one of the
// connections makes of it.
func (j *judge) forwarded(in, out []byte) error {
	a, readable := readFrame(in)
	b, ok := readFrame(out)
	if !readable || !ok {
		return errNotOurs
	}
	_, complains := a.quotes()
	if _, answers := b.quotes(); answers && !complains && b.dst == a.src {
		j.kinds["answered"]++
		return answer(a, b)
	}
	err := errNowhere
	for _, c := range j.conns() {
		for _, way := range legs(c) {
			if !way.leads(a) {
				continue
			}
			if err = way.made(a, b); err == nil {
				j.kinds[way.name(a)]++
				return nil
			}
		}
	}
	return err
}

// answer says what is wrong with an ICMP error of the director about a packet.
func answer(a, b reading) error {
	quoted := b.b[b.head+8:]
	if b.src != a.dst || b.v6 != a.v6 || a.from != 0 || !bytes.HasPrefix(a.b, quoted) || len(quoted) != min(548, len(a.b)) || *b.ttl() != 64 {
		return errAnswer
	}
	// a checksum that is that of the pseudo header alone is left to the device, as what is around it is then
	if at := a.checksum(); at != 0 && sum(a.b[at:at+2], 0) == a.pseudo(len(a.b)-a.head) {
		return nil
	}
	if header, transport, _, _ := b.valid(); !header || !transport {
		return errChecksum
	}
	return nil
}
