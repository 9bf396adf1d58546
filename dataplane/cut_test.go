// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
)

// A packet that is too large in its tunnel, and may be fragmented there, comes to the server in the kernel's fragments: no program run by
// hand tells whether the kernel takes it, for it is from an address of the director itself.
func TestFragmentsLeave(t *testing.T) {
	s := mustStage(t, false)
	s.mustBegin(t, 1<<20)
	mustDo(t, "setting", s.Set(func(all *lvs.Settings) error { all.PMTUDisc = 0; return nil }))
	service := lvs.ServiceID{Family: lvs.IPv4, Protocol: lvs.UDP, Addr: netip.MustParseAddr("10.9.0.1"), Port: 53}
	server := lvs.ServerID{Addr: netip.MustParseAddr("10.2.0.11"), Port: 53}
	mustDo(t, "service", s.Update(func(t *lvs.Table) error {
		if err := t.AddService(service, lvs.ServiceConfig{Scheduler: "rr"}); err != nil {
			return err
		}
		return t.AddServer(service, server, lvs.ServerConfig{Forward: lvs.Tunnel, Weight: 1})
	}))
	client := s.sides[clientSide]
	w := wire{protocol: lvs.UDP, from: netip.MustParseAddrPort("10.1.0.1:1024"), to: netip.AddrPortFrom(service.Addr, service.Port),
		ttl: 64, payload: 1472, fragment: 0x4000}
	mustArrive(t, "story-clients'", w.frame(client.mac, client.far))

	want := w
	want.ttl = 63
	first, second := s.sides[serverSide].tap.mustTunnelled(t), s.sides[serverSide].tap.mustTunnelled(t)
	if len(first) != 1480 || len(second) != 20 || !bytes.Equal(append(first, second...), want.ipv4()) {
		t.Errorf("fragments of %d and %d bytes arrive:\n% x\n% x", len(first), len(second), first, second)
	}
}

func mustArrive(t *testing.T, name string, frame []byte) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}))
}

// mustTunnelled waits for the next packet of a tunnel by IP in IP, or a fragment: what it carries.
func (f tap) mustTunnelled(t *testing.T) []byte {
	t.Helper()
	b := f.mustArrive(t, func(b []byte) bool { return len(b) >= 34 && b[12] == 8 && b[23] == protocolIPIP })
	return b[34 : 14+binary.BigEndian.Uint16(b[16:])]
}
