// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Mode is how packets of the director reach a real server.
type Mode string

// The modes: with the virtual address as their destination (ipvsadm -g); inside of another packet (-i); or with
// the real server's own address, and the client's in a TCP option (--fullnat).
const (
	DR      Mode = "dr"
	Tunnel  Mode = "tun"
	FullNAT Mode = "fullnat"
)

// Decap is who takes packets out of tunnels.
type Decap string

// Our program takes out packets for virtual addresses, in all the ways in which a director sends them, save for fragments and
// the options of GUE. The kernel's devices, where it has them all, know those, but take in what anybody sends, and neither
// IPv4 in IPv6 without GRE nor GRE with a checksum.
const (
	Program Decap = "program"
	Kernel  Decap = "kernel"
)

// DefaultGUEPort is the UDP port that IANA has assigned to GUE.
const DefaultGUEPort = 6080

// Options say what a real server shall do besides what it does already.
type Options struct {
	Mode      Mode
	VIPs      []netip.Addr   // virtual addresses; at least one, save for FullNAT, which can do without
	GUEPorts  []uint16       // UDP ports that GUE comes to; none is [DefaultGUEPort]
	Decap     Decap          // none is Program
	Directors []netip.Prefix // whose word about a client is believed, for FullNAT; none is everybody's
}

// ErrOptions says that options do not go together.
var ErrOptions = errors.New("not possible")

func (o *Options) check() error {
	if !slices.Contains([]Mode{DR, Tunnel, FullNAT}, o.Mode) {
		return fmt.Errorf("mode %q: %w: it is dr, tun or fullnat", o.Mode, ErrOptions)
	}
	if len(o.VIPs) == 0 && o.Mode != FullNAT {
		return fmt.Errorf("mode %s without a virtual address: %w", o.Mode, ErrOptions)
	}
	for i, a := range o.VIPs {
		o.VIPs[i] = a.Unmap()
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.Zone() != "" {
			return fmt.Errorf("virtual address %s: %w: it is not one that clients send to from afar", a, ErrOptions)
		}
	}
	for i, p := range o.Directors {
		if !p.IsValid() {
			return fmt.Errorf("directors %s: %w", p, ErrOptions)
		}
		if p.Addr().Is4In6() {
			return fmt.Errorf("directors %s: %w: write it as IPv4", p, ErrOptions)
		}
		o.Directors[i] = p.Masked()
	}
	if slices.Contains(o.GUEPorts, 0) {
		return fmt.Errorf("GUE port 0: %w", ErrOptions)
	}
	if !slices.Contains([]Decap{"", Kernel, Program}, o.Decap) {
		return fmt.Errorf("decapsulation by %q: %w: it is program or kernel", o.Decap, ErrOptions)
	}
	return nil
}

// Start makes the calling thread's network namespace a real server, or has one do more: modes and addresses add up.
// It can be repeated, and goes on where a Start before it was cut short. Programs are attached to the interfaces
// that are up.
func Start(o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	p, err := find()
	if err != nil {
		return err
	}
	var in *instance
	for in == nil {
		in, err = open(p, unix.LOCK_EX)
		if errors.Is(err, fs.ErrNotExist) {
			err = create(p)
		}
		if err != nil {
			return err
		}
	}
	defer in.lock.Release()
	return in.start(o)
}

func (in *instance) start(o Options) error {
	s := &in.state
	s.Complete = false
	s.Modes = add(s.Modes, o.Mode)
	s.VIPs = add(s.VIPs, o.VIPs...)
	if o.Mode == FullNAT {
		if len(o.Directors) == 0 && len(s.Directors) == 0 {
			s.Directors = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
		} else if len(o.Directors) > 0 {
			s.Directors = o.Directors
		}
	}
	if err := in.save(); err != nil {
		return err
	}
	between()
	// silence first: nobody is to hear of an address
	if err := in.silence(); err != nil {
		return err
	}
	if slices.Contains(s.Modes, Tunnel) {
		if err := in.startTunnel(o); err != nil {
			return err
		}
	}
	if slices.Contains(s.Modes, FullNAT) {
		if err := in.startFullNAT(); err != nil {
			return err
		}
	}
	if err := in.make(change{Kind: kindUp, On: "lo"}); err != nil {
		return err
	}
	for _, a := range s.VIPs {
		if err := in.make(change{Kind: kindAddress, On: "lo", To: a.String()}); err != nil {
			return err
		}
	}
	s.Complete = true
	return in.save()
}

func add[T comparable](to []T, more ...T) []T {
	for _, m := range more {
		if !slices.Contains(to, m) {
			to = append(to, m)
		}
	}
	return to
}

// silence has the host answer ARP for addresses of the asked interface only, and ask with such ones: what is on lo stays a
// secret. IPv6 needs nothing: the kernel answers neighbour solicitations only for the interface's own addresses, asks with
// those, and checks no address of lo for duplicates.
func (in *instance) silence() error {
	if !slices.ContainsFunc(in.state.VIPs, netip.Addr.Is4) {
		return nil
	}
	for _, on := range []string{"all", "lo"} {
		for _, s := range []change{
			{Kind: kindSetting, On: "net/ipv4/conf/" + on + "/arp_ignore", To: "1"},
			{Kind: kindSetting, On: "net/ipv4/conf/" + on + "/arp_announce", To: "2"},
		} {
			if err := in.make(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// Stop takes virtual addresses away, or all of them if none is named; with the last one everything that Start has
// changed returns to what it was, and nothing of ours is left. It is no error if nothing was started.
func Stop(vips []netip.Addr) error {
	p, err := find()
	if err != nil {
		return err
	}
	in, err := open(p, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.lock.Release()
	s := &in.state
	left := slices.DeleteFunc(slices.Clone(s.VIPs), func(a netip.Addr) bool { return slices.Contains(vips, a) })
	if len(vips) == 0 || len(left) == 0 && !slices.Contains(s.Modes, FullNAT) {
		return in.stopAll()
	}
	s.VIPs, s.Complete = left, false
	if err := in.save(); err != nil {
		return err
	}
	between()
	err = in.undo(func(c change) bool {
		if c.Kind != kindAddress {
			return false
		}
		a, err := netip.ParseAddr(c.To)
		return err == nil && !slices.Contains(left, a)
	})
	if err != nil {
		return err
	}
	if s.Decap == Program {
		if err := in.fillVIPs(); err != nil {
			return err
		}
	}
	s.Complete = true
	return in.save()
}

func (in *instance) stopAll() error {
	in.state.Complete = false
	if err := in.save(); err != nil {
		return err
	}
	between()
	if err := in.undo(func(change) bool { return true }); err != nil {
		return err
	}
	return in.place.Remove()
}
