// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs/needs"
)

const flagSYN, flagRST, flagACK, flagPSH = 2, 4, 16, 8

var (
	local4, local6 = netip.MustParseAddr("10.9.0.50"), netip.MustParseAddr("2001:db8:9::50") // a director's, for FULLNAT
	remote4        = netip.MustParseAddrPort("198.51.100.7:4321")
	remote6        = netip.MustParseAddrPort("[2001:db8:c::7]:4321")
)

// toa is the option that tells of a client.
func toa(c netip.AddrPort) []byte {
	a := c.Addr().AsSlice()
	return slices.Concat([]byte{254, byte(4 + len(a))}, be16(int(c.Port())), a)
}

// speaker is one end of a TCP connection, by hand.
type speaker struct {
	t        *testing.T
	cable    int
	mac      net.HardwareAddr // of the other end
	from, to netip.AddrPort
	seq, ack uint32
}

func (s *speaker) mustSend(flags byte, options, payload []byte) {
	s.t.Helper()
	for len(options)%4 != 0 {
		options = append(options, 1)
	}
	h := slices.Concat(be16(int(s.from.Port())), be16(int(s.to.Port())), binary.BigEndian.AppendUint32(nil, s.seq),
		binary.BigEndian.AppendUint32(nil, s.ack), []byte{byte(5+len(options)/4) << 4, flags}, be16(65535), be16(0), be16(0), options, payload)
	pseudo := slices.Concat(s.from.Addr().AsSlice(), s.to.Addr().AsSlice(), be16(len(h)), be16(unix.IPPROTO_TCP), h)
	if len(pseudo)%2 != 0 {
		pseudo = append(pseudo, 0)
	}
	binary.BigEndian.PutUint16(h[16:], sum(pseudo))
	packet := ip(s.from.Addr(), s.to.Addr(), unix.IPPROTO_TCP, 0, h)
	b := frame(packet)
	copy(b, s.mac)
	copy(b[6:], asker)
	if _, err := unix.Write(s.cable, b); err != nil {
		s.t.Fatal(err)
	}
	s.seq += uint32(len(payload))
}

// mustOpen shakes hands, with these options in the last packet.
func (s *speaker) mustOpen(options []byte) {
	s.t.Helper()
	s.mustSend(flagSYN, nil, nil)
	s.seq++
	b := make([]byte, 2048)
	for {
		n, err := unix.Read(s.cable, b)
		if err != nil {
			s.t.Fatalf("no answer to a SYN: %v", err)
		}
		at := 14 + 20
		if s.from.Addr().Is6() {
			at = 14 + 40
		}
		if n < at+20 || !bytes.Equal(b[:6], asker) || !bytes.Equal(b[at+2:at+4], be16(int(s.from.Port()))) {
			continue
		}
		if b[at+13] != flagSYN|flagACK {
			s.t.Fatalf("answered with flags %#x", b[at+13])
		}
		s.ack = binary.BigEndian.Uint32(b[at+4:]) + 1
		s.mustSend(flagACK, options, nil)
		return
	}
}

// mustPeer asks the kernel who is at the other end.
func mustPeer(t *testing.T, c net.Conn) (a netip.AddrPort) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			switch p, _ := unix.Getpeername(int(fd)); p := p.(type) {
			case *unix.SockaddrInet4:
				a = netip.AddrPortFrom(netip.AddrFrom4(p.Addr), uint16(p.Port))
			case *unix.SockaddrInet6:
				a = netip.AddrPortFrom(netip.AddrFrom16(p.Addr).Unmap(), uint16(p.Port))
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var stranger4 = netip.MustParseAddr("10.9.0.66")

// mustFullNAT gives a server that believes some directors, and the wire that it is at.
func mustFullNAT(t *testing.T) (server namespace, mac net.HardwareAddr, cable int) {
	t.Helper()
	needs.NetNS(t)
	needs.BPF(t)
	server, peer := mustNamespace(t), mustNamespace(t)
	mustWire(t, server, peer, "eth0")
	mustSetUp(t, server, "lo")
	mustSetUp(t, server, "eth0", serverAddr4.String()+"/24", serverAddr6.String()+"/64")
	server.must(t, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		mac = l.Attrs().HardwareAddr
		for _, a := range []netip.Addr{local4, local6, stranger4} {
			n := &netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: asker, State: netlink.NUD_PERMANENT}
			if err := netlink.NeighAdd(n); err != nil {
				return err
			}
		}
		return Start(Options{Mode: FullNAT, Directors: []netip.Prefix{
			netip.PrefixFrom(local4, 32), netip.PrefixFrom(local6, 64)}})
	})
	t.Cleanup(func() { server.must(t, func() error { return Stop(nil) }) })
	return server, mac, mustCable(t, peer, "eth0")
}

