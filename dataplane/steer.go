// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs"
)

// A firewall's mark is on a packet only after the hooks that the program is attached to for everything else. So packets with
// the mark of a service are routed out of a device of ours, whose egress sees them. As the rule about local addresses
// comes before all others, it is moved behind ours meanwhile. What is ours bears a routing protocol number of its own, and everything
// can be done again after it was cut short.

const (
	markDevice   = "director0"
	markPeer     = markDevice + "-end"
	markTable    = 0x4c5653 // "LVS"
	markProtocol = 76       // of routes and rules: nobody else's, by /etc/iproute2/rt_protos
	markAsk      = 1 << 30  // C's MARK_ASK
	noDeviceYet  = ^uint32(0)
)

// The preferences of our rules, in the order in which they are asked: what has been to the device goes on as if we were not
// there; marks lead to the device; then comes what comes first elsewhere.
const (
	preferPassed = 1 + iota
	preferMark
	preferLocal
)

// marked is the marks that services of each family have.
type marked map[lvs.Family][]uint32

func marksOf(t *lvs.Table) marked {
	m := marked{}
	for _, s := range t.Services() {
		if s.Mark != 0 {
			m[s.Family] = append(m[s.Family], s.Mark)
		}
	}
	return m
}

// marks are those of the services that there are.
func (in *instance) marks() marked {
	m := marked{}
	for _, s := range in.live() {
		if s.Key.Mark != 0 {
			m[lvs.Family(s.Key.Family)] = append(m[lvs.Family(s.Key.Family)], s.Key.Mark)
		}
	}
	return m
}

var families = []struct {
	family     lvs.Family
	number     int // AF_INET, AF_INET6
	bit        uint32
	everything string
	forwarding string
}{
	{lvs.IPv4, unix.AF_INET, 1, "0.0.0.0/0", "/proc/sys/net/ipv4/ip_forward"},
	{lvs.IPv6, unix.AF_INET6, 2, "::/0", "/proc/sys/net/ipv6/conf/all/forwarding"},
}

// steer brings the packets with marks to the program. Without exact, what leads there for other marks stays.
func (in *instance) steer(marks marked, exact bool) error {
	s, err := in.settings()
	if err != nil || (len(marks) == 0 && s.Device == 0) {
		return err
	}
	if len(marks) > 0 {
		if err := in.makeDevice(&s, marks); err != nil {
			return fmt.Errorf("a device for packets with marks: %w", err)
		}
	}
	asking := s.Marks
	if exact {
		asking = 0
	}
	for _, f := range families {
		if len(marks[f.family]) > 0 && isOn(f.forwarding) {
			asking |= f.bit
		}
	}
	if asking != s.Marks && asking&^s.Marks == 0 { // nobody asks any more before there is nobody to answer
		s.Marks = asking
		if err := in.putSettings(s); err != nil {
			return err
		}
	}
	for _, f := range families {
		r := rules{instance: in, family: f.number, bit: f.bit, settings: &s}
		if err := r.become(marks[f.family], exact); err != nil {
			return fmt.Errorf("routing rules for packets with marks: %w", err)
		}
	}
	if exact && len(marks) == 0 {
		return in.removeDevice(&s)
	}
	s.Marks = asking
	return in.putSettings(s)
}

func isOn(file string) bool {
	b, err := os.ReadFile(file)
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

// makeDevice makes the device, with the program on its egress, and a table that leads there for the families that have marks.
func (in *instance) makeDevice(s *bpfSetting, marks marked) error {
	l, err := netlink.LinkByName(markDevice)
	if err != nil && ignoreNotFound(err) != nil {
		return err
	}
	switch {
	case err == nil && s.Device == 0:
		return fmt.Errorf("%s: there is an interface of this name that is not the director's: %w", markDevice, fs.ErrExist)
	case err != nil:
		s.Device = noDeviceYet
		if err := in.putSettings(*s); err != nil {
			return err
		}
		if l, err = addDevice(); err != nil {
			return errors.Join(err, in.removeDevice(s))
		}
	}
	cut()
	ifindex := l.Attrs().Index
	if err := raise(l); err != nil {
		return err
	}
	s.Device = uint32(ifindex)
	if err := in.putSettings(*s); err != nil {
		return err
	}
	cut()
	if err := in.attachOut(l); err != nil {
		return err
	}
	for _, f := range families {
		if len(marks[f.family]) == 0 {
			continue
		}
		_, all, err := net.ParseCIDR(f.everything)
		if err != nil {
			return err
		}
		err = netlink.RouteReplace(&netlink.Route{
			Family: f.number, LinkIndex: ifindex, Dst: all, Table: markTable, Protocol: markProtocol, Scope: unix.RT_SCOPE_LINK,
		})
		if err != nil {
			return err
		}
		cut()
	}
	return nil
}

// addDevice makes a veth, whose other end hears nothing, or an ifb: of these the module makes devices that nobody asked for.
func addDevice() (l netlink.Link, err error) {
	attrs := netlink.LinkAttrs{Name: markDevice}
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: markPeer})
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs})
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("neither a veth nor an ifb: %w", err)
	}
	return netlink.LinkByName(markDevice)
}

// deviceAddr is an address that nobody uses or sees. Of a device without one the kernel takes no packets if rp_filter is on.
var deviceAddr = &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 76, 86, 83), Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_HOST}

// raise sets the device up: packets of any size, no addresses of its own, and whatever sender they have.
func raise(l netlink.Link) error {
	ends := []netlink.Link{l}
	if peer, err := netlink.LinkByName(markPeer); err == nil {
		ends = append(ends, peer)
	}
	for file, value := range map[string]string{
		"ipv4/conf/" + markDevice + "/rp_filter": "2", "ipv4/conf/" + markDevice + "/accept_local": "1",
		"ipv6/conf/" + markDevice + "/addr_gen_mode": "1", "ipv6/conf/" + markPeer + "/addr_gen_mode": "1",
	} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := netlink.AddrReplace(l, deviceAddr); err != nil {
		return err
	}
	for _, end := range ends {
		for _, set := range []func() error{
			func() error { return netlink.LinkSetMTU(end, 65535) },
			func() error { return netlink.LinkSetARPOff(end) },
			func() error { return netlink.LinkSetUp(end) },
		} {
			if err := set(); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeDevice removes the device, and its routes with it.
func (in *instance) removeDevice(s *bpfSetting) error {
	devices, err := in.m(bpfMapDevices)
	if err != nil {
		return err
	}
	l, err := netlink.LinkByName(markDevice)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if ignoreNotFound(err) != nil {
		return err
	}
	cut()
	if s.Device != noDeviceYet {
		if err := cutLink(in.dir + "/" + outPin(int(s.Device))); err != nil {
			return err
		}
		devices.Delete(s.Device)
	}
	s.Device, s.Marks = 0, 0
	return in.putSettings(*s)
}
