// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"lvs/place"
)

// hooks are where the programs for FULLNAT are attached, in the order that leaves no client half known.
var hooks = []struct {
	program string
	attach  ebpf.AttachType
}{
	{bpfProgRealserverPeer4, ebpf.AttachCgroupInet4GetPeername},
	{bpfProgRealserverPeer6, ebpf.AttachCgroupInet6GetPeername},
	{bpfProgRealserverLearn, ebpf.AttachCGroupSockOps},
}

// startFullNAT has sockets learn their clients. The programs are attached to the root of all control groups, and look
// only at sockets of this namespace.
func (in *instance) startFullNAT() error {
	cookie, err := place.Cookie()
	if err != nil {
		return err
	}
	var names []string
	for _, h := range hooks {
		names = append(names, h.program)
	}
	if err := in.pinned(map[string]any{bpfVarNamespaceCookie: cookie}, names...); err != nil {
		return err
	}
	between()
	var keys []bpfPrefix
	for _, p := range in.state.Directors {
		keys = append(keys, prefixKey(p))
	}
	if err := fill(in, bpfMapDirectors, keys); err != nil {
		return err
	}
	root, err := rootGroup()
	if err != nil {
		return err
	}
	defer root.Close()
	path := fmt.Sprintf("/proc/self/fd/%d", root.Fd())
	for _, h := range hooks {
		if err := in.attachGroup(path, h.program, h.attach); err != nil {
			return fmt.Errorf("attach %s to all control groups: %w", h.program, err)
		}
		between()
	}
	return nil
}

func prefixKey(p netip.Prefix) bpfPrefix {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	k := bpfPrefix{Bits: uint32(bits)}
	a := p.Addr().As16()
	for i := range k.Addr {
		k.Addr[i] = nativeWord(a[4*i:])
	}
	return k
}

func groupPin(program string) string { return "on-" + program }

func (in *instance) attachGroup(root, program string, how ebpf.AttachType) error {
	pin := in.pin(groupPin(program))
	if _, err := os.Stat(pin); err == nil {
		return nil
	}
	p, err := ebpf.LoadPinnedProgram(in.pin(program), nil)
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: root, Attach: how, Program: p})
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(pin)
}

// rootGroup opens the root of all control groups by a mount of its own that nobody else sees, for it need not be mounted where we are:
// `ip netns exec` hides what is. What is attached there stays attached.
func rootGroup() (*os.File, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("control groups of version 2, which FULLNAT's programs are attached to: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("mount control groups: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount control groups: %w", err)
	}
	return os.NewFile(uintptr(fd), "cgroup2"), nil
}

var toaMeanings = map[bpfToa]Count{
	bpfToaTOA_TAKEN:     {"learned", 0, "connections whose client is known"},
	bpfToaTOA_UNTRUSTED: {"untrusted", 0, "clients named by somebody who is no director: not believed"},
	bpfToaTOA_MALFORMED: {"malformed", 0, "options of a wrong length"},
}
