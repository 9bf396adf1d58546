// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
)

// card is how a network interface is set, as far as forwarding cares. What a driver does not tell is zero.
type card struct {
	name   string
	queues uint32 // that packets are received in
	most   uint32 // that it can have
	lro    bool   // packets are merged for good, which nobody may forward
	xdp    string
	// Of the other end of a veth pair: its name if it drops what XDP sends there, if it leaves checksums to a device that never comes, and
	// whether it is in another namespace, so that nobody knows.
	deaf, partial string
	hidden        bool
}

// advice says what is set badly.
func (c card) advice(cpus uint32) (all []string) {
	if c.lro {
		all = append(all, fmt.Sprintf("LRO merges packets that are to go on: ethtool -K %s lro off", c.name))
	}
	if c.xdp == "generic" {
		all = append(all, "XDP is generic here, without the driver, and slower than tc alone: director attach without --xdp")
	}
	if want := min(cpus, c.most); c.queues < want {
		all = append(all, fmt.Sprintf("%d of %d CPUs receive: ethtool -L %s combined %d", c.queues, cpus, c.name, want))
	}
	if c.deaf != "" {
		all = append(all, fmt.Sprintf("%s drops what XDP sends out of %s: ethtool -K %s gro on", c.deaf, c.name, c.deaf))
	}
	if c.partial != "" {
		all = append(all, fmt.Sprintf("%s sends packets without whole checksums, which XDP cannot mend: ethtool -K %s tx off", c.partial, c.partial))
	}
	if c.hidden {
		all = append(all, "its other end, in another namespace, must take what XDP sends and make its own checksums: there, ethtool -K NAME gro on tx off")
	}
	return all
}

// readCard asks how an interface is set.
func readCard(e *ethtool.Ethtool, l netlink.Link, xdp string) card {
	c := card{name: l.Attrs().Name, xdp: xdp}
	if n, err := e.GetChannels(c.name); err == nil {
		c.queues, c.most = n.CombinedCount+n.RxCount, n.MaxCombined
	}
	if features, err := e.Features(c.name); err == nil {
		c.lro = features["rx-lro"]
	}
	if l.Type() == "veth" && xdp == "native" {
		c.readPeer(e, l)
	}
	return c
}

// readPeer asks about the other end of a veth pair. One in another namespace is out of sight.
func (c *card) readPeer(e *ethtool.Ethtool, l netlink.Link) {
	if c.hidden = l.Attrs().NetNsID >= 0; c.hidden || l.Attrs().ParentIndex <= 0 {
		return
	}
	peer, err := netlink.LinkByIndex(l.Attrs().ParentIndex)
	if err != nil {
		return
	}
	name, xdp := peer.Attrs().Name, peer.Attrs().Xdp != nil && peer.Attrs().Xdp.Attached
	features, err := e.Features(name)
	if err != nil {
		return
	}
	if !xdp && !features["rx-gro"] {
		c.deaf = name
	}
	if features["tx-checksum-ip-generic"] {
		c.partial = name
	}
}
