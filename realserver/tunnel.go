// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// startTunnel has packets taken out of tunnels. Who does it is decided once, until everything is stopped.
func (in *instance) startTunnel(o Options) error {
	s := &in.state
	if o.Mode == Tunnel {
		ports := o.GUEPorts
		if len(ports) == 0 && len(s.GUEPorts) == 0 {
			ports = []uint16{DefaultGUEPort}
		}
		s.GUEPorts = add(s.GUEPorts, ports...)
		if err := in.decapBy(o.Decap); err != nil {
			return err
		}
	}
	if s.Decap == Kernel {
		return in.startDevices()
	}
	if err := in.pinned(nil, bpfProgRealserverDecap); err != nil {
		return err
	}
	between()
	if err := in.fillVIPs(); err != nil {
		return err
	}
	var ports []uint16
	for _, p := range s.GUEPorts {
		ports = append(ports, swapped(p))
	}
	if err := fill(in, bpfMapGuePorts, ports); err != nil {
		return err
	}
	links, err := attachable()
	if err != nil {
		return err
	}
	for _, l := range links {
		if err := in.loosen(l.Attrs().Name); err != nil {
			return err
		}
		if err := in.attach(l.Attrs().Name); err != nil {
			return err
		}
	}
	return nil
}

func (in *instance) decapBy(who Decap) error {
	s := &in.state
	if s.Decap != "" {
		if who != "" && who != s.Decap {
			return fmt.Errorf("decapsulation by %s while it is by %s: %w: stop that first", who, s.Decap, ErrOptions)
		}
		return nil
	}
	if who == Kernel {
		if err := kernelLacks(); err != nil {
			return fmt.Errorf("decapsulation by the kernel: %w", err)
		}
		s.Decap = Kernel
		return nil
	}
	s.Decap = Program
	return nil
}

func (in *instance) fillVIPs() error {
	var keys [][16]byte
	for _, a := range in.state.VIPs {
		keys = append(keys, key(a))
	}
	return fill(in, bpfMapVips, keys)
}

// loosen lets an interface take packets from clients whose answers leave by another one, as those from a tunnel may. The
// kernel goes by the larger of an interface's value and that of all: 2, loose, prevails over 1, strict.
func (in *instance) loosen(name string) error {
	var strict bool
	for _, on := range []string{"all", name} {
		is, err := readSetting(filterSetting(on))
		if err != nil {
			return err
		}
		if is == "2" {
			return nil
		}
		strict = strict || is == "1"
	}
	if !strict {
		return nil
	}
	return in.make(change{Kind: kindSetting, On: filterSetting(name), To: "2"})
}

func filterSetting(on string) string { return "net/ipv4/conf/" + on + "/rp_filter" }

// device is one of the kernel's that takes packets of any sender out of a tunnel. It comes with its module.
type device struct {
	name, module string
	ipv4         bool // takes out packets of IPv4
}

var devices = []device{
	{"tunl0", "ipip", true}, {"sit0", "sit", false}, {"ip6tnl0", "ip6_tunnel", true}, {"gre0", "ip_gre", true}, {"ip6gre0", "ip6_gre", true},
}

// kernelLacks says what the kernel has no device for, after loading modules.
func kernelLacks() error {
	for _, d := range devices {
		if l, err := onLink(d.name); err != nil || l != nil {
			continue
		}
		_ = exec.Command("modprobe", d.module).Run() // what counts is whether the device is there
		if l, err := onLink(d.name); err != nil {
			return err
		} else if l == nil {
			return fmt.Errorf("no device %s, of module %s: %w", d.name, d.module, ErrOptions)
		}
	}
	for _, m := range []string{"fou", "fou6"} {
		_ = exec.Command("modprobe", m).Run()
	}
	if _, err := netlink.FouList(netlink.FAMILY_V4); err != nil {
		return fmt.Errorf("no GUE, of module fou: %w: %w", ErrOptions, err)
	}
	return nil
}

