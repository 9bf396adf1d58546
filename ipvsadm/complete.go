// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"path/filepath"
	"strings"

	"lvs"
)

// Complete gives the words that the last of words may become on a command line, its beginning included; argv[0] is the
// program's name. The table is asked for only where services or servers of it are wanted, and may fail.
func Complete(argv []string, table func() (*lvs.Table, error)) (found []string) {
	if len(argv) < 2 {
		return nil
	}
	last := argv[len(argv)-1]
	for _, word := range candidates(argv, table) {
		if strings.HasPrefix(word, last) {
			found = append(found, word)
		}
	}
	return found
}

func candidates(argv []string, table func() (*lvs.Table, error)) []string {
	switch filepath.Base(argv[0]) {
	case "ipvsadm-save":
		return []string{"-n"}
	case "ipvsadm-restore":
		return nil
	}
	w := &words{argv: argv[1 : len(argv)-1]}
	if len(w.argv) == 0 {
		return spellings(func(o *option) bool { return o.verb != verbNone })
	}
	// The service may not be complete yet, nor right.
	c := &command{names: &names{etc: "/etc"}}
	var previous *option
	for {
		o, value, err := w.option()
		if err != nil {
			return c.values(findSpelling(w.last()), table)
		}
		if o == nil {
			break
		}
		if o.verb != verbNone {
			c.verb = o.verb
		}
		c.given |= o.bit
		if o.bit == optService {
			o.apply(c, value)
		}
		previous = o
	}
	r := verbRules[min(int(c.verb), len(verbRules)-1)]
	found := spellings(func(o *option) bool {
		if o.short == '6' {
			return c.service.Mark != 0
		}
		return o.verb == verbNone && o.bit&(r.needs|r.allows|r.oneOf) != 0 && o.bit&c.given == 0 && (c.given&r.oneOf == 0 || o.bit&r.oneOf == 0)
	})
	if previous != nil && previous.takes == maybe {
		found = append(found, previous.absent)
	}
	return found
}

func findSpelling(word string) *option {
	name, long := strings.CutPrefix(word, "--")
	return findOption(func(o *option) bool {
		return long && o.long == name || !long && o.short != 0 && strings.HasSuffix(word, string(o.short))
	})
}

func spellings(is func(*option) bool) (found []string) {
	for i := range options {
		o := &options[i]
		if !is(o) {
			continue
		}
		if o.short != 0 {
			found = append(found, "-"+string(o.short))
		}
		if findOption(func(first *option) bool { return first.long == o.long }) == o {
			found = append(found, "--"+o.long)
		}
	}
	return found
}

// values gives the values that an option may have.
func (c *command) values(o *option, table func() (*lvs.Table, error)) (found []string) {
	if o == nil {
		return nil
	}
	switch o.bit {
	case optScheduler:
		return lvs.Schedulers
	case optEngine:
		return []string{"sip"}
	case optOnDead:
		return lvs.OnDeadNames
	case optSchedFlags:
		for _, f := range schedFlags {
			found = append(found, f.name)
		}
		return found
	case optTunType:
		for _, r := range tunnelRules {
			found = append(found, r.name)
		}
		return found
	case optService, optServer:
		t, err := table()
		if err != nil {
			return nil
		}
		p := &printer{w: bufio.NewWriter(nil), given: optNumeric}
		for _, s := range sortedServices(t.Services()) {
			name, _ := strings.CutPrefix(p.serviceOption(s.ServiceID), "-f ")
			switch kind, rest, _ := strings.Cut(name, " "); {
			case o.bit == optServer && s.ServiceID == c.service:
				for _, d := range sortedServers(s.Servers) {
					found = append(found, p.endpoint(d.Addr, d.Port, s.Protocol))
				}
			case o.bit == optServer:
			case s.Mark != 0 && o.short == 'f':
				found = append(found, kind)
			case kind == "-"+string(o.short) || kind == "--"+o.long:
				found = append(found, rest)
			}
		}
	}
	return found
}
