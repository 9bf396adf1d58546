// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"lvs/dataplane"
)

// room is for how many of something there is room; 0 if that was not said.
type room int

// UnmarshalText reads a number, in units of K or M if it ends so.
func (r *room) UnmarshalText(text []byte) error {
	digits, unit := strings.TrimRight(string(text), "kKmM"), 1
	switch string(text[len(digits):]) {
	case "":
	case "k", "K":
		unit = 1 << 10
	case "m", "M":
		unit = 1 << 20
	default:
		return fmt.Errorf("%s: not a number, nor one with K or M behind it", text)
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || n == 0 || n > math.MaxInt/uint64(unit) {
		return fmt.Errorf("%s: not a number from 1 on, nor one with K or M behind it", text)
	}
	*r = room(n) * room(unit)
	return nil
}

type attachVerb struct {
	XDP        string   `name:"xdp" enum:",native,generic" default:"" placeholder:"native" help:"Attach to the XDP hook too, in front of tc: in the driver (--xdp), or after it (--xdp=generic)."`
	Accounting bool     `name:"conn-accounting" help:"Count each connection's packets and bytes, and keep its age, if nothing is loaded yet: 'director conns' shows them."`
	Conns      room     `placeholder:"N" help:"Connections that there is room for, ${conns} unless you say otherwise, up to ${max_conns}; K and M stand for 1,024 and 1,048,576."`
	Services   room     `placeholder:"N" help:"Services, likewise (${services})."`
	Servers    room     `placeholder:"N" help:"Servers of all services, likewise (${servers})."`
	Later      bool     `help:"The interfaces need not be there yet: they are attached to when they come."`
	Interfaces []string `arg:"" optional:"" name:"interface" help:"Interfaces; all that are up, if none is named."`
}

// Help is what --help adds.
func (attachVerb) Help() string {
	return `The first ipvsadm command that changes something does this by itself, for all interfaces that are up, on tc.

The connection table takes 91 bytes of memory for each connection that there is room for; 'director status' tells how much that is. The number is
rounded up to a multiple of 192. With --conn-accounting it is 139 bytes, and each packet touches one more cache line. What is loaded keeps its sizes until 'director unload'.

Examples:
  director attach                       all interfaces that are up
  director attach --xdp eth0 eth1       the fast way, on both sides of NAT
  director attach --xdp=generic eth0    XDP on an interface whose driver has none, to try it
  director attach --conns 4M            more room than usual, before the first service`
}

// Run attaches.
func (v attachVerb) Run() error {
	d, err := dataplane.Open(dataplane.Sizes{Conns: int(v.Conns), Services: int(v.Services), Servers: int(v.Servers), Accounting: v.Accounting})
	if err != nil {
		return err
	}
	if v.Later {
		return d.Await(v.Interfaces, dataplane.XDPMode(v.XDP))
	}
	return d.Attach(v.Interfaces, dataplane.XDPMode(v.XDP))
}

type detachVerb struct {
	Interfaces []string `arg:"" optional:"" name:"interface" help:"Interfaces; all, if none is named."`
}

// Help is what --help adds.
func (detachVerb) Help() string {
	return `Services and connections stay, and are there again after an attach. Interfaces are left as they were before.

Examples:
  director detach eth1
  director detach`
}

// Run detaches.
func (v detachVerb) Run() error {
	d, err := openDataplane()
	if err != nil {
		return err
	}
	return d.Detach(v.Interfaces)
}

type unloadVerb struct{}

// Help is what --help adds.
func (unloadVerb) Help() string {
	return `Nothing of the director is left in the kernel afterwards: no program, no service, no connection.

Example:
  director unload`
}

// Run unloads.
func (unloadVerb) Run() error {
	d, err := dataplane.Open(dataplane.Sizes{})
	if err != nil {
		return err
	}
	if err := d.Unload(); err != nil {
		return fmt.Errorf("unload: %w", err)
	}
	return rollbackOf(d).forget()
}
