// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"lvs"
)

// LineError is what is wrong with a line of a file.
type LineError struct {
	Line int // the first is 1
	Err  error
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap gives the reason.
func (e *LineError) Unwrap() error { return e.Err }

var errNoChange = errors.New("not a command that changes the table")

// ReadTable reads a file as -S writes it: the commands that build a table from nothing, one a line; blank lines and lines
// that begin with # are left out. It is stricter than a restore: the first line that is wrong is the answer, a
// [LineError]. Time-outs that the file does not set are zero.
func ReadTable(env Env, file io.Reader) (*lvs.Table, error) {
	input, err := io.ReadAll(file)
	if err != nil {
		return nil, err
	}
	t, n := &lvs.Table{}, &names{etc: env.Etc, dns: env.DNS}
	number := 0
	for line := range strings.Lines(string(input)) {
		number++
		if strings.HasPrefix(line, "#") {
			continue
		}
		for _, argv := range commandLines(line, "ipvsadm") {
			if err := build(t, argv, n); err != nil {
				return nil, &LineError{number, err}
			}
		}
	}
	return t, nil
}

func build(t *lvs.Table, argv []string, n *names) error {
	c, err := parse(argv, n)
	if err != nil {
		if err.Error() == tryHelp(argv[0]).Error() {
			return fmt.Errorf("%s: %w", argv[1], errNoChange)
		}
		return err
	}
	switch c.verb {
	case verbAdd, verbEdit, verbDelete, verbAddServer, verbEditServer, verbDeleteServer, verbSet, verbClear,
		verbAddLocal, verbDeleteLocal:
		return c.change(t)
	}
	return fmt.Errorf("%s: %w", argv[1], errNoChange)
}

// Rule is a line of a save file: the command that makes a service, or one of its servers, or sets the time-outs, or adds a local
// address.
type Rule struct {
	Service lvs.ServiceID // zero for the time-outs, and for what services share
	Server  lvs.ServerID  // zero for the service itself
	Local   netip.Addr    // valid only for a local address
	Text    string
}

// Rules gives the save file of a table, all in numbers and in the order of -S, the time-outs first.
func Rules(t *lvs.Table) []Rule {
	to := t.Timeouts.OrDefault()
	rules := []Rule{{Text: fmt.Sprintf("--set %d %d %d", to.TCP, to.TCPFin, to.UDP)}}
	for _, l := range t.Locals {
		rules = append(rules, Rule{Local: l.Addr, Text: "-P " + localOptionsOf(l)})
	}
	for _, s := range sortedServices(t.Services()) {
		var text bytes.Buffer
		p := &printer{w: bufio.NewWriter(&text), given: optNumeric}
		p.rules([]*lvs.Service{s})
		p.w.Flush()
		add := func(r Rule) {
			r.Service = s.ServiceID
			r.Text, _ = text.ReadString('\n')
			rules = append(rules, r)
		}
		add(Rule{})
		for _, l := range s.Locals {
			add(Rule{Local: l.Addr})
		}
		for _, d := range p.order(s.Servers) {
			add(Rule{Server: d.ServerID})
		}
	}
	for i := range rules {
		rules[i].Text = strings.TrimSuffix(rules[i].Text, "\n")
	}
	return rules
}

// Sorted gives services in the order of listings.
func Sorted(services []*lvs.Service) []*lvs.Service { return sortedServices(services) }
