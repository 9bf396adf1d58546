// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
)

// segment is what interfaces are plugged into: a wire between two ends, or a switch.
type segment struct {
	name string
	ends []end
	hub  *Host // the namespace of the switch; nil for a wire
}

// end is one interface of one host.
type end struct {
	host  *Host
	iface string
	mac   net.HardwareAddr
}

const bridge = "switch"

// connect makes the interfaces. They are created inside the hosts, so that nothing on the machine sees them.
func (s *segment) connect() error {
	if s.hub == nil {
		return wire(s.ends[0], s.ends[1])
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	err := s.hub.Do(func() error {
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("adding a bridge: %w", err)
		}
		return setUp(bridge)
	})
	for _, e := range s.ends {
		if err != nil {
			return err
		}
		err = s.plug(e)
	}
	return err
}

// plug wires an end to a port of the switch that has the name of the host.
func (s *segment) plug(e end) error {
	if err := wire(e, s.port(e)); err != nil {
		return err
	}
	return s.hub.Do(func() error {
		port, err := netlink.LinkByName(e.host.Name)
		if err != nil {
			return err
		}
		hub, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(port, hub)
	})
}

func (s *segment) port(e end) end { return end{host: s.hub, iface: e.host.Name} }

// wire makes a veth pair, both ends up.
func wire(a, b end) error {
	peer, err := b.host.open()
	if err != nil {
		return err
	}
	defer peer.Close()
	err = a.host.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = a.iface, a.mac
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.iface, PeerHardwareAddr: b.mac, PeerNamespace: netlink.NsFd(peer.Fd())}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("adding %s and %s: %w", a.iface, b.iface, err)
		}
		return setUp(a.iface)
	})
	if err != nil {
		return err
	}
	return b.host.Do(func() error { return setUp(b.iface) })
}

func setUp(iface string) error {
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// tune sets the offloads of the interfaces, which can only be done once both ends of each wire are up. An XDP
// program gets frames as they are: they must carry whole checksums, and a redirected frame is taken in only by
// an interface that polls, which a veth does when GRO is on.
func (s *segment) tune(xdp bool) error {
	if !xdp {
		return nil
	}
	ends := slices.Clone(s.ends)
	if s.hub != nil {
		for _, e := range s.ends {
			ends = append(ends, s.port(e))
		}
	}
	for _, e := range ends {
		err := e.host.Do(func() error {
			if err := setFeature(e.iface, setTxChecksum, false); err != nil {
				return err
			}
			return setFeature(e.iface, setGRO, true)
		})
		if err != nil {
			return fmt.Errorf("offloads of %s in %s: %w", e.iface, e.host.Name, err)
		}
	}
	return nil
}
