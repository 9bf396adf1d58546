// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// XDPMode is how a program is attached to an interface's XDP hook.
type XDPMode string

// The modes: not at all; in the driver; or, for drivers without XDP and for tests, in the kernel after the driver,
// which is not faster than tc.
const (
	XDPNone    XDPMode = ""
	XDPNative  XDPMode = "native"
	XDPGeneric XDPMode = "generic"
)

// ErrNoInterface says that there is no interface of a name.
var ErrNoInterface = errors.New("no such interface")

// Attach attaches to interfaces by name, or, if none is named, to all that are up; on tc always, on XDP as mode
// says. Services by mark get what they need again, if something was missing. It loads the instance if there is none. All names are checked before anything changes.
func (d *Director) Attach(names []string, mode XDPMode) error {
	links, err := linksByName(names)
	if err != nil {
		return err
	}
	if err := d.fixedSize(); err != nil {
		return err
	}
	in, err := d.loaded()
	if err != nil {
		return err
	}
	defer in.close()
	if len(names) == 0 {
		if links, err = attachable(); err != nil {
			return err
		}
		if err := in.attachLo(bpfAttachmentATTACH_NONE); err != nil {
			return err
		}
	}
	before, err := in.devices()
	if err != nil {
		return err
	}
	for i, l := range links {
		err := in.attachTC(l)
		if len(names) == 0 {
			err = stillThere(l, err)
		}
		if err == nil && mode != XDPNone {
			err = in.attachXDP(l, mode)
		}
		if err != nil {
			return errors.Join(err, in.restore(links[:i+1], before))
		}
	}
	for _, l := range links {
		if err := in.noteAttach(l, len(names) > 0, mode); err != nil {
			return err
		}
	}
	return in.steer(in.marks(), true)
}

// restore takes off interfaces what was not attached before.
func (in *instance) restore(links []netlink.Link, before map[uint32]bpfDevice) error {
	for _, l := range links {
		ifindex := l.Attrs().Index
		was := before[uint32(ifindex)]
		is, err := in.device(ifindex)
		if err != nil {
			return err
		}
		if is.Xdp != was.Xdp {
			os.Remove(filepath.Join(in.dir, xdpPin(ifindex)))
			is.Xdp, is.XdpTx = was.Xdp, was.XdpTx
		}
		if is.Tc != was.Tc {
			if err := in.detachDevice(ifindex, is); err != nil {
				return err
			}
			is = was
		}
		if err := in.putDevice(ifindex, is); err != nil {
			return err
		}
	}
	return nil
}

// Detach takes the programs off interfaces by name, or off all if none is named. They stay off until they are attached
// by name again; what services by mark need goes, too, until the next change. Services and connections stay.
func (d *Director) Detach(names []string) error {
	links, err := linksByName(names)
	if err != nil {
		return err
	}
	in, err := d.open(unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.close()
	if err := in.noteDetach(links); err != nil {
		return err
	}
	if len(names) > 0 {
		return in.detach(links)
	}
	if err := in.steer(nil, true); err != nil {
		return err
	}
	return in.detach(nil)
}

func linksByName(names []string) ([]netlink.Link, error) {
	var links []netlink.Link
	for _, name := range names {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, errors.Join(ErrNoInterface, ignoreNotFound(err)))
		}
		if !isEthernet(l) {
			return nil, fmt.Errorf("%s: it is of kind %s and carries no Ethernet frames, which the program needs", name, l.Attrs().EncapType)
		}
		links = append(links, l)
	}
	return links, nil
}

func ignoreNotFound(err error) error {
	if _, ok := errors.AsType[netlink.LinkNotFoundError](err); ok {
		return nil
	}
	return err
}

func isEthernet(l netlink.Link) bool { return l.Attrs().EncapType == "ether" }

