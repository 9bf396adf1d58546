// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"lvs"
)

// The egress of interfaces: of lo, for local clients; of all, for servers that are the director itself; and of the device for
// packets with marks.

func outPin(ifindex int) string { return fmt.Sprintf("out-%d", ifindex) }

// attachOut attaches to the way out of an interface.
func (in *instance) attachOut(l netlink.Link) error {
	ifindex, name := l.Attrs().Index, l.Attrs().Name
	d, err := in.device(ifindex)
	if err != nil || d.Out >= bpfAttachmentATTACH_TCX {
		return err
	}
	p, err := in.program("out")
	if err != nil {
		return err
	}
	defer p.Close()
	t, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: ebpf.AttachTCXEgress})
	switch {
	case err == nil:
		defer t.Close()
		pin := filepath.Join(in.dir, outPin(ifindex))
		os.Remove(pin)
		if err := t.Pin(pin); err != nil {
			return fmt.Errorf("attach to the egress of %s: %w", name, err)
		}
		d.Out = bpfAttachmentATTACH_TCX
		return in.putDevice(ifindex, d)
	case errors.Is(err, ebpf.ErrNotSupported):
		d.Out = bpfAttachmentATTACH_CLSACT
		return in.attachClsact(l, p, d, netlink.HANDLE_MIN_EGRESS)
	}
	return fmt.Errorf("attach to the egress of %s: %w", name, err)
}

// attachLo attaches to the egress of lo, by which local clients reach addresses of the director, if it is not beyond a state.
func (in *instance) attachLo(most bpfAttachment) error {
	l, err := netlink.LinkByIndex(1)
	if err != nil {
		return err
	}
	d, err := in.device(1)
	if err != nil || d.Out > most {
		return err
	}
	return in.attachOut(l)
}

// answerHere attaches to the egress of all interfaces if a server among the records is the director itself, whose answers are
// to be rewritten.
func (in *instance) answerHere(records []*record) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list of addresses: %w", err)
	}
	local := func(d bpfServer) bool {
		return lvs.Forward(d.Forward) == lvs.Masq && slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
			return a.IP.Equal(fromAddr(d.Addr).AsSlice())
		})
	}
	if !slices.ContainsFunc(records, func(r *record) bool { return slices.ContainsFunc(r.servers, local) }) {
		return nil
	}
	return in.attachOutEverywhere()
}

func (in *instance) attachOutEverywhere() error {
	links, err := attachable()
	if err != nil {
		return err
	}
	for _, l := range links {
		d, err := in.device(l.Attrs().Index)
		if err == nil && d.Tc >= bpfAttachmentATTACH_TCX {
			err = stillThere(l, in.attachOut(l))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
