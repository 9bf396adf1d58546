// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachable gives the interfaces that are up and that packets come in by in their own name: not lo, and not the ports of
// a bridge or a bond, whose packets are seen on that.
func attachable() ([]netlink.Link, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list of interfaces: %w", err)
	}
	kind := map[int]string{}
	for _, l := range all {
		kind[l.Attrs().Index] = l.Type()
	}
	return slices.DeleteFunc(all, func(l netlink.Link) bool {
		a := l.Attrs()
		port := a.MasterIndex != 0 && kind[a.MasterIndex] != "vrf"
		return a.Flags&net.FlagUp == 0 || a.EncapType != "ether" || port
	}), nil
}

// attach has an interface's packets go through the program: by tcx, or before Linux 6.6 by a filter of clsact.
func (in *instance) attach(name string) error {
	err := in.make(change{Kind: kindTCX, On: name})
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	in.state.Changes = slices.DeleteFunc(in.state.Changes, change{Kind: kindTCX, On: name}.same)
	if err := in.make(change{Kind: kindClsact, On: name}); err != nil {
		return err
	}
	return in.make(change{Kind: kindFilter, On: name})
}

// tcxPin has no dot, which a bpffs refuses; a colon is in no name of an interface.
func tcxPin(c change) string { return "tcx-" + strings.ReplaceAll(c.On, ".", ":") }

// tcxHolds looks whether the link is cut: an interface that went may have come back under its name.
func tcxHolds(in *instance, c change) (bool, error) {
	l, err := link.LoadPinnedLink(in.pin(tcxPin(c)), nil)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	t := info.TCX()
	return t != nil && t.Ifindex != 0, nil
}

func attachTCX(in *instance, c change) error {
	i, err := netlink.LinkByName(c.On)
	if err != nil {
		return err
	}
	p, err := ebpf.LoadPinnedProgram(in.pin(bpfProgRealserverDecap), nil)
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: i.Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return err
	}
	defer l.Close()
	os.Remove(in.pin(tcxPin(c))) // of an interface that is gone
	return l.Pin(in.pin(tcxPin(c)))
}

func detachTCX(in *instance, c change) error {
	return ignore(os.Remove(in.pin(tcxPin(c))), os.ErrNotExist)
}

func clsact(l netlink.Link) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

func hasClsact(l netlink.Link) (bool, error) {
	qdiscs, err := netlink.QdiscList(l)
	return slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" }), err
}

func clsactHolds(_ *instance, c change) (bool, error) {
	l, err := netlink.LinkByName(c.On)
	if err != nil {
		return false, err
	}
	return hasClsact(l)
}

func addClsact(_ *instance, c change) error {
	l, err := netlink.LinkByName(c.On)
	if err != nil {
		return err
	}
	return ignore(netlink.QdiscAdd(clsact(l)), unix.EEXIST)
}

// removeClsact leaves it in place if others have come to use it.
func removeClsact(_ *instance, c change) error {
	l, err := onLink(c.On)
	if l == nil {
		return err
	}
	if has, err := hasClsact(l); err != nil || !has {
		return err
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil || len(filters) > 0 {
			return err
		}
	}
	return netlink.QdiscDel(clsact(l))
}

const (
	filterName     = "realserver"
	filterPriority = 2 // behind the director's own program, for a host that is both
)

func filter(l netlink.Link, fd int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1,
			Priority: filterPriority, Protocol: unix.ETH_P_ALL},
		Fd: fd, Name: filterName, DirectAction: true,
	}
}

func filterHolds(_ *instance, c change) (bool, error) {
	l, err := netlink.LinkByName(c.On)
	if err != nil {
		return false, err
	}
	filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
	return slices.ContainsFunc(filters, func(f netlink.Filter) bool {
		b, ok := f.(*netlink.BpfFilter)
		return ok && b.Name == filterName
	}), err
}

func addFilter(in *instance, c change) error {
	l, err := netlink.LinkByName(c.On)
	if err != nil {
		return err
	}
	p, err := ebpf.LoadPinnedProgram(in.pin(bpfProgRealserverDecap), nil)
	if err != nil {
		return err
	}
	defer p.Close()
	return netlink.FilterReplace(filter(l, p.FD()))
}

func removeFilter(_ *instance, c change) error {
	l, err := onLink(c.On)
	if l == nil {
		return err
	}
	if has, err := filterHolds(nil, c); err != nil || !has {
		return err
	}
	return netlink.FilterDel(filter(l, -1))
}