// attachable gives the interfaces that are up and that packets come in by in their own name: not lo, and not the ports of
// a bridge or a bond, whose packets are seen on that.
func attachable() ([]netlink.Link, error) {
	all, err := allLinks()
	if err != nil {
		return nil, err
	}
	masters := map[int]string{}
	for _, l := range all {
		masters[l.Attrs().Index] = l.Type()
	}
	return slices.DeleteFunc(all, func(l netlink.Link) bool {
		a := l.Attrs()
		port := a.MasterIndex != 0 && masters[a.MasterIndex] != "vrf"
		return a.Flags&net.FlagUp == 0 || !isEthernet(l) || port || a.Name == markDevice || a.Name == markPeer
	}), nil
}

func tcPin(ifindex int) string  { return fmt.Sprintf("tc-%d", ifindex) }
func xdpPin(ifindex int) string { return fmt.Sprintf("xdp-%d", ifindex) }

// device reads what is attached to an interface; the zero value is an interface that was never attached to.
func (in *instance) device(ifindex int) (d bpfDevice, err error) {
	m, err := in.m(bpfMapDevices)
	if err != nil {
		return d, err
	}
	if err = m.Lookup(uint32(ifindex), &d); errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	return d, err
}

func (in *instance) putDevice(ifindex int, d bpfDevice) error {
	m, err := in.m(bpfMapDevices)
	if err != nil {
		return err
	}
	return m.Put(uint32(ifindex), d)
}

// attachNew attaches to the interfaces that are up and that nobody has attached to or detached from.
func (in *instance) attachNew() error {
	links, err := attachable()
	if err != nil {
		return err
	}
	for _, l := range links {
		d, err := in.device(l.Attrs().Index)
		if err != nil {
			return err
		}
		if d.Tc == bpfAttachmentATTACH_AUTO {
			if err := stillThere(l, in.attachTC(l)); err != nil {
				return err
			}
		}
	}
	return in.attachLo(bpfAttachmentATTACH_AUTO)
}

func (in *instance) program(pin string) (*ebpf.Program, error) {
	p, err := ebpf.LoadPinnedProgram(filepath.Join(in.dir, pin), nil)
	if err == nil && !isProgram(p, programPins[pin]) {
		p.Close()
		err = errForeign
	}
	if err != nil {
		return nil, pinError(pin, err)
	}
	return p, nil
}

func (in *instance) attachTC(l netlink.Link) error {
	ifindex, name := l.Attrs().Index, l.Attrs().Name
	d, err := in.device(ifindex)
	if err != nil {
		return err
	}
	if d.Tc >= bpfAttachmentATTACH_TCX {
		return nil
	}
	p, err := in.program("tc")
	if err != nil {
		return err
	}
	defer p.Close()
	t, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		defer t.Close()
		pin := filepath.Join(in.dir, tcPin(ifindex))
		os.Remove(pin) // of an attempt that was cut short
		if err := t.Pin(pin); err != nil {
			return fmt.Errorf("attach to %s: %w", name, err)
		}
		d.Tc = bpfAttachmentATTACH_TCX
		return in.putDevice(ifindex, d)
	case errors.Is(err, ebpf.ErrNotSupported):
		d.Tc = bpfAttachmentATTACH_CLSACT
		return in.attachClsact(l, p, d, netlink.HANDLE_MIN_INGRESS)
	}
	return fmt.Errorf("attach to %s: %w", name, err)
}

