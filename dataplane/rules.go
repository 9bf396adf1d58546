// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	localTable     = 255
	kernelProtocol = 2 // RTPROT_KERNEL, which the rules have that the kernel makes
)

// rules are the routing rules of a family.
type rules struct {
	*instance
	family   int
	bit      uint32
	settings *bpfSetting
	all      []netlink.Rule
}

// become makes the rules lead these marks to the device, and, if exact, no others.
func (r *rules) become(marks []uint32, exact bool) (err error) {
	if r.all, err = dump(func() ([]netlink.Rule, error) { return netlink.RuleList(r.family) }); err != nil {
		if len(marks) == 0 {
			return nil // a kernel without the family
		}
		return err
	}
	var want []netlink.Rule
	switch {
	case len(marks) > 0:
		local, err := r.moveLocal()
		if err != nil {
			return err
		}
		want = append(want, r.wanted(marks, local)...)
		for _, w := range want {
			if err := r.add(w); err != nil {
				return err
			}
		}
		if r.settings.LocalMoved&r.bit != 0 {
			if err := r.remove(r.local(0, 0)); err != nil {
				return err
			}
		}
	case exact:
		if err := r.restoreLocal(); err != nil {
			return err
		}
	}
	if !exact {
		return nil
	}
	for _, o := range r.all {
		ours := o.Protocol == markProtocol
		if ours && !slices.ContainsFunc(want, func(w netlink.Rule) bool { return sameRule(w, o) }) {
			if err := r.remove(o); err != nil {
				return err
			}
		}
	}
	if len(marks) == 0 && r.settings.LocalMoved&r.bit != 0 {
		r.settings.LocalMoved &^= r.bit
		return r.putSettings(*r.settings)
	}
	return nil
}

func (r *rules) rule(preference int) netlink.Rule {
	n := netlink.NewRule()
	n.Family, n.Priority, n.Protocol = r.family, preference, markProtocol
	return *n
}

// local is the rule about local addresses.
func (r *rules) local(preference int, protocol uint8) netlink.Rule {
	n := r.rule(preference)
	n.Table, n.Protocol = localTable, protocol
	return n
}

func (r *rules) wanted(marks []uint32, local int) (want []netlink.Rule) {
	passed := r.rule(preferPassed)
	passed.IifName, passed.Goto = markDevice, local
	want = append(want, passed)
	if local == preferLocal {
		want = append(want, r.local(preferLocal, markProtocol))
	}
	all := ^uint32(0)
	for _, m := range marks {
		n := r.rule(preferMark)
		n.Mark, n.Mask, n.Table = m, &all, markTable
		want = append(want, n)
	}
	ask, mask := r.rule(preferMark), uint32(markAsk)
	ask.Mark, ask.Mask, ask.Table = markAsk, &mask, markTable
	return append(want, ask)
}

// isAboutLocal says whether a rule is one about local addresses that somebody else has made.
func isAboutLocal(o netlink.Rule) bool {
	plain := o.Mark == 0 && o.IifName == "" && o.OifName == "" && o.Src == nil && o.Dst == nil && !o.Invert
	return o.Table == localTable && plain && o.Protocol != markProtocol
}

// moveLocal sees to it that the rule about local addresses comes behind ours, and gives its preference. One that somebody has put
// elsewhere stays there. It makes room only for what add and remove then do.
func (r *rules) moveLocal() (int, error) {
	at := slices.IndexFunc(r.all, isAboutLocal)
	if at >= 0 && r.all[at].Priority > preferLocal {
		return r.all[at].Priority, nil
	}
	if r.settings.LocalMoved&r.bit != 0 {
		return preferLocal, nil
	}
	for _, o := range r.all {
		if o.Priority >= preferPassed && o.Priority <= preferLocal && o.Protocol != markProtocol {
			return 0, fmt.Errorf("preference %d is needed, and taken (ip rule): %w", o.Priority, unix.EEXIST)
		}
	}
	r.settings.LocalMoved |= r.bit
	return preferLocal, r.putSettings(*r.settings)
}

// restoreLocal puts the rule about local addresses back to where it was, unless somebody else has made one.
func (r *rules) restoreLocal() error {
	if r.settings.LocalMoved&r.bit == 0 || slices.ContainsFunc(r.all, isAboutLocal) {
		return nil
	}
	return r.add(r.local(0, kernelProtocol))
}

func (r *rules) add(n netlink.Rule) error {
	if slices.ContainsFunc(r.all, func(o netlink.Rule) bool { return sameRule(n, o) }) {
		return nil
	}
	defer cut()
	if err := netlink.RuleAdd(&n); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("rule %d: %w", n.Priority, err)
	}
	return nil
}

func (r *rules) remove(n netlink.Rule) error {
	defer cut()
	if err := netlink.RuleDel(&n); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("rule %d: %w", n.Priority, err)
	}
	return nil
}

func sameRule(a, b netlink.Rule) bool {
	return a.Priority == b.Priority && a.Table == b.Table && a.Mark == b.Mark && a.IifName == b.IifName && a.Goto == b.Goto &&
		a.Protocol == b.Protocol && maskOf(a) == maskOf(b)
}

func maskOf(r netlink.Rule) uint32 {
	if r.Mask == nil {
		return 0
	}
	return *r.Mask
}
