// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// patienceForNothing is how long an answer is waited for that is not to come. A SYN that is lost is sent again after a second.
const patienceForNothing = 500 * time.Millisecond

// conns are the connections that a story keeps open, by name, and what has become of those that its servers have had.
type conns struct {
	sync.Mutex
	open  map[string]net.Conn
	reset map[string]int // by the server's host
}

// serve answers each line of a connection with the name of the host, until the story ends.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "serve HOST ADDRESS...")
	h, all := named(ts, args[0]), &of(ts).conns
	for _, address := range args[1:] {
		l, err := h.Listen("tcp", address)
		ts.Check(err)
		ts.Defer(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go all.attend(h.Name, c)
			}
		}()
	}
}

// attend is a server's side of a connection.
func (all *conns) attend(name string, c net.Conn) {
	defer c.Close()
	lines := bufio.NewReader(c)
	for {
		line, err := lines.ReadString('\n')
		if err == nil && line == "end\n" { // the server's end comes first
			c.(*net.TCPConn).CloseWrite()
			continue
		}
		if err == nil {
			_, err = fmt.Fprintln(c, name)
		}
		if errors.Is(err, unix.ECONNRESET) {
			all.Lock()
			all.reset[name]++
			all.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// connect opens a connection and keeps it under a name. One of TCP whose SYN had to be sent again has failed.
func connect(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 4 || len(args) == 5, "[!] connect HOST NAME tcp|udp ADDRESS [PORT]")
	wait := patience / 3
	if neg {
		wait = patienceForNothing
	}
	d := net.Dialer{Timeout: wait, Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return errors.Join(err, failed)
	}}
	if len(args) == 5 {
		port, err := strconv.Atoi(args[4])
		ts.Check(err)
		d.LocalAddr = &net.TCPAddr{Port: port}
		if args[2] == "udp" {
			d.LocalAddr = &net.UDPAddr{Port: port}
		}
	}
	var c net.Conn
	err := named(ts, args[0]).Do(func() (err error) {
		c, err = d.DialContext(context.Background(), args[2], args[3])
		return err
	})
	if err == nil {
		defer ts.Defer(func() { c.Close() })
	}
	switch {
	case neg && err == nil:
		ts.Fatalf("%s is connected to", args[3])
	case neg:
		fmt.Fprintln(ts.Stderr(), err)
		return
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if sent := sentAgain(ts, c); sent > 0 {
		ts.Fatalf("%s hears %d SYNs", args[3], 1+sent)
	}
	of(ts).conns.open[args[1]] = c
}

// sentAgain is how many segments TCP has sent again.
func sentAgain(ts *testscript.TestScript, c net.Conn) (n uint32) {
	withSocket(ts, c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			n = info.Total_retrans
		}
		return err
	})
	return n
}

// withSocket does something with the socket of a connection of TCP; there is nothing to do for others.
func withSocket(ts *testscript.TestScript, c net.Conn, do func(fd int) error) {
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := t.SyscallConn()
	ts.Check(err)
	var failed error
	ts.Check(raw.Control(func(fd uintptr) { failed = do(int(fd)) }))
	ts.Check(failed)
}

func kept(ts *testscript.TestScript, name string) net.Conn {
	c := of(ts).conns.open[name]
	if c == nil {
		ts.Fatalf("no connection is called %s", name)
	}
	return c
}

// say sends a line, and looks at the answer: the name of a host, "end", "reset", "refused" or "nothing".
func say(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "say NAME ANSWER [LINE]")
	c, wait, line := kept(ts, args[0]), patience/3, "who is there?"
	if len(args) > 2 {
		line = args[2]
	}
	if args[1] == "nothing" {
		wait = patienceForNothing
	}
	c.SetDeadline(time.Now().Add(wait))
	_, err := fmt.Fprintln(c, line)
	b, n := make([]byte, 100), 0
	if err == nil {
		n, err = c.Read(b)
	}
	got := string(bytes.TrimSpace(b[:n]))
	switch {
	case errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE):
		got = "reset"
	case errors.Is(err, unix.ECONNREFUSED):
		got = "refused"
	case errors.Is(err, os.ErrDeadlineExceeded):
		got = "nothing"
	case errors.Is(err, io.EOF):
		got = "end"
	case err != nil:
		got = err.Error()
	}
	if got != args[1] {
		ts.Fatalf("%s says %s, want %s", args[0], got, args[1])
	}
}

// closeConn ends a connection in one of several ways.
func closeConn(ts *testscript.TestScript, neg bool, args []string) {
	ways := []string{"fin", "half", "reset", "silently"}
	usage(ts, !neg && len(args) == 2 && slices.Contains(ways, args[1]), "close NAME "+strings.Join(ways, "|"))
	c := kept(ts, args[0])
	switch args[1] {
	case "half":
		ts.Check(c.(*net.TCPConn).CloseWrite())
		return
	case "reset":
		ts.Check(c.(*net.TCPConn).SetLinger(0))
	case "silently": // as a host that loses its power
		withSocket(ts, c, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) })
	}
	ts.Check(c.Close())
}

// heard waits until so many connections of a host's servers have ended by a reset.
func heard(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "resets HOST COUNT")
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	all, got := &of(ts).conns, 0
	for deadline := time.Now().Add(patience / 3); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		all.Lock()
		got = all.reset[args[0]]
		all.Unlock()
		if got >= want {
			break
		}
	}
	if got != want {
		ts.Fatalf("%s hears of %d resets, want %d", args[0], got, want)
	}
}
