// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs/needs"
)

// patience ends a test that would wait for ever. Nothing is measured by it.
const patience = 30 * time.Second

func mustRoute(t testing.TB, ns namespace, to netip.Addr, iface string, via netip.Addr) {
	t.Helper()
	ns.must(t, func() error {
		l, err := netlink.LinkByName(iface)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: l.Attrs().Index,
			Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}}
		if via.IsValid() {
			r.Gw = via.AsSlice()
		}
		return netlink.RouteAdd(r)
	})
}

// mustCable opens an interface for whole frames.
func mustCable(t testing.TB, ns namespace, name string) int {
	t.Helper()
	var s int
	ns.must(t, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00
		if s, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		wait := unix.NsecToTimeval(patience.Nanoseconds())
		if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
			return err
		}
		return unix.Bind(s, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index, Protocol: all})
	})
	t.Cleanup(func() { unix.Close(s) })
	return s
}

var asker = net.HardwareAddr{2, 0, 0, 0, 0, 7}

func arpFor(a netip.Addr) []byte {
	from := directorAddr4.AsSlice()
	return slices.Concat(bytes.Repeat([]byte{0xff}, 6), asker, be16(unix.ETH_P_ARP),
		[]byte{0, 1, 8, 0, 6, 4, 0, 1}, asker, from, make([]byte, 6), a.AsSlice())
}

func solicitationFor(a netip.Addr) []byte {
	target := a.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, target[13], target[14], target[15]})
	message := slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target[:], []byte{1, 1}, asker)
	from := directorAddr6.As16()
	to := group.As16()
	check := sum(slices.Concat(from[:], to[:], be16(0), be16(len(message)), be16(0), be16(unix.IPPROTO_ICMPV6), message))
	copy(message[2:], be16(int(check)))
	packet := ip(directorAddr6, group, unix.IPPROTO_ICMPV6, 0, message)
	packet[7] = 255
	return slices.Concat([]byte{0x33, 0x33, 0xff, target[13], target[14], target[15]}, asker, be16(unix.ETH_P_IPV6), packet)
}

// answered gives the address that a frame to the asker is an answer about.
func answered(frame []byte) (a netip.Addr) {
	if len(frame) < 42 || !bytes.Equal(frame[:6], asker) {
		return a
	}
	switch {
	case bytes.Equal(frame[12:14], be16(unix.ETH_P_ARP)) && frame[21] == 2:
		a, _ = netip.AddrFromSlice(frame[28:32])
	case bytes.Equal(frame[12:14], be16(unix.ETH_P_IPV6)) && len(frame) >= 78 && frame[54] == 136:
		a, _ = netip.AddrFromSlice(frame[62:78])
	}
	return a
}

// mustAsk asks who has an address, and then who has another one, of which the host certainly tells. Had it an answer to the
// first question, that would come first.
func mustAsk(t *testing.T, cable int, question func(netip.Addr) []byte, first, second netip.Addr) (told bool) {
	t.Helper()
	for _, a := range []netip.Addr{first, second} {
		if _, err := unix.Write(cable, question(a)); err != nil {
			t.Fatal(err)
		}
	}
	frame := make([]byte, 2048)
	for {
		n, err := unix.Read(cable, frame)
		if err != nil {
			t.Fatalf("no answer about %s: %v", second, err)
		}
		switch answered(frame[:n]) {
		case first:
			told = true
		case second:
			return told
		}
	}
}

