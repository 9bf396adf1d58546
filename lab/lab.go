// SPDX-License-Identifier: Apache-2.0

// Package lab builds networks out of network namespaces, in this process and with nothing installed: hosts that
// run functions, commands, listeners and dialers of their own, joined by wires and switches. The scenarios of
// `director lab` and the end-to-end tests stand on it.
package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
)

// Network describes hosts that [Network.Up] builds. Interfaces that name the same segment see one another: two of
// them are the ends of a wire, more of them are ports of a switch, which is a namespace of its own.
type Network struct {
	Name  string // at most one network of a name is up on a machine; namespaces are called NAME-HOST
	Hosts []*Host
	XDP   bool // interfaces on the other end of a wire are set up so that native XDP can run on this end

	guard *guard
}

// Host describes a machine. Once its network is up, its methods act from inside it.
type Host struct {
	Name       string
	Interfaces []Interface
	Routes     []string // in the words of `ip route add`: "default via 192.0.2.1"
	Sysctls    []string // in the words of sysctl: "net.ipv4.ip_forward=1"
	Leave      []string // a command that runs in the host before it is taken away

	namespace string
}

// Interface describes a network interface of a host.
type Interface struct {
	Name    string   // "lo" exists in each host, and is in no segment
	Segment string   // what it is plugged into
	MAC     string   // none: the kernel makes one up
	Addrs   []string // with prefix length: "192.0.2.1/24"
}

// ErrUp says that a network of this name is up already.
var ErrUp = errors.New("a lab is already up")

// Up builds the network, first clearing away what a killed process left of one of the same name. It answers
// [ErrUp] if another process has it up, or kept it. What fails half-way leaves nothing behind.
func (n *Network) Up(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("making network namespaces: %w (run as root)", os.ErrPermission)
	}
	segments, err := n.plan()
	if err != nil {
		return err
	}
	if n.guard, err = claim(n.Name); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Down())
		}
	}()
	all := slices.Clone(n.Hosts)
	for _, s := range segments {
		if s.hub != nil {
			all = append(all, s.hub)
		}
	}
	if err := n.guard.note(all); err != nil {
		return err
	}
	for _, h := range all {
		if err := h.create(); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	for _, s := range segments {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.connect(); err != nil {
			return fmt.Errorf("segment %s: %w", s.name, err)
		}
	}
	for _, h := range n.Hosts {
		if err := h.configure(); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	for _, s := range segments {
		if err := s.tune(n.XDP); err != nil {
			return fmt.Errorf("segment %s: %w", s.name, err)
		}
	}
	return nil
}

// Down takes the network away: what runs in its hosts is killed, then interfaces and namespaces go.
func (n *Network) Down() error {
	if n.guard == nil {
		return nil
	}
	g := n.guard
	n.guard = nil
	return g.clear()
}

// Keep lets the network stay up when this process ends; [Clean] takes it away.
func (n *Network) Keep() error {
	g := n.guard
	n.guard = nil
	return g.keep()
}

// Clean takes away the network of this name that was kept, or that a killed process left behind, and tells
// whether there was any. It answers [ErrUp] if a living process has it up.
func Clean(name string) (found bool, err error) {
	g, err := open(name)
	if err != nil {
		return false, err
	}
	found = len(g.state.Hosts) > 0
	return found, g.clear()
}

// plan finds the segments, in the order in which the hosts name them, and checks what the kernel would not
// answer clearly.
func (n *Network) plan() ([]*segment, error) {
	var segments []*segment
	for _, h := range n.Hosts {
		h.namespace = n.Name + "-" + h.Name
		for _, i := range h.Interfaces {
			if i.Segment == "" {
				continue
			}
			at := slices.IndexFunc(segments, func(s *segment) bool { return s.name == i.Segment })
			if at < 0 {
				at = len(segments)
				segments = append(segments, &segment{name: i.Segment})
			}
			e := end{host: h, iface: i.Name}
			if i.MAC != "" {
				mac, err := net.ParseMAC(i.MAC)
				if err != nil {
					return nil, fmt.Errorf("interface %s of %s: %w", i.Name, h.Name, err)
				}
				e.mac = mac
			}
			segments[at].ends = append(segments[at].ends, e)
		}
	}
	for _, s := range segments {
		switch len(s.ends) {
		case 1:
			return nil, fmt.Errorf("segment %s: only %s is on it", s.name, s.ends[0].host.Name)
		case 2:
		default:
			s.hub = &Host{Name: s.name, namespace: n.Name + "-" + s.name}
		}
	}
	return segments, nil
}
