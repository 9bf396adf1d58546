// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// change is one thing of the system that is not as it was.
type change struct {
	Kind string
	On   string // an interface, or the path of a setting below /proc/sys
	To   string // what was added there, or set
	Was  string // of a setting
}

func (c change) same(d change) bool { return c.Kind == d.Kind && c.On == d.On && c.To == d.To }

// String is as an operator would say it.
func (c change) String() string {
	switch c.Kind {
	case kindSetting:
		return fmt.Sprintf("%s = %s", strings.NewReplacer("/", ".", ".", "/").Replace(c.On), c.To)
	case kindUp:
		return c.On + " up"
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s on %s", c.Kind, c.To, c.On))
}

const (
	kindSetting = "setting"
	kindAddress = "address"
	kindUp      = "up"
	kindTCX     = "program"
	kindClsact  = "clsact"
	kindFilter  = "filter"
	kindFOU     = "receive port"
)

// kind is how one kind of change is made. All but was can be repeated, and undo finds nothing to do where do was never
// reached or the interface is gone.
type kind struct {
	holds    func(*instance, change) (bool, error)
	was      func(change) (string, error)
	do, undo func(*instance, change) error
}

var kinds map[string]kind

func init() { // the functions name the table, by way of make
	kinds = map[string]kind{
		kindSetting: {settingHolds, func(c change) (string, error) { return readSetting(c.On) },
			func(_ *instance, c change) error { return writeSetting(c.On, c.To) },
			func(_ *instance, c change) error { return ignore(writeSetting(c.On, c.Was), fs.ErrNotExist) }},
		kindAddress: {addressHolds, nil, addAddress, removeAddress},
		kindUp:      {isUp, nil, setUp, setDown},
		kindTCX:     {tcxHolds, nil, attachTCX, detachTCX},
		kindClsact:  {clsactHolds, nil, addClsact, removeClsact},
		kindFilter:  {filterHolds, nil, addFilter, removeFilter},
		kindFOU:     {fouHolds, nil, addFOU, removeFOU},
	}
}

// ignore gives no error for one that is expected.
func ignore(err error, expected ...error) error {
	for _, e := range expected {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

func setting(path string) string { return filepath.Join("/proc/sys", path) }

func readSetting(path string) (string, error) {
	text, err := os.ReadFile(setting(path))
	return strings.TrimSpace(string(text)), err
}

func writeSetting(path, value string) error { return os.WriteFile(setting(path), []byte(value), 0) }

func settingHolds(_ *instance, c change) (bool, error) {
	is, err := readSetting(c.On)
	return is == c.To, err
}

// onLink gives the interface of a change, or nil if there is none any more.
func onLink(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil, nil
	}
	return l, err
}

// address is the virtual address as the kernel will have it: of no use to anybody who looks for a source address, so that
// the host's own connections never come from it, and not checked for duplicates, of which there are many.
func (c change) address() (*netlink.Addr, error) {
	a, err := netip.ParseAddr(c.To)
	if err != nil {
		return nil, err
	}
	n := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
	if a.Is4() {
		n.Scope = unix.RT_SCOPE_HOST
	} else {
		n.Flags = unix.IFA_F_NODAD
		n.ValidLft, n.PreferedLft = math.MaxUint32, 0
	}
	return n, nil
}

func addressHolds(_ *instance, c change) (bool, error) {
	want, err := c.address()
	if err != nil {
		return false, err
	}
	l, err := netlink.LinkByName(c.On)
	if err != nil {
		return false, err
	}
	all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return false, err
	}
	for _, a := range all {
		if a.IPNet.String() == want.IPNet.String() {
			return true, nil
		}
	}
	return false, nil
}

func addAddress(_ *instance, c change) error {
	a, err := c.address()
	if err != nil {
		return err
	}
	l, err := netlink.LinkByName(c.On)
	if err != nil {
		return err
	}
	err = netlink.AddrAdd(l, a)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w (IPv6 is switched off: net.ipv6.conf.%s.disable_ipv6)", err, c.On)
	}
	return ignore(err, unix.EEXIST)
}

func removeAddress(_ *instance, c change) error {
	l, err := onLink(c.On)
	if l == nil {
		return err
	}
	a, err := c.address()
	if err != nil {
		return err
	}
	return ignore(netlink.AddrDel(l, a), unix.EADDRNOTAVAIL)
}

func isUp(_ *instance, c change) (bool, error) {
	l, err := netlink.LinkByName(c.On)
	if err != nil {
		return false, err
	}
	return l.Attrs().Flags&net.FlagUp != 0, nil
}

func setUp(_ *instance, c change) error {
	l, err := netlink.LinkByName(c.On)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func setDown(_ *instance, c change) error {
	l, err := onLink(c.On)
	if l == nil {
		return err
	}
	if err := netlink.LinkSetDown(l); err != nil || c.On != "lo" {
		return err
	}
	// the kernel has given it this address when it first came up, and will again
	home := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)}}
	return ignore(netlink.AddrDel(l, home), unix.EADDRNOTAVAIL)
}
