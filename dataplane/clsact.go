// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachClsact attaches where the kernel has no tcx, to the ingress or the egress as parent says, what d tells already. That the qdisc will be ours is written down before it is.
func (in *instance) attachClsact(l netlink.Link, p *ebpf.Program, d bpfDevice, parent uint32) error {
	ifindex, name := l.Attrs().Index, l.Attrs().Name
	if has, err := hasClsact(l); err != nil {
		return fmt.Errorf("attach to %s: %w", name, err)
	} else if !has {
		d.MadeClsact = 1
	}
	if err := in.putDevice(ifindex, d); err != nil {
		return err
	}
	if err := netlink.QdiscAdd(clsact(ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("attach to %s: clsact: %w", name, err)
	}
	if err := netlink.FilterReplace(clsactFilter(ifindex, p.FD(), parent)); err != nil {
		return fmt.Errorf("attach to %s: filter: %w", name, err)
	}
	return nil
}

func hasClsact(l netlink.Link) (bool, error) {
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
	return slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" }), err
}

// hasFilter says whether our filter is at the ingress or the egress of an interface.
func hasFilter(l netlink.Link, parent uint32) (bool, error) {
	filters, err := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(l, parent) })
	return slices.ContainsFunc(filters, func(f netlink.Filter) bool {
		b, ok := f.(*netlink.BpfFilter)
		return ok && b.Name == filterName && b.Priority == filterPriority && b.Handle == filterHandle
	}), err
}

// What our filters are known by.
const filterName, filterPriority, filterHandle = "director", 1, 1

var clsactParents = []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS}

func clsactFilter(ifindex, fd int, parent uint32) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: parent, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: fd, Name: filterName, DirectAction: true,
	}
}

// removeClsact takes the filter off, and the qdisc too if it was made for it and nobody else has come to use it.
func removeClsact(ifindex int, made bool) error {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return ignoreNotFound(err)
	}
	if has, err := hasClsact(l); err != nil || !has {
		return err
	}
	for _, parent := range clsactParents {
		err := netlink.FilterDel(clsactFilter(ifindex, -1, parent))
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	if !made {
		return nil
	}
	for _, parent := range clsactParents {
		if filters, err := netlink.FilterList(l, parent); err != nil || len(filters) > 0 {
			return err
		}
	}
	return netlink.QdiscDel(clsact(ifindex))
}

func clsact(ifindex int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}