// startDevices sets up the kernel's devices. Those for IPv4 bear the virtual addresses, or the check of the return path
// would refuse packets even where it is loose.
func (in *instance) startDevices() error {
	for _, d := range devices {
		if err := in.make(change{Kind: kindUp, On: d.name}); err != nil {
			return err
		}
		if !d.ipv4 {
			continue
		}
		if err := in.make(change{Kind: kindSetting, On: filterSetting(d.name), To: "2"}); err != nil {
			return err
		}
		for _, a := range in.state.VIPs {
			if a.Is6() {
				continue
			}
			if err := in.make(change{Kind: kindAddress, On: d.name, To: a.String()}); err != nil {
				return err
			}
		}
	}
	for _, family := range []string{"IPv4", "IPv6"} {
		for _, p := range in.state.GUEPorts {
			if err := in.make(change{Kind: kindFOU, On: family, To: strconv.Itoa(int(p))}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c change) fou() (netlink.Fou, error) {
	port, err := strconv.ParseUint(c.To, 10, 16)
	f := netlink.Fou{Family: netlink.FAMILY_V4, Port: int(port), EncapType: netlink.FOU_ENCAP_GUE}
	if strings.HasSuffix(c.On, "6") {
		f.Family = netlink.FAMILY_V6
	}
	return f, err
}

func fouHolds(_ *instance, c change) (bool, error) {
	want, err := c.fou()
	if err != nil {
		return false, err
	}
	all, err := netlink.FouList(want.Family)
	return slices.ContainsFunc(all, func(f netlink.Fou) bool {
		return f.Family == want.Family && f.Port == want.Port && f.EncapType == want.EncapType
	}), err
}

// addFOU says it to the kernel in its own words: the library names an IP protocol along with GUE, of which kernels have come
// to refuse the number zero.
func addFOU(_ *instance, c change) error {
	f, err := c.fou()
	if err != nil {
		return err
	}
	id, err := netlink.FouFamilyId()
	if err != nil {
		return err
	}
	request := nl.NewNetlinkRequest(id, unix.NLM_F_ACK)
	request.AddData(&nl.Genlmsg{Command: netlink.FOU_CMD_ADD, Version: 1})
	request.AddData(nl.NewRtAttr(netlink.FOU_ATTR_PORT, binary.BigEndian.AppendUint16(nil, uint16(f.Port))))
	request.AddData(nl.NewRtAttr(netlink.FOU_ATTR_TYPE, []byte{byte(f.EncapType)}))
	request.AddData(nl.NewRtAttr(netlink.FOU_ATTR_AF, []byte{byte(f.Family)}))
	_, err = request.Execute(unix.NETLINK_GENERIC, 0)
	return ignore(err, unix.EALREADY)
}

func removeFOU(_ *instance, c change) error {
	f, err := c.fou()
	if err != nil {
		return err
	}
	return ignore(netlink.FouDel(f), unix.ENOENT, unix.EINVAL, os.ErrNotExist)
}

// Names of what became of packets, for operators; see bpf/types.h for the words.
var decapMeanings = map[bpfDecap]Count{
	bpfDecapDECAP_DONE:        {"decapsulated", 0, "taken out of the tunnel"},
	bpfDecapDECAP_MALFORMED:   {"malformed", 0, "lengths that cannot be: left to the kernel"},
	bpfDecapDECAP_FRAGMENT:    {"fragment", 0, "a fragment of a tunnelled packet: left to the kernel; is the director's MTU too large?"},
	bpfDecapDECAP_UNSUPPORTED: {"unsupported", 0, "GRE with key or sequence number, GUE with options: left to the kernel"},
	bpfDecapDECAP_FOREIGN:     {"foreign", 0, "the tunnel ends at another host: left to the kernel"},
	bpfDecapDECAP_CONGESTED:   {"congested", 0, "marked by a congested router, with a sender that does not know of that: dropped"},
	bpfDecapDECAP_FAILED:      {"failed", 0, "the kernel did not let the headers be taken off: dropped"},
}