func TestServersLearnTheirClients(t *testing.T) {
	server, mac, cable := mustFullNAT(t)
	mtu := []byte{2, 4, 5, 180} // an option of another kind
	for i, test := range []struct {
		sentence    string
		listen      string
		from        netip.Addr
		hello, data []byte // options
		want        netip.AddrPort
		counted     string
	}{
		{"a plain connection", "tcp4", local4, nil, nil, netip.AddrPort{}, ""},
		{"told with the last packet of the handshake", "tcp4", local4, toa(remote4), nil, remote4, "learned"},
		{"the same in IPv6", "tcp6", local6, toa(remote6), nil, remote6, "learned"},
		{"an IPv4 connection of a server for both families", "tcp", local4, toa(remote4), nil, remote4, "learned"},
		{"an IPv4 client of an IPv6 connection", "tcp6", local6, toa(remote4), nil, remote4, "learned"},
		{"an IPv6 client has no place in an IPv4 address", "tcp4", local4, toa(remote6), nil, netip.AddrPort{}, "learned"},
		{"behind other options", "tcp4", local4, slices.Concat([]byte{1, 1}, mtu, toa(remote4)), nil, remote4, "learned"},
		{"told with the first data", "tcp4", local4, nil, toa(remote4), remote4, "learned"},
		{"told with the first data, in IPv6", "tcp6", local6, nil, toa(remote6), remote6, "learned"},
		{"told by a stranger", "tcp4", stranger4, toa(remote4), nil, netip.AddrPort{}, "untrusted"},
		{"an option that is too long", "tcp4", local4, append([]byte{254, 12, 0, 1}, make([]byte, 8)...), nil, netip.AddrPort{}, "malformed"},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			var l net.Listener
			server.must(t, func() (err error) {
				l, err = net.Listen(test.listen, ":0")
				return err
			})
			defer l.Close()
			l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
			before := mustRead(t, server).Clients
			to := serverAddr4
			if test.from.Is6() {
				to = serverAddr6
			}
			s := &speaker{t: t, cable: cable, mac: mac, from: netip.AddrPortFrom(test.from, uint16(20000+i)), seq: 1000,
				to: netip.AddrPortFrom(to, uint16(l.Addr().(*net.TCPAddr).Port))}
			want := test.want
			if !want.IsValid() {
				want = s.from
			}
			s.mustOpen(test.hello)
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer s.mustSend(flagRST|flagACK, nil, nil)
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			s.mustSend(flagACK|flagPSH, test.data, []byte("hello"))
			if _, err := c.Read(make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			if got := mustPeer(t, c); got != want {
				t.Errorf("getpeername answers %s, want %s", got, want)
			}
			if got := fmt.Sprint(c.RemoteAddr()); test.data == nil && got != want.String() {
				t.Errorf("accept answers %s, want %s", got, want)
			}
			for i, c := range mustRead(t, server).Clients {
				if rise := c.Count - before[i].Count; (rise == 1) != (c.Name == test.counted) || rise > 1 {
					t.Errorf("%s rose by %d", c.Name, rise)
				}
			}
		})
	}
}

// TestNginxLearnsItsClients has an nginx that knows nothing of all this say whom it sees.
func TestNginxLearnsItsClients(t *testing.T) {
	server, mac, cable := mustFullNAT(t)
	needs.Programs(t, "nginx")
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`pid %s/pid; error_log %[1]s/error; master_process off;
events { }
http {
	access_log off;
	client_body_temp_path %[1]s; proxy_temp_path %[1]s; fastcgi_temp_path %[1]s; uwsgi_temp_path %[1]s; scgi_temp_path %[1]s;
	server { listen %s:80; return 200 "<$remote_addr $remote_port>"; }
}
`, dir, serverAddr4)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	nginx := func(args ...string) {
		server.must(t, func() error {
			out, err := exec.Command("nginx", append([]string{"-c", conf, "-p", dir, "-e", dir + "/error"}, args...)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("nginx: %w: %s", err, out)
			}
			return nil
		})
	}
	nginx()
	t.Cleanup(func() { nginx("-s", "stop") })
	s := &speaker{t: t, cable: cable, mac: mac, from: netip.AddrPortFrom(local4, 30000), to: netip.AddrPortFrom(serverAddr4, 80), seq: 1000}
	s.mustOpen(toa(remote4))
	s.mustSend(flagACK|flagPSH, nil, []byte("GET / HTTP/1.0\r\n\r\n"))
	want := fmt.Sprintf("<%s %d>", remote4.Addr(), remote4.Port())
	for b := make([]byte, 2048); ; {
		n, err := unix.Read(cable, b)
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if _, body, found := bytes.Cut(b[:n], []byte("\r\n\r\n")); found && bytes.Equal(b[:6], asker) {
			if string(body) != want {
				t.Errorf("nginx sees %s, want %s", body, want)
			}
			return
		}
	}
}
