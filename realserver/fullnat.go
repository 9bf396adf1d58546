// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

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
	for _, h := range hooks {
		if err := in.attachGroup(root, h.program, h.attach); err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.program, root, err)
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

var errNoGroups = errors.New("no cgroup2 file system is mounted, which FULLNAT's programs are attached to")

// rootGroup finds where the root of all control groups is mounted. A mount made for a command only will do: what
// is attached there stays attached.
func rootGroup() (string, error) {
	mounts, err := os.ReadFile("/proc/1/mountinfo")
	if err != nil {
		if mounts, err = os.ReadFile("/proc/self/mountinfo"); err != nil {
			return "", err
		}
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if i := slices.Index(f, "-"); i > 5 && i+1 < len(f) && f[i+1] == "cgroup2" && f[3] == "/" {
			for _, path := range []string{f[4], "/proc/1/root" + f[4]} {
				if _, err := os.Stat(path + "/cgroup.procs"); err == nil {
					return path, nil
				}
			}
		}
	}
	return "", errNoGroups
}

var toaMeanings = map[bpfToa]Count{
	bpfToaTOA_TAKEN:     {"learned", 0, "connections whose client is known"},
	bpfToaTOA_UNTRUSTED: {"untrusted", 0, "clients named by somebody who is no director: not believed"},
	bpfToaTOA_MALFORMED: {"malformed", 0, "options of a wrong length"},
}
