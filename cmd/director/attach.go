// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"lvs/dataplane"
)

type attachVerb struct {
	XDP        string   `name:"xdp" enum:",native,generic" default:"" placeholder:"native" help:"Attach to the XDP hook too, in front of tc: in the driver (--xdp), or after it (--xdp=generic)."`
	Conns      int      `default:"${conns}" placeholder:"N" help:"Connections that there is room for, if nothing is loaded yet (default ${conns})."`
	Services   int      `default:"${services}" placeholder:"N" help:"Services, likewise (default ${services})."`
	Servers    int      `default:"${servers}" placeholder:"N" help:"Servers of all services, likewise (default ${servers})."`
	Interfaces []string `arg:"" optional:"" name:"interface" help:"Interfaces; all that are up, if none is named."`
}

// Help is what --help adds.
func (attachVerb) Help() string {
	return `The first ipvsadm command that changes something does this by itself, for all interfaces that are up, on tc.

Examples:
  director attach                       all interfaces that are up
  director attach --xdp eth0 eth1       the fast way, on both sides of NAT
  director attach --xdp=generic eth0    XDP on an interface whose driver has none, to try it
  director attach --conns 4000000       more room than usual, before the first service`
}

// Run attaches.
func (v attachVerb) Run() error {
	d, err := dataplane.Open(dataplane.Sizes{Conns: v.Conns, Services: v.Services, Servers: v.Servers})
	if err != nil {
		return err
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
	d, err := dataplane.Open(dataplane.DefaultSizes)
	if err != nil {
		return err
	}
	if err := d.Unload(); err != nil {
		return fmt.Errorf("unload: %w", err)
	}
	return rollbackOf(d).forget()
}