// TestNeighboursHearNothing asks for the virtual addresses by ARP and by neighbour solicitation.
func TestNeighboursHearNothing(t *testing.T) {
	needs.NetNS(t)
	needs.BPF(t)
	server, peer := mustNamespace(t), mustNamespace(t)
	mustWire(t, server, peer, "eth0")
	mustSetUp(t, server, "lo")
	mustSetUp(t, server, "eth0", serverAddr4.String()+"/24", serverAddr6.String()+"/64")
	cable := mustCable(t, peer, "eth0")
	mustSetUp(t, server, "lo", vip4.String()+"/32")
	if !mustAsk(t, cable, arpFor, vip4, serverAddr4) {
		t.Error("a plain address on lo is no secret, and yet nobody tells of it: this test proves nothing")
	}
	server.must(t, func() error {
		return removeAddress(nil, change{Kind: kindAddress, On: "lo", To: vip4.String()})
	})
	server.must(t, func() error { return Start(Options{Mode: DR, VIPs: []netip.Addr{vip4, vip6}}) })
	t.Cleanup(func() { server.must(t, func() error { return Stop(nil) }) })
	if mustAsk(t, cable, arpFor, vip4, serverAddr4) {
		t.Errorf("the host answers ARP for %s", vip4)
	}
	if mustAsk(t, cable, solicitationFor, vip6, serverAddr6) {
		t.Errorf("the host answers a neighbour solicitation for %s", vip6)
	}
}

// mustTun makes an interface whose packets the test carries away.
func mustTun(t *testing.T, ns namespace, addrs ...string) *os.File {
	t.Helper()
	var tun *os.File
	ns.must(t, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("/dev/net/tun: %w", err)
		}
		r, err := unix.NewIfreq("tun0")
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
			return err
		}
		tun = os.NewFile(uintptr(fd), "tun0")
		l, err := netlink.LinkByName("tun0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1400)
	})
	t.Cleanup(func() { tun.Close() })
	mustSetUp(t, ns, "tun0", addrs...)
	return tun
}

// mustCarry puts what the client sends to the virtual addresses into a tunnel to the server, until the test ends.
func mustCarry(t *testing.T, ns namespace, tunnel string, outer6 bool) {
	t.Helper()
	tun := mustTun(t, ns, clientAddr4.String()+"/32", clientAddr6.String()+"/128")
	mustRoute(t, ns, vip4, "tun0", netip.Addr{})
	mustRoute(t, ns, vip6, "tun0", netip.Addr{})
	var s int
	var to unix.Sockaddr = &unix.SockaddrInet4{Addr: serverAddr4.As4()}
	family := unix.AF_INET
	if outer6 {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: serverAddr6.As16()}
	}
	ns.must(t, func() (err error) {
		s, err = unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		packet := make([]byte, 65536)
		for {
			n, err := tun.Read(packet)
			if err != nil {
				return
			}
			if n > 0 && (packet[0]>>4 == 4 || packet[6] != unix.IPPROTO_ICMPV6) { // not the router solicitations of tun0
				unix.Sendto(s, tunnelled(tunnel, outer6, 0, packet[:n]), 0, to)
			}
		}
	}()
	t.Cleanup(func() {
		tun.Close()
		<-done
		unix.Close(s)
	})
}

// setGRO has a veth join segments to larger packets, as network cards do.
func setGRO(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	const setGRO = 0x2c
	value := struct{ cmd, data uint32 }{setGRO, 1}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return errno
	}
	return nil
}

// mustEcho answers what comes to a virtual address, by TCP and by UDP.
func mustEcho(t *testing.T, ns namespace, vip netip.Addr) {
	t.Helper()
	ns.must(t, func() error {
		at := netip.AddrPortFrom(vip, 7)
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { io.Copy(c, c); c.Close() }()
			}
		}()
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := u.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				u.WriteToUDPAddrPort(b[:n], from)
			}
		}()
		return nil
	})
}

