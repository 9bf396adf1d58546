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

// maxName is how long the name of an interface can be.
const maxName = unix.IFNAMSIZ - 1

func toName(name string) (n bpfInterfaceName) {
	copy(n.Text[:maxName], name)
	return n
}

func fromName(n bpfInterfaceName) string { return unix.ByteSliceToString(n.Text[:]) }

// asked gives what was asked for, by the names of interfaces.
func (in *instance) asked() (map[string]bpfAsked, error) {
	m, err := in.m(bpfMapAsked)
	if err != nil {
		return nil, err
	}
	all := map[string]bpfAsked{}
	var name bpfInterfaceName
	var a bpfAsked
	it := m.Iterate()
	for it.Next(&name, &a) {
		all[fromName(name)] = a
	}
	return all, it.Err()
}

func (in *instance) putAsked(name string, a bpfAsked) error {
	m, err := in.m(bpfMapAsked)
	if err != nil {
		return err
	}
	return m.Put(toName(name), a)
}

func (in *instance) removeAsked(name string) error {
	m, err := in.m(bpfMapAsked)
	if err != nil {
		return err
	}
	if err := m.Delete(toName(name)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// askFor writes down what was asked for an interface. XDP is taken off again only by a detach.
func (in *instance) askFor(name string, ifindex int, mode XDPMode) error {
	all, err := in.asked()
	if err != nil {
		return err
	}
	a := all[name]
	a.Tc, a.Ifindex = bpfAttachmentATTACH_TCX, uint32(ifindex)
	switch mode {
	case XDPNative:
		a.Xdp = bpfAttachmentATTACH_XDP_NATIVE
	case XDPGeneric:
		a.Xdp = bpfAttachmentATTACH_XDP_GENERIC
	}
	return in.putAsked(name, a)
}

// askNoMore writes down that an interface is to be left alone.
func (in *instance) askNoMore(name string, ifindex int) error {
	return in.putAsked(name, bpfAsked{Tc: bpfAttachmentATTACH_NONE, Xdp: bpfAttachmentATTACH_NONE, Ifindex: uint32(ifindex)})
}

// followAsked does what was asked for interfaces that have come.
func (in *instance) followAsked(links []netlink.Link, tell func(error)) error {
	all, err := in.asked()
	if err != nil {
		return err
	}
	for name, a := range all {
		l := byName(links, name)
		if l == nil {
			if err := in.followRenamed(links, name, a); err != nil {
				return err
			}
		} else if err := stillThere(l, in.followOne(l, a)); err != nil {
			tell(err)
		}
	}
	return nil
}

// followRenamed has what was asked for go with an interface that has another name now.
func (in *instance) followRenamed(links []netlink.Link, name string, a bpfAsked) error {
	l := byIndex(links, int(a.Ifindex))
	if l == nil {
		return nil // it is gone
	}
	d, err := in.device(l.Attrs().Index)
	if err != nil || d == (bpfDevice{}) {
		return err // another one that has got its index
	}
	if err := in.putAsked(l.Attrs().Name, a); err != nil {
		return err
	}
	return in.removeAsked(name)
}

func (in *instance) followOne(l netlink.Link, a bpfAsked) error {
	ifindex := l.Attrs().Index
	d, err := in.device(ifindex)
	if err != nil {
		return err
	}
	if int(a.Ifindex) != ifindex {
		a.Ifindex = uint32(ifindex)
		if err := in.putAsked(l.Attrs().Name, a); err != nil {
			return err
		}
	}
	if a.Tc == bpfAttachmentATTACH_NONE {
		if d.Tc == bpfAttachmentATTACH_AUTO {
			return in.putDevice(ifindex, detached)
		}
		return nil
	}
	if d.Tc < bpfAttachmentATTACH_TCX {
		if err := in.attachTC(l); err != nil {
			return err
		}
	}
	if mode, ok := xdpModes[a.Xdp]; ok && d.Xdp < bpfAttachmentATTACH_XDP_NATIVE {
		return in.attachXDP(l, mode)
	}
	return nil
}

// Await is Attach for interfaces that need not be there: those that are missing are attached to when they come, by the
// next change or by [Director.Watch].
func (d *Director) Await(names []string, mode XDPMode) error {
	for _, name := range names {
		if name == "" || len(name) > maxName {
			return fmt.Errorf("%q: %w", name, ErrNoInterface)
		}
	}
	links, err := allLinks()
	if err != nil {
		return err
	}
	there := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return byName(links, name) == nil })
	if len(there) > 0 {
		if err := d.Attach(there, mode); err != nil {
			return err
		}
	}
	in, err := d.loaded()
	if err != nil {
		return err
	}
	defer in.close()
	for _, name := range names {
		if slices.Contains(there, name) {
			continue
		}
		if err := in.askFor(name, 0, mode); err != nil {
			return err
		}
	}
	return nil
}

// noteAttach writes down what an attach was about: what it has named, or has an XDP program on, is attached to again when it comes back.
func (in *instance) noteAttach(l netlink.Link, named bool, mode XDPMode) error {
	if named || mode != XDPNone {
		return in.askFor(l.Attrs().Name, l.Attrs().Index, mode)
	}
	all, err := in.asked()
	if err == nil && all[l.Attrs().Name].Tc == bpfAttachmentATTACH_NONE {
		err = in.removeAsked(l.Attrs().Name)
	}
	return err
}

// noteDetach writes down that some interfaces are to be left alone, or all if links is nil.
func (in *instance) noteDetach(links []netlink.Link) error {
	if links == nil {
		all, err := in.asked()
		if err != nil {
			return err
		}
		for name := range all {
			if err := in.askNoMore(name, int(all[name].Ifindex)); err != nil {
				return err
			}
		}
	}
	for _, l := range links {
		if err := in.askNoMore(l.Attrs().Name, l.Attrs().Index); err != nil {
			return err
		}
	}
	return nil
}
