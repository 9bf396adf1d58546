// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs/place"
)

// Interfaces come and go, and the kernel knows programs by an interface's index, which is another one when it comes back. What an
// operator has asked for is kept by name; what is attached, by index.

// Follow brings what is attached up to the interfaces that there are now, and tells of those that it cannot attach to. Where nothing is
// loaded there is nothing to do.
func (d *Director) Follow(tell func(error)) error {
	in, err := d.open(unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.close()
	return in.follow(tell)
}

// Watch follows the interfaces until the context ends. It tells of what goes wrong, and goes on.
func (d *Director) Watch(ctx context.Context, tell func(error)) error {
	for ctx.Err() == nil {
		if err := d.watch(ctx, tell); err != nil {
			return err
		}
	}
	return nil
}

// watch follows the interfaces until the context ends, or the kernel could not tell of all changes.
func (d *Director) watch(ctx context.Context, tell func(error)) error {
	const together = 100 * time.Millisecond // changes that come at once are followed at once
	listening, stop := context.WithCancel(ctx)
	defer stop()
	updates := make(chan netlink.LinkUpdate, 64)
	if err := netlink.LinkSubscribe(updates, listening.Done()); err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	for due := time.After(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-updates:
			if !ok {
				return nil
			}
			if due == nil {
				due = time.After(together)
			}
		case <-due:
			due = nil
			if err := d.Follow(tell); err != nil {
				tell(err)
			}
		}
	}
}

// follow attaches to interfaces that are new, that were asked for and have come, and that somebody has taken the program off; and
// forgets those that are gone. What cannot be attached where it was asked for is told, and is no failure of the command that comes by.
func (in *instance) follow(tell func(error)) error {
	links, err := allLinks()
	if err != nil {
		return err
	}
	devices, err := in.devices()
	if err != nil {
		return err
	}
	if err := in.anchor(); err != nil {
		return err
	}
	everywhere := in.outEverywhere(devices)
	for ifindex, d := range devices {
		l := byIndex(links, int(ifindex))
		if l == nil {
			err = in.forget(int(ifindex))
		} else {
			err = stillThere(l, in.restoreLost(l, d))
		}
		if err != nil {
			return err
		}
	}
	if err := in.followAsked(links, tell); err != nil {
		return err
	}
	if err := in.attachNew(); err != nil || !everywhere {
		return err
	}
	return in.attachOutEverywhere()
}

// anchor attaches anew what tells that the namespace is there, if somebody has taken it off.
func (in *instance) anchor() error {
	if there, err := place.Anchored(in.dir); there || err != nil {
		return err
	}
	tc, err := in.program("tc")
	if err != nil {
		return err
	}
	defer tc.Close()
	lookup, err := in.program(lookupPin)
	if err != nil {
		return err
	}
	defer lookup.Close()
	os.Remove(filepath.Join(in.dir, place.AnchorPin))
	return place.Anchor(in.dir, tc, lookup)
}

// outEverywhere says whether the egress of all interfaces is attached to, for servers that are the director itself.
func (in *instance) outEverywhere(devices map[uint32]bpfDevice) bool {
	s, err := in.settings()
	for ifindex, d := range devices {
		if err == nil && ifindex != 1 && ifindex != s.Device && d.Out >= bpfAttachmentATTACH_TCX {
			return true
		}
	}
	return false
}

// forget removes what is left of an interface that is gone.
func (in *instance) forget(ifindex int) error {
	for _, pin := range []string{tcPin(ifindex), xdpPin(ifindex), outPin(ifindex)} {
		if err := os.Remove(filepath.Join(in.dir, pin)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	m, err := in.m(bpfMapDevices)
	if err != nil {
		return err
	}
	if err := m.Delete(uint32(ifindex)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

// restoreLost attaches again what somebody else has taken off. What cannot be is told by the status: it may be in somebody else's place now.
func (in *instance) restoreLost(l netlink.Link, d bpfDevice) error {
	tc, xdp := in.attached(l, d)
	if d.Xdp >= bpfAttachmentATTACH_XDP_NATIVE {
		if err := in.putMAC(l); err != nil { // it may have another one now
			return err
		}
	}
	for _, hook := range []struct {
		lost   bool
		state  *bpfAttachment
		attach func() error
	}{
		{tc == lost, &d.Tc, func() error { return in.attachTC(l) }},
		{xdp == lost, &d.Xdp, func() error { return in.attachXDP(l, xdpModes[d.Xdp]) }},
		{in.attachedOut(l, d) == lost, &d.Out, func() error { return in.attachOut(l) }},
	} {
		if !hook.lost {
			continue
		}
		was := d
		*hook.state = bpfAttachmentATTACH_AUTO
		if err := in.putDevice(l.Attrs().Index, d); err != nil {
			return err
		}
		d = was
		if err := hook.attach(); err != nil {
			return in.putDevice(l.Attrs().Index, was)
		}
		var err error
		if d, err = in.device(l.Attrs().Index); err != nil {
			return err
		}
	}
	return nil
}

// stillThere gives an error about an interface, unless it has gone meanwhile.
func stillThere(l netlink.Link, err error) error {
	if err == nil {
		return nil
	}
	if _, gone := netlink.LinkByIndex(l.Attrs().Index); gone != nil && ignoreNotFound(gone) == nil {
		return nil
	}
	return err
}

func byIndex(links []netlink.Link, ifindex int) netlink.Link {
	for _, l := range links {
		if l.Attrs().Index == ifindex {
			return l
		}
	}
	return nil
}

func byName(links []netlink.Link, name string) netlink.Link {
	for _, l := range links {
		if l.Attrs().Name == name {
			return l
		}
	}
	return nil
}

// dump asks the kernel for a list again if it has changed meanwhile.
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func allLinks() ([]netlink.Link, error) {
	all, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list of interfaces: %w", err)
	}
	return all, nil
}
