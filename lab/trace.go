// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// watch sees the frames that hosts send and receive, until it is closed.
type watch struct {
	stage  *stage
	taps   []int
	frames []frame
}

// Way is which way the first packets of a connection went.
type Way struct {
	Scenario string `json:"scenario"`
	VIP      string `json:"vip"`
	Hops     []Hop  `json:"way"`
	OK       bool   `json:"ok"` // it is the way that the scenario promises
}

// Hop is a packet between two hosts.
type Hop struct {
	From   string `json:"from"`
	To     string `json:"to"`
	Packet string `json:"packet"` // SYN, SYN+ACK or ACK
	MAC    Ends   `json:"mac"`
	Tunnel string `json:"tunnel,omitempty"`
	Outer  *Ends  `json:"outer,omitempty"` // of the packet that carries this one
	IP     Ends   `json:"ip"`
	Names  string `json:"names"` // what these addresses are called: "CIP → VIP"
	TOA    string `json:"toa,omitempty"`

	outerNames string
}

// Ends are where something comes from and goes to.
type Ends struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
}

func (e Ends) String() string { return e.Source + " → " + e.Destination }

// watch begins to watch all hosts.
func (s *stage) watch() (w *watch, err error) {
	w = &watch{stage: s}
	all := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00) // in the network's byte order
	for _, h := range s.network.Hosts {
		err := h.Do(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all))
			if err == nil {
				w.taps = append(w.taps, fd)
			}
			return err
		})
		if err != nil {
			w.close()
			return nil, fmt.Errorf("watching %s: %w", h.Name, err)
		}
	}
	return w, nil
}

func (w *watch) close() {
	for _, fd := range w.taps {
		unix.Close(fd)
	}
	w.taps = nil
}

// stop takes in what was seen. A frame is seen where it is sent, where it arrives, or at both.
func (w *watch) stop() {
	defer w.close()
	b := make([]byte, 1<<16)
	for _, fd := range w.taps {
		for {
			n, _, err := unix.Recvfrom(fd, b, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				break
			}
			if f, ok := decode(b[:n]); ok && !slices.Contains(w.frames, f) {
				w.frames = append(w.frames, f)
			}
		}
	}
}

// hops follows the first packet, its answer, and what tells a server of the client, from host to host.
func (w *watch) hops() (hops []Hop) {
	at := w.stage.client.Name
	for _, flags := range []string{"SYN", "SYN+ACK"} {
		next, end := w.follow(at, func(f frame) bool { return f.flags == flags })
		hops, at = append(hops, next...), end
	}
	next, _ := w.follow(w.stage.director.Name, func(f frame) bool { return f.flags == "ACK" && f.toa.IsValid() })
	return append(hops, next...)
}

// follow gives the way of a packet, and where it ends. Of two frames that go on from a host, the one whose addresses are still
// those of the packet comes next: a host that passes it on twice has changed them in between, or somebody else has.
func (w *watch) follow(at string, is func(frame) bool) (hops []Hop, end string) {
	left := slices.Clone(w.frames)
	var f frame
	for {
		on := func(f frame) bool { return is(f) && w.owner(f.mac[0]) == at && w.owner(f.mac[1]) != "" }
		i := slices.IndexFunc(left, func(next frame) bool { return on(next) && next.ip == f.ip && next.outer == f.outer })
		if i < 0 {
			i = slices.IndexFunc(left, on)
		}
		if i < 0 {
			return hops, at
		}
		f = left[i]
		left = slices.Delete(left, i, i+1)
		h := Hop{From: at, To: w.owner(f.mac[1]), Packet: f.flags, MAC: Ends{f.mac[0], f.mac[1]}, Tunnel: f.tunnel,
			IP: Ends{f.ip[0].String(), f.ip[1].String()}, Names: w.stage.called(f.ip[0].Addr(), f.ip[1].Addr())}
		if f.tunnel != "" {
			h.Outer = &Ends{f.outer[0].String(), f.outer[1].String()}
			h.outerNames = w.stage.called(f.outer[0], f.outer[1])
		}
		if f.toa.IsValid() {
			h.TOA = f.toa.String()
		}
		hops, at = append(hops, h), h.To
	}
}

// owner gives the host that has a MAC address, or nothing.
func (w *watch) owner(mac string) string {
	for _, h := range w.stage.network.Hosts {
		for _, i := range h.Interfaces {
			if i.MAC == mac {
				return h.Name
			}
		}
	}
	return ""
}

// called gives the names of two addresses.
func (s *stage) called(source, destination netip.Addr) string {
	name := func(a netip.Addr) string {
		for name, is := range s.names {
			if is == a {
				return name
			}
		}
		for _, one := range s.servers {
			if one.addr == a {
				return "RIP"
			}
		}
		return a.String()
	}
	return name(source) + " → " + name(destination)
}

// String is a hop in the words of a scenario: servers are alike.
func (h Hop) String() string {
	from, to := strings.TrimRight(h.From, "0123456789"), strings.TrimRight(h.To, "0123456789")
	names := h.Names
	if h.Outer != nil {
		names = h.outerNames + ", within: " + names
	}
	if h.TOA != "" {
		names += ", with the CIP"
	}
	return from + " → " + to + ": " + names
}

// show shows which way the first packets went, and judges that.
func (s *stage) show(w *watch) error {
	way := Way{Scenario: s.name, VIP: s.names["VIP"].String(), Hops: w.hops()}
	s.screen.way(way.Hops)
	var was, promised []string
	for _, h := range way.Hops {
		was = append(was, h.String())
	}
	for line := range strings.Lines(s.way) {
		if line = strings.TrimSpace(line); line != "" {
			promised = append(promised, line)
		}
	}
	way.OK = slices.Equal(was, promised)
	s.screen.json(way)
	if !way.OK {
		return fmt.Errorf("%w: the first packets went\n  %s\nand not\n  %s", ErrBroken,
			strings.Join(was, "\n  "), strings.Join(promised, "\n  "))
	}
	s.screen.success(s.moral)
	return nil
}
