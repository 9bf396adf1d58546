// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"lvs"
)

func (in *instance) readInterfaces(s *Status) error {
	devices, err := in.devices()
	if err != nil {
		return err
	}
	all, err := allLinks()
	if err != nil {
		return err
	}
	asked, err := in.asked()
	if err != nil {
		return err
	}
	could, err := attachable()
	if err != nil {
		return err
	}
	cards, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer cards.Close()
	for _, l := range all {
		d, known := devices[uint32(l.Attrs().Index)]
		if !known && !slices.ContainsFunc(could, func(c netlink.Link) bool { return c.Attrs().Index == l.Attrs().Index }) {
			continue
		}
		i := Interface{Name: l.Attrs().Name, Up: l.Attrs().Flags&net.FlagUp != 0}
		i.TC, i.XDP = in.attached(l, d)
		i.Egress = in.attachedOut(l, d)
		switch {
		case i.TC == lost || i.XDP == lost || i.Egress == lost:
			i.Advice = "its program was taken off by somebody else: the next change puts it back, or director attach"
		case asked[i.Name].Xdp > bpfAttachmentATTACH_NONE && i.XDP == "":
			i.Advice = fmt.Sprintf("XDP was asked for, and is not attached: director attach --xdp=%s %s tells why", xdpModes[asked[i.Name].Xdp], i.Name)
		case !known && i.Up:
			i.Advice = fmt.Sprintf("not attached yet: the next change does it, or director attach %s", i.Name)
		case i.XDP != "" && otherXDP(devices, l.Attrs().Index):
			i.Advice = "XDP sends only to interfaces that have it too: attach it to all that packets of the services pass"
		}
		if known {
			i.Advice = strings.Join(append(nonempty(i.Advice), readCard(cards, l, i.XDP).advice(uint32(runtime.NumCPU()))...), "; ")
		}
		s.Interfaces = append(s.Interfaces, i)
	}
	for name, a := range asked {
		if a.Tc != bpfAttachmentATTACH_NONE && byName(all, name) == nil {
			s.Interfaces = append(s.Interfaces, Interface{
				Name: name, Missing: true, Advice: "it is not there: when it comes, the next change attaches to it, or director serve at once",
			})
		}
	}
	slices.SortFunc(s.Interfaces, func(a, b Interface) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func nonempty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// otherXDP says whether another interface is attached to on tc alone.
func otherXDP(devices map[uint32]bpfDevice, but int) bool {
	for i, d := range devices {
		if int(i) != but && d.Tc >= bpfAttachmentATTACH_TCX && d.Xdp < bpfAttachmentATTACH_XDP_NATIVE {
			return true
		}
	}
	return false
}

func (in *instance) attached(l netlink.Link, d bpfDevice) (tc, xdp string) {
	ifindex := l.Attrs().Index
	switch d.Tc {
	case bpfAttachmentATTACH_TCX:
		tc = in.linkState(tcPin(ifindex), "tcx")
	case bpfAttachmentATTACH_CLSACT:
		tc = filterState(l, netlink.HANDLE_MIN_INGRESS)
	}
	if mode, ok := xdpModes[d.Xdp]; ok {
		xdp = in.linkState(xdpPin(ifindex), string(mode))
	}
	return tc, xdp
}

func (in *instance) attachedOut(l netlink.Link, d bpfDevice) string {
	switch d.Out {
	case bpfAttachmentATTACH_TCX:
		return in.linkState(outPin(l.Attrs().Index), "tcx")
	case bpfAttachmentATTACH_CLSACT:
		return filterState(l, netlink.HANDLE_MIN_EGRESS)
	}
	return ""
}

// readMarks tells which marks lead to the program, and what keeps packets with them from getting there.
func (in *instance) readMarks(s *Status) error {
	marks := in.marks()
	for _, f := range families {
		if len(marks[f.family]) == 0 {
			continue
		}
		rules, err := netlink.RuleList(f.number)
		if err != nil {
			return err
		}
		for _, m := range marks[f.family] {
			s.Marks = append(s.Marks, lvs.ServiceID{Family: f.family, Mark: m}.String())
			if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Protocol == markProtocol && r.Mark == m }) {
				s.Advice = append(s.Advice, fmt.Sprintf("no routing rule leads packets with the mark %d to the director: the next change makes it", m))
			}
		}
		if !isOn(f.forwarding) {
			name := strings.ReplaceAll(strings.TrimPrefix(f.forwarding, "/proc/sys/"), "/", ".")
			s.Advice = append(s.Advice, "services by firewall mark need forwarding: sysctl -w "+name+"=1, and then director attach")
		}
	}
	return nil
}

// lost is what is attached no more, and was not taken off by us.
const lost = "lost"

func filterState(l netlink.Link, parent uint32) string {
	if has, err := hasClsact(l); err == nil && !has {
		return lost
	}
	if has, err := hasFilter(l, parent); err == nil && !has {
		return lost
	}
	return "clsact"
}

func (in *instance) linkState(pin, name string) string {
	l, err := link.LoadPinnedLink(filepath.Join(in.dir, pin), nil)
	if err != nil {
		return lost
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return lost
	}
	if isCut(info) {
		return lost
	}
	return name
}
