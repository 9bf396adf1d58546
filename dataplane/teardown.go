// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs/place"
)

// tearDown unloads what cannot be read: it goes by names alone. What was set for lo before is not known, and stays as it is.
func (d *Director) tearDown() error {
	l, err := place.LockDir(d.place.Path, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer l.Release()
	entries, err := os.ReadDir(d.place.Path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isLinkPin(e.Name()) {
			cutLink(filepath.Join(d.place.Path, e.Name())) // or something else is pinned there
		}
	}
	links, err := allLinks()
	if err != nil {
		return err
	}
	for _, l := range links {
		for _, parent := range clsactParents {
			if ours, e := hasFilter(l, parent); e == nil && ours {
				err = errors.Join(err, netlink.FilterDel(clsactFilter(l.Attrs().Index, -1, parent)))
			}
		}
		if l.Attrs().Name == markDevice {
			err = errors.Join(err, netlink.LinkDel(l))
		}
	}
	for _, f := range families {
		err = errors.Join(err, tearDownRules(f.number))
	}
	if err != nil {
		return err
	}
	return d.place.Remove()
}

// tearDownRules takes the rules away that are ours, and puts the one about local addresses back.
func tearDownRules(family int) error {
	all, err := dump(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
	if err != nil {
		return nil // a kernel without the family
	}
	r := rules{family: family, all: all}
	if slices.ContainsFunc(all, func(o netlink.Rule) bool { return o.Protocol == markProtocol && o.Table == localTable }) && !slices.ContainsFunc(all, isAboutLocal) {
		err = r.add(r.local(0, kernelProtocol))
	}
	for _, o := range all {
		if o.Protocol == markProtocol {
			err = errors.Join(err, r.remove(o))
		}
	}
	return err
}
