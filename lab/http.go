// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// patience is how long a request may take. An answer within a lab takes about a millisecond.
const patience = 3 * time.Second

// Serve answers each HTTP request with a line of who (the server's name and address) and which client was seen.
// It closes the connection with the answer, and ends when the listener is closed.
func Serve(l net.Listener, who string) error {
	s := &http.Server{
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s answers %s\n", who, r.RemoteAddr)
		}),
	}
	s.SetKeepAlivesEnabled(false)
	return s.Serve(l)
}

// url leaves out the port that is understood.
func url(of netip.AddrPort) string {
	return strings.TrimSuffix("http://"+of.String(), ":80") + "/"
}

// Asker sends HTTP requests from a host, each on a connection of its own.
type Asker struct{ client http.Client }

// NewAsker makes an asker for a host.
func NewAsker(h *Host) *Asker {
	return &Asker{http.Client{
		Timeout:   patience,
		Transport: &http.Transport{DialContext: h.Dial, DisableKeepAlives: true},
	}}
}

// Ask sends a request to a virtual address and gives the answer, without its end of line.
func (a *Asker) Ask(ctx context.Context, to netip.AddrPort) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url(to), nil)
	if err != nil {
		return "", err
	}
	answer, err := a.client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(text)), nil
}
