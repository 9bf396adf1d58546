// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// The lab speaks the little of HTTP that it needs by itself: net/http would add a fifth to the binary, and to
// the time that `go run` takes to compile it.

// patience is how long a request may take. An answer within a lab takes about a millisecond.
const patience = 3 * time.Second

// Serve answers each HTTP request with a line of who (the server's name and address) and which client was seen.
// It closes the connection with the answer, and ends when the listener is closed.
func Serve(l net.Listener, who string) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err == nil {
			go answer(c, who)
		}
	}
}

func answer(c net.Conn, who string) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	head := bufio.NewScanner(io.LimitReader(c, 16384))
	for head.Scan() && head.Text() != "" {
	}
	if head.Err() != nil {
		return
	}
	body := fmt.Sprintf("%s answers %v\n", who, c.RemoteAddr())
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
}

// Get sends an HTTP request from the host, on a connection of its own, and gives what is answered, without its
// end of line.
func (h *Host) Get(ctx context.Context, from netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", from.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %v\r\nUser-Agent: director\r\nConnection: close\r\n\r\n", from)
	text, err := io.ReadAll(io.LimitReader(c, 4096))
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", err
	}
	head, body, _ := strings.Cut(string(text), "\r\n\r\n")
	if status, _, _ := strings.Cut(head, "\r\n"); status != "HTTP/1.1 200 OK" {
		return "", fmt.Errorf("the answer begins %q", status)
	}
	return strings.TrimSpace(body), nil
}

// url leaves out the port that is understood.
func url(of netip.AddrPort) string {
	return strings.TrimSuffix("http://"+of.String(), ":80") + "/"
}
