// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lvs/lab"
	"lvs/needs"
)

var floodFor = flag.Duration("flood", 3*time.Second, "how long TestFlood goes on, for each hook and size of the table")

const floodNetwork = `
	client   interface eth0 clients 10.1.0.2/24
	client   route default via 10.1.0.1
	attacker interface eth0 wild 10.3.0.2/24
	director interface eth0 clients 10.1.0.1/24
	director interface eth1 inside 10.2.0.1/24
	director interface eth2 wild 10.3.0.1/24
	director sysctl net.ipv4.ip_forward=1
	server   interface eth0 inside 10.2.0.2/24
	server   route default via 10.2.0.1`

// TestFlood has SYNs of spoofed senders come as fast as one CPU can send them, while clients open connections, and others go on with
// theirs. All of the old ones have to go on, and of the new ones 99 in 100 have to be served: also with a table that the flood would fill
// several times a second.
func TestFlood(t *testing.T) {
	needs.NetNS(t)
	needs.BPF(t)
	bin := mustBuild(t)
	for _, hook := range []string{"tc", "xdp"} {
		for _, size := range []string{"default", "131072"} {
			t.Run(hook+"/"+size, func(t *testing.T) { mustFlood(t, bin, hook, size) })
		}
	}
}

func mustFlood(t *testing.T, bin, hook, size string) {
	hosts, err := lab.Parse(floodNetwork)
	if err != nil {
		t.Fatal(err)
	}
	n := &lab.Network{Name: fmt.Sprintf("labtest-%d-flood", os.Getpid()), Hosts: hosts, XDP: hook == "xdp"}
	if err := n.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, attacker, director, server := hosts[0], hosts[1], hosts[2], hosts[3]
	director.Leave = []string{filepath.Join(bin, "director"), "unload"}
	t.Cleanup(func() {
		if err := n.Down(); err != nil {
			t.Error(err)
		}
	})
	args := []string{"attach"}
	if size != "default" {
		args = append(args, "--conns", size)
	}
	if hook == "xdp" {
		args = append(args, "--xdp", "eth0", "eth1", "eth2")
	}
	on := func(h *lab.Host, name string, args ...string) []byte {
		t.Helper()
		out, err := h.Command(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
		return out
	}
	on(director, filepath.Join(bin, "director"), args...)
	on(director, filepath.Join(bin, "ipvsadm"), "-A", "-t", "10.1.0.1:7", "-s", "wlc")
	on(director, filepath.Join(bin, "ipvsadm"), "-a", "-t", "10.1.0.1:7", "-r", "10.2.0.2:7", "-m")
	mustEcho(t, server)

	var held []net.Conn
	for range 50 {
		c, err := client.Dial(t.Context(), "tcp", "10.1.0.1:7")
		if err != nil {
			t.Fatalf("before the flood: %v", err)
		}
		defer c.Close()
		held = append(held, c)
	}
	ctx, stop := context.WithTimeout(t.Context(), *floodFor)
	defer stop()
	began := time.Now()
	var all sync.WaitGroup
	var sent, asked, served, lines atomic.Int64
	all.Go(func() {
		if err := attacker.Do(func() error { return flood(ctx, director, &sent) }); err != nil {
			t.Error(err)
		}
	})
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				asked.Add(1)
				if err := visit(client); err != nil {
					t.Logf("after %v: %v", time.Since(began).Truncate(time.Millisecond), err)
				} else {
					served.Add(1)
				}
			}
		})
	}
	all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := exchange(held[i%len(held)]); err != nil {
				t.Errorf("an old connection: %v", err)
				return
			}
			lines.Add(1)
		}
	})
	all.Wait()
	seconds := time.Since(began).Seconds()
	for _, c := range held {
		if err := exchange(c); err != nil {
			t.Errorf("an old connection, after the flood: %v", err)
		}
	}
	var status struct {
		Conns   struct{ Size int }
		Shed    uint64 `json:"shed_conns"`
		Reasons []struct {
			Name    string
			Packets uint64
		}
	}
	if err := json.Unmarshal(on(director, filepath.Join(bin, "director"), "status", "--json"), &status); err != nil {
		t.Fatal(err)
	}
	reasons := map[string]uint64{}
	for _, r := range status.Reasons {
		if r.Packets > 0 {
			reasons[r.Name] = r.Packets
		}
	}
	t.Logf("%.0f spoofed SYNs a second into a table of %d; new connections %d, served %d; lines on old ones %d; ended early %d; not forwarded %v",
		float64(sent.Load())/seconds, status.Conns.Size, asked.Load(), served.Load(), lines.Load(), status.Shed, reasons)
	if served.Load()*100 < asked.Load()*99 {
		t.Errorf("of %d new connections %d were served", asked.Load(), served.Load())
	}
	if sent.Load() < int64(status.Conns.Size) && size != "default" {
		t.Errorf("%d SYNs are no flood", sent.Load())
	}
}

// mustEcho answers each line with itself.
func mustEcho(t *testing.T, h *lab.Host) {
	l, err := h.Listen("tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintln(c, lines.Text())
				}
			}()
		}
	}()
}

// visit opens a connection, uses it, and resets it, so that its port is free at once.
func visit(h *lab.Host) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience/3)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", "10.1.0.1:7")
	if err != nil {
		return err
	}
	defer c.Close()
	c.(*net.TCPConn).SetLinger(0)
	return exchange(c)
}

func exchange(c net.Conn) error {
	c.SetDeadline(time.Now().Add(patience / 3))
	var b [16]byte
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return err
	}
	_, err := c.Read(b[:])
	return err
}

// flood sends SYNs from 4 million addresses and all ports by chance, from one thread, until the context ends. Their checksums are not right,
// so that the server drops them at once: what a flood is to a server is another matter.
func flood(ctx context.Context, director *lab.Host, sent *atomic.Int64) error {
	const batch = 64
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	var there *net.Interface
	if err := director.Do(func() (err error) { there, err = net.InterfaceByName("eth2"); return err }); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: here.Index}); err != nil {
		return err
	}
	frame := append(append([]byte(there.HardwareAddr), here.HardwareAddr...),
		8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0)
	type message struct {
		unix.Msghdr
		n uint32
		_ [4]byte
	}
	var frames [batch][]byte
	var vectors [batch]unix.Iovec
	var messages [batch]message
	for i := range batch {
		frames[i] = append([]byte(nil), frame...)
		vectors[i] = unix.Iovec{Base: &frames[i][0], Len: uint64(len(frame))}
		messages[i].Iov, messages[i].Iovlen = &vectors[i], 1
	}
	for ctx.Err() == nil {
		for _, f := range frames {
			x := rand.Uint64()
			binary.BigEndian.PutUint32(f[26:], 100<<24|64<<16|uint32(x)&(1<<22-1))
			binary.BigEndian.PutUint16(f[34:], uint16(x>>32))
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), batch, 0, 0, 0)
		if errno != 0 && errno != unix.ENOBUFS && errno != unix.EAGAIN {
			return errno
		}
		if errno == 0 {
			sent.Add(int64(n))
		}
	}
	return nil
}
