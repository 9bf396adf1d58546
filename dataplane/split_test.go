// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
)

// What the kernel would cut into segments after it has gone into a tunnel with a checksum, whose checksum would then be
// wrong, is cut before; likewise datagrams, which the kernel takes into no tunnel.
func TestSuperPacketsAreCutBeforeTunnels(t *testing.T) {
	w := mustWorld(t, small)
	w.mustServe()
	sums := lvs.TunnelConfig{Type: lvs.GUE, Port: 6080, Checksum: lvs.FullChecksum}
	for i, c := range []struct {
		along  path
		tunnel lvs.TunnelConfig
	}{
		{tcp4, sums}, {tcp6, sums}, {udp4, sums}, {udp6, sums}, {tcp4, lvs.TunnelConfig{Type: lvs.GRE, Checksum: lvs.FullChecksum}},
		{udp4, lvs.TunnelConfig{Type: lvs.IPIP}}, {udp6, lvs.TunnelConfig{Type: lvs.GRE}},
	} {
		along := c.along
		along.virtual = netip.AddrPortFrom(along.virtual.Addr(), uint16(200+i))
		w.mustUpdate(addWay(along.id(), along.server.Addr(), lvs.ServerConfig{Forward: lvs.Tunnel, Tunnel: c.tunnel}))
		w.run(w.tc, w.clients, along.in("S").frame(t))
		for _, size := range []int{1, 999, 1000, 1001, 2500, 3000} {
			w.mustCut(along, size, 1000)
		}
	}
}

func (w *world) mustCut(along path, size, segment int) {
	w.t.Helper()
	whole := partial{along.in("AFP").with(func(p *packet) { p.payload = slices.Repeat([]byte("0123456789"), size/10+1)[:size] })}
	var segments [][]byte
	for at := 0; at < size; at += segment {
		p := whole
		p.payload = whole.payload[at:min(at+segment, size)]
		if at+segment < size {
			p.flags = "A"
		}
		segments = append(segments, p.frameAt(w.t, at, len(segments)))
	}
	wire := mustListen(w.t, "servers-end")
	frame := whole.frameAt(w.t, 0, 0)
	o := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)), Context: contextOf(w.tc, w.clients, frame, uint32(segment))}
	verdict, err := w.tc.Run(o)
	must(w.t, err)
	last := len(segments) - 1
	if verdict != tcRedirect || !bytes.Equal(o.DataOut, segments[last]) {
		w.t.Errorf("%v: verdict %d, what is left is\n%x\nwant\n%x", along, int32(verdict), o.DataOut, segments[last])
	}
	for i, s := range segments[:last] {
		_, want := w.run(w.tc, w.clients, s)
		if got := wire.mustReceive(w.t, len(want)); !bytes.Equal(got, want) {
			w.t.Errorf("%v: segment %d is\n%x\nwant\n%x", along, i, got, want)
		}
	}
}

// partial is a packet whose checksum is left to the device.
type partial struct{ packet }

// frameAt gives the packet as segment n of a whole, which begins at an offset of it.
func (p partial) frameAt(t testing.TB, at, n int) []byte {
	t.Helper()
	f := p.frame(t)
	ip, transport := f[headers:], f[headers+20:]
	if p.client.Addr().Is6() {
		transport = f[headers+40:]
	} else {
		binary.BigEndian.PutUint16(ip[4:], uint16(4711+n))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^sum16(ip[:20]))
	}
	field := transport[6:]
	if p.protocol == lvs.TCP {
		binary.BigEndian.PutUint32(transport[4:], uint32(1000+at))
		field = transport[16:]
	}
	pseudo := slices.Concat(p.client.Addr().AsSlice(), p.virtual.Addr().AsSlice(), []byte{0, byte(p.protocol)}, binary.BigEndian.AppendUint16(nil, uint16(len(transport))))
	binary.BigEndian.PutUint16(field, sum16(pseudo))
	return f
}

// listener hears what arrives on an interface.
type listener int

func mustListen(t testing.TB, name string) listener {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(toPort(unix.ETH_P_ALL)))
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: toPort(unix.ETH_P_ALL), Ifindex: l.Attrs().Index}))
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	return listener(fd)
}

// mustReceive waits for a frame of a length for the real server.
func (l listener) mustReceive(t testing.TB, length int) []byte {
	t.Helper()
	for {
		b := make([]byte, 4096)
		n, _, err := unix.Recvfrom(int(l), b, 0)
		if err != nil {
			t.Errorf("no frame of %d bytes: %v", length, err)
			return nil
		}
		if bytes.Equal(b[:6], serverMAC) {
			return b[:n]
		}
	}
}
