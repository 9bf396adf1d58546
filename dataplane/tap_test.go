// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// tap hears what arrives at an interface.
type tap int

func mustTap(t testing.TB, name string) tap {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	all := uint16(unix.ETH_P_ALL)<<8 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
	return tap(fd)
}

// mustSegment waits for the next TCP segment that arrives.
func (f tap) mustSegment(t rapid.TB) []byte {
	t.Helper()
	return f.mustArrive(t, func(b []byte) bool { return len(b) >= 54 && (b[12] == 8 && b[23] == 6 || b[12] == 0x86 && b[20] == 6) })
}

// mustArrive waits for the next frame of a kind that arrives.
func (f tap) mustArrive(t rapid.TB, wanted func([]byte) bool) []byte {
	t.Helper()
	b := make([]byte, 2048)
	for {
		n, from, err := unix.Recvfrom(int(f), b, 0)
		if err != nil {
			t.Fatalf("nothing arrives: %v", err)
		}
		if l := from.(*unix.SockaddrLinklayer); l.Pkttype != unix.PACKET_OUTGOING && wanted(b[:n]) {
			return b[:n]
		}
	}
}