func (in *instance) attachXDP(l netlink.Link, mode XDPMode) error {
	ifindex, name := l.Attrs().Index, l.Attrs().Name
	d, err := in.device(ifindex)
	if err != nil {
		return err
	}
	want, flags := bpfAttachmentATTACH_XDP_NATIVE, link.XDPDriverMode
	if mode == XDPGeneric {
		want, flags = bpfAttachmentATTACH_XDP_GENERIC, link.XDPGenericMode
	}
	if d.Xdp == want {
		return nil
	}
	if d.Xdp >= bpfAttachmentATTACH_XDP_NATIVE {
		return fmt.Errorf("attach to %s: it is attached in %s mode; detach it first (director detach %s)", name, xdpModes[d.Xdp], name)
	}
	if err := in.putMAC(l); err != nil {
		return fmt.Errorf("attach to %s: %w", name, err)
	}
	p, err := in.program("xdp")
	if err != nil {
		return err
	}
	defer p.Close()
	x, err := link.AttachXDP(link.XDPOptions{Interface: ifindex, Program: p, Flags: flags})
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("attach to %s: another XDP program is attached there (ip link show %s): %w", name, name, err)
	case errors.Is(err, unix.EOPNOTSUPP) && mode == XDPNative:
		return fmt.Errorf("attach to %s: its driver has no XDP, or not with these settings (MTU, LRO); --xdp=generic works everywhere: %w", name, err)
	case err != nil:
		return fmt.Errorf("attach XDP to %s: %w", name, err)
	}
	defer x.Close()
	pin := filepath.Join(in.dir, xdpPin(ifindex))
	os.Remove(pin)
	if err := x.Pin(pin); err != nil {
		return fmt.Errorf("attach XDP to %s: %w", name, err)
	}
	d.Xdp, d.XdpTx = want, 1
	if l.Type() == "veth" && mode == XDPNative {
		d.XdpTx = 0 // the peer takes what XDP_TX sends only if it has an XDP program itself
	}
	return in.putDevice(ifindex, d)
}

// putMAC tells the XDP program which frames on an interface are for this host.
func (in *instance) putMAC(l netlink.Link) error {
	m, err := in.m(bpfMapMacs)
	if err != nil {
		return err
	}
	ifindex := uint32(l.Attrs().Index)
	if ifindex >= m.MaxEntries() {
		return fmt.Errorf("its index %d is beyond %d, which XDP is built for", ifindex, m.MaxEntries())
	}
	var mac [8]byte
	copy(mac[:], l.Attrs().HardwareAddr)
	return m.Put(ifindex, mac)
}

var xdpModes = map[bpfAttachment]XDPMode{bpfAttachmentATTACH_XDP_NATIVE: XDPNative, bpfAttachmentATTACH_XDP_GENERIC: XDPGeneric}

// devices gives what is attached, by interface index.
func (in *instance) devices() (map[uint32]bpfDevice, error) {
	m, err := in.m(bpfMapDevices)
	if err != nil {
		return nil, err
	}
	all := map[uint32]bpfDevice{}
	var i uint32
	var d bpfDevice
	for it := m.Iterate(); ; {
		if !it.Next(&i, &d) {
			return all, it.Err()
		}
		all[i] = d
	}
}

// detach takes the programs off some interfaces, or off all if links is nil.
func (in *instance) detach(links []netlink.Link) error {
	all, err := in.devices()
	if err != nil {
		return err
	}
	for ifindex, d := range all {
		named := slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == int(ifindex) })
		if links != nil && !named {
			continue
		}
		if err := in.detachDevice(int(ifindex), d); err != nil {
			return err
		}
	}
	for _, l := range links {
		if err := in.putDevice(l.Attrs().Index, detached); err != nil {
			return err
		}
	}
	return nil
}

func (in *instance) detachDevice(ifindex int, d bpfDevice) error {
	for _, pin := range []string{xdpPin(ifindex), tcPin(ifindex), outPin(ifindex)} {
		if err := cutLink(filepath.Join(in.dir, pin)); err != nil {
			return fmt.Errorf("detach interface %d: %w", ifindex, err)
		}
	}
	if d.Tc == bpfAttachmentATTACH_CLSACT || d.Out == bpfAttachmentATTACH_CLSACT {
		if err := removeClsact(ifindex, d.MadeClsact != 0); err != nil {
			return fmt.Errorf("detach interface %d: %w", ifindex, err)
		}
	}
	return in.putDevice(ifindex, detached)
}

// detached is an interface that nothing is attached to before somebody asks for it.
var detached = bpfDevice{Tc: bpfAttachmentATTACH_NONE, Xdp: bpfAttachmentATTACH_NONE, Out: bpfAttachmentATTACH_NONE}

// cutLink ends a pinned link at once. Removing its pin alone would leave that to the kernel's next quiet moment.
func cutLink(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	return errors.Join(l.Detach(), l.Unpin())
}