// mustDial opens a connection in a namespace.
func mustDial(t *testing.T, ns namespace, network string, to netip.Addr) (c net.Conn) {
	t.Helper()
	ns.must(t, func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		c, err = new(net.Dialer).DialContext(ctx, network, netip.AddrPortFrom(to, 7).String())
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// mustTalk sends a text to a virtual address and gets it back.
func mustTalk(t *testing.T, ns namespace, vip netip.Addr, text []byte) {
	t.Helper()
	c := mustDial(t, ns, "tcp", vip)
	c.SetDeadline(time.Now().Add(patience))
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(text)
		sent <- err
	}()
	back := make([]byte, len(text))
	_, err := io.ReadFull(c, back)
	if err := errors.Join(err, <-sent); err != nil {
		t.Errorf("to %s: %v", vip, err)
	} else if !bytes.Equal(text, back) {
		t.Errorf("to %s: other bytes came back", vip)
	}
}

// mustCall sends a datagram until it comes back: one may be lost, for instance where a neighbour is not known yet.
func mustCall(t *testing.T, ns namespace, vip netip.Addr) {
	t.Helper()
	c := mustDial(t, ns, "udp", vip)
	back := make([]byte, 16)
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		c.SetDeadline(time.Now().Add(patience / 50))
		if _, err = c.Write([]byte("hi")); err != nil {
			continue
		}
		var n int
		if n, err = c.Read(back); err == nil {
			if string(back[:n]) != "hi" {
				t.Errorf("to %s: %q came back", vip, back[:n])
			}
			return
		}
	}
	t.Errorf("to %s: %v", vip, err)
}

// TestConnectionsThroughTunnels has a client's packets carried through each kind of tunnel. The answers leave by another
// interface than the tunnel's, whose check of the return path is strict.
func TestConnectionsThroughTunnels(t *testing.T) {
	needs.NetNS(t)
	needs.BPF(t)
	for _, decap := range []Decap{Program, Kernel} {
		t.Run(string(decap), func(t *testing.T) {
			if lacks := kernelLacks(); decap == Kernel && lacks != nil {
				t.Skip(lacks)
			}
			client, server := mustTwoWays(t)
			before := mustSnapshot(t, server)
			server.must(t, func() error {
				return Start(Options{Mode: Tunnel, VIPs: []netip.Addr{vip4, vip6}, Decap: decap})
			})
			mustEcho(t, server, vip4)
			mustEcho(t, server, vip6)
			bulk := make([]byte, 1<<20)
			rand.Read(bulk)
			for tunnel := range tunnels {
				if decap == Kernel && tunnel == "gre with checksum" {
					continue // not by these devices; nor what is left out below
				}
				for _, outer6 := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s over IPv6 %v", tunnel, outer6), func(t *testing.T) {
						mustCarry(t, client, tunnel, outer6)
						for _, vip := range []netip.Addr{vip4, vip6} {
							if decap == Kernel && tunnel != "gre" && outer6 && vip.Is4() {
								continue
							}
							mustCall(t, client, vip)
							mustTalk(t, client, vip, bulk)
						}
					})
				}
			}
			for i, c := range mustRead(t, server).Tunnelled {
				if (c.Count == 0) == (i == int(bpfDecapDECAP_DONE)) {
					t.Errorf("%s: %d", c.Name, c.Count)
				}
			}
			server.must(t, func() error { return Stop(nil) })
			if after := mustSnapshot(t, server); after != before {
				t.Errorf("after stop: %s", difference(before, after))
			}
		})
	}
}

// mustTwoWays gives a client and a server with two wires between them. What goes to the virtual addresses has to be carried;
// answers leave by the second wire.
func mustTwoWays(t *testing.T) (client, server namespace) {
	t.Helper()
	client, server = mustNamespace(t), mustNamespace(t)
	mustWire(t, client, server, "eth0")
	mustWire(t, client, server, "eth1")
	mustSetUp(t, server, "lo")
	mustSetUp(t, client, "eth0", directorAddr4.String()+"/24", directorAddr6.String()+"/64")
	mustSetUp(t, server, "eth0", serverAddr4.String()+"/24", serverAddr6.String()+"/64")
	mustSetUp(t, client, "eth1", "10.9.1.1/24", "2001:db8:91::1/64")
	mustSetUp(t, server, "eth1", "10.9.1.2/24", "2001:db8:91::2/64")
	mustRoute(t, server, clientAddr4, "eth1", netip.MustParseAddr("10.9.1.1"))
	mustRoute(t, server, clientAddr6, "eth1", netip.MustParseAddr("2001:db8:91::1"))
	server.must(t, func() error {
		return errors.Join(writeSetting("net/ipv4/conf/all/rp_filter", "1"), setGRO("eth0"))
	})
	t.Cleanup(func() { server.must(t, func() error { return Stop(nil) }) })
	return client, server
}
