// SPDX-License-Identifier: Apache-2.0

package saved

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs"
)

// examples have every field that there is.
func examples() []lvs.Entry {
	id := func(p lvs.Protocol, a string) lvs.ServiceID {
		at := netip.MustParseAddrPort(a)
		s := lvs.ServiceID{Family: lvs.IPv4, Protocol: p, Addr: at.Addr(), Port: at.Port()}
		if at.Addr().Is6() {
			s.Family = lvs.IPv6
		}
		return s
	}
	at, none := netip.MustParseAddrPort, uint32(lvs.NoTemplate)
	server := lvs.ServerID{Addr: netip.MustParseAddr("10.0.0.1"), Port: 8080}
	four, six := id(lvs.TCP, "203.0.113.1:80"), id(lvs.UDP, "[2001:db8::1]:5060")
	return []lvs.Entry{
		{Conn: lvs.Conn{Protocol: lvs.TCP, Template: true, Client: at("198.51.100.0:0"), Virtual: at("203.0.113.1:80"), State: lvs.TemplateAssured, Expires: 90 * time.Second},
			Service: four, ServerID: server, Number: 7, Timeout: 300, Conns: 2, Controller: none, Accounted: true},
		{Conn: lvs.Conn{Protocol: lvs.UDP, Template: true, Client: at("[2001:db8:c::]:0"), Virtual: at("[2001:db8::1]:5060"), PE: "sip", PEData: "a\"\\\xe9b@x", Expires: time.Second / 4},
			Service: six, ServerID: lvs.ServerID{Addr: netip.MustParseAddr("fd00::1"), Port: 5060}, Number: 9, Timeout: 60, Controller: none},
		{Conn: lvs.Conn{Template: true, Client: at("198.51.100.0:0"), Virtual: at("0.0.0.5:0"), Expires: time.Minute},
			Service: lvs.ServiceID{Family: lvs.IPv4, Mark: 5}, ServerID: lvs.ServerID{Addr: server.Addr}, Number: 1 << 31, Timeout: 60, Controller: none},
		{Conn: lvs.Conn{Protocol: lvs.TCP, Client: at("198.51.100.7:1024"), Virtual: at("203.0.113.1:80"), State: lvs.TCPEstablished, Forward: lvs.Masq, Expires: 899876 * time.Millisecond},
			Service: four, ServerID: server, Controller: 7, Flags: lvs.Assured | lvs.SamePort,
			Accounted: true, Age: 100 * time.Second, Stats: lvs.Stats{InPackets: 1, OutPackets: 2, InBytes: 1<<64 - 1, OutBytes: 4}},
		{Conn: lvs.Conn{Protocol: lvs.TCP, Client: at("198.51.100.7:1025"), Virtual: at("203.0.113.1:80"), Local: at("10.0.0.254:4000"), State: lvs.TCPCloseWait, Forward: lvs.FullNAT, Expires: time.Millisecond},
			Service: four, ServerID: server, Controller: none, Flags: lvs.Told | lvs.Answered | lvs.Disowned},
		{Conn: lvs.Conn{Protocol: lvs.UDP, Client: at("[2001:db8:c::7]:0"), Virtual: at("[2001:db8::1]:5060"), Forward: lvs.Tunnel, Expires: lvs.MaxExpires},
			Service: lvs.ServiceID{Family: lvs.IPv6, Mark: 1<<32 - 1}, ServerID: server, Controller: 9, Flags: lvs.NoOutput},
		{Conn: lvs.Conn{Protocol: lvs.SCTP, Client: at("198.51.100.7:9"), Virtual: at("203.0.113.1:9"), State: lvs.SCTPStates - 1, Forward: lvs.Route, Expires: time.Hour},
			Service: id(lvs.SCTP, "203.0.113.1:9"), ServerID: server, Controller: none},
	}
}

// contents is what a file has.
type contents struct {
	settings lvs.Settings
	rules    []string
	counters []Counters
	entries  []lvs.Entry
}

func (c contents) file() string {
	var out bytes.Buffer
	w := NewWriter(&out, c.settings, c.rules)
	for _, n := range c.counters {
		w.Counters(n)
	}
	for i := range c.entries {
		w.Entry(&c.entries[i])
	}
	w.Close()
	return out.String()
}

func file(rules []string, entries []lvs.Entry) string {
	return contents{settings: lvs.DefaultSettings, rules: rules, entries: entries}.file()
}

func readAll(text string) (c contents, counts Counts, err error) {
	counts, err = Read(strings.NewReader(text), Into{
		Settings: func(s lvs.Settings) error { c.settings = s; return nil },
		Rule:     func(r string) error { c.rules = append(c.rules, r); return nil },
		Counters: func(n Counters) error { c.counters = append(c.counters, n); return nil },
		Entry:    func(e *lvs.Entry) error { c.entries = append(c.entries, *e); return nil },
	})
	return c, counts, err
}

func read(text string) (rules []string, entries []lvs.Entry, counts Counts, err error) {
	c, counts, err := readAll(text)
	return c.rules, c.entries, counts, err
}

// whole is what a file has that has everything.
func whole() contents {
	all := contents{settings: lvs.KernelSettings, rules: []string{"-A -t 203.0.113.1:80 -s rr", `-a "<&>`}, entries: examples()}
	for i, e := range all.entries[2:4] {
		server, stats := e.ServerID, lvs.Stats{Conns: 1, InPackets: 2, OutPackets: 3, InBytes: 1<<64 - 1, OutBytes: uint64(i)}
		all.counters = append(all.counters, Counters{e.Service, nil, stats}, Counters{e.Service, &server, stats})
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	want := whole()
	text := want.file()
	got, counts, err := readAll(text)
	if err != nil || counts != (Counts{3, 4}) || !reflect.DeepEqual(got.rules, want.rules) {
		t.Fatalf("%+v, rules %q, %v in\n%s", counts, got.rules, err, text)
	}
	if got.settings != want.settings || !reflect.DeepEqual(got.counters, want.counters) {
		t.Errorf("got\n%+v\n%+v, want\n%+v\n%+v", got.settings, got.counters, want.settings, want.counters)
	}
	for i := range want.entries {
		if !reflect.DeepEqual(got.entries[i], want.entries[i]) {
			t.Errorf("got\n%+v, want\n%+v", got.entries[i], want.entries[i])
		}
	}
	if counts, err = Read(strings.NewReader(text), Into{}); err != nil || counts != (Counts{3, 4}) {
		t.Errorf("by nobody who asks: %+v, %v", counts, err)
	}
}

// A file of version 1 has neither settings nor counters, and none of them are read from it.
func TestFirstVersion(t *testing.T) {
	want := whole()
	lines := strings.SplitAfter(strings.Replace(want.file(), `"version":2`, `"version":1`, 1), "\n")
	if _, _, err := readAll(strings.Join(lines, "")); !errors.Is(err, ErrFormat) {
		t.Errorf("with settings: %v", err)
	}
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, `{"settings"`) })
	if _, _, err := readAll(strings.Join(lines, "")); !errors.Is(err, ErrFormat) {
		t.Errorf("with counters: %v", err)
	}
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, `{"counted"`) })
	got, _, err := readAll(strings.Join(lines, ""))
	if want.settings, want.counters = (lvs.Settings{}), nil; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, %v, want\n%+v", got, err, want)
	}
}

// A connection whose template is not in the file has none.
func TestTemplatesThatEnded(t *testing.T) {
	all := examples()[3:4]
	_, got, _, err := read(file(nil, all))
	if err != nil || got[0].Controller != lvs.NoTemplate {
		t.Errorf("%+v, %v", got, err)
	}
}

// Wherever a file was cut off, it is refused, and says why.
func TestHalfWritten(t *testing.T) {
	text := whole().file()
	for n := range len(text) {
		_, _, _, err := read(text[:n])
		if n == 0 && !errors.Is(err, ErrFormat) || n > 0 && !errors.Is(err, ErrUnfinished) && !errors.Is(err, ErrFormat) {
			t.Fatalf("after %d of %d bytes: %v", n, len(text), err)
		}
	}
	lines := strings.SplitAfter(text, "\n")
	missing := strings.Join(slices.Delete(slices.Clone(lines), len(lines)-4, len(lines)-3), "")
	if _, _, _, err := read(missing); err == nil {
		t.Error("a line is missing, and nobody says so")
	}
}

func TestRefused(t *testing.T) {
	good := `{"conn":{"service":"tcp/203.0.113.1:80","server":"10.0.0.1:80","protocol":"tcp","virtual":"203.0.113.1:80","expires":10,"client":"198.51.100.7:1","forward":"masq","state":"ESTABLISHED"}}`
	template := `{"template":{"service":"tcp/203.0.113.1:80","server":"10.0.0.1:80","protocol":"tcp","virtual":"203.0.113.1:80","expires":10,"client":"198.51.100.0","timeout":60,"number":3,"conns":0}}`
	framed := func(lines ...string) string {
		conns, templates := 0, 0
		for _, l := range lines {
			conns += strings.Count(l, `{"conn"`)
			templates += strings.Count(l, `{"template"`)
		}
		end := fmt.Sprintf(`{"end":{"templates":%d,"conns":%d}}`, templates, conns)
		return `{"director":"connections","version":2}` + "\n" + strings.Join(append(lines, end), "\n") + "\n"
	}
	if _, _, _, err := read(framed(template, good)); err != nil {
		t.Fatal(err)
	}
	edit := func(text string, pairs ...string) string { return framed(strings.NewReplacer(pairs...).Replace(text)) }
	for why, text := range map[string]string{
		"not ours":                     "-A -t 203.0.113.1:80 -s rr\n",
		"another format":               strings.Replace(framed(good), "connections", "something", 1),
		"another version":              strings.Replace(framed(good), `"version":2`, `"version":3`, 1),
		"no version":                   strings.Replace(framed(good), `"version":2`, `"version":0`, 1),
		"a setting that is not known":  framed(`{"settings":{"speed":"1"}}`, good),
		"a setting's wrong value":      framed(`{"settings":{"drop_entry":"4"}}`, good),
		"settings twice":               framed(`{"settings":{}}`, `{"settings":{}}`, good),
		"settings behind rules":        framed(`{"rule":"-C"}`, `{"settings":{}}`, good),
		"a rule behind counters":       framed(`{"counted":{"service":"tcp/203.0.113.1:80"}}`, `{"rule":"-C"}`, good),
		"counters behind connections":  framed(good, `{"counted":{"service":"tcp/203.0.113.1:80"}}`),
		"counters of no service":       framed(`{"counted":{"service":""}}`, good),
		"counters of a wrong server":   framed(`{"counted":{"service":"tcp/203.0.113.1:80","server":"[fe80::7%eth0]:1"}}`, good),
		"an unknown field":             edit(good, `"state"`, `"estate":1,"state"`),
		"two objects in a line":        edit(good, "}}", "}}{}"),
		"nothing in it":                framed("{}"),
		"a rule behind connections":    framed(good, `{"rule":"-C"}`),
		"a template behind them":       framed(good, template),
		"two templates of one number":  framed(template, template),
		"goes on":                      framed(good) + good + "\n",
		"wrong count":                  strings.Replace(framed(good), `"conns":1`, `"conns":2`, 1),
		"no service":                   edit(good, "tcp/203.0.113.1:80", ""),
		"a service of no protocol":     edit(good, "tcp/203", "icmp/203"),
		"a service in another form":    edit(good, "tcp/203.0.113.1:80", "tcp/203.0.113.1:080"),
		"mark 0":                       edit(good, "tcp/203.0.113.1:80", "fwmark/0"),
		"another protocol":             edit(good, `"protocol":"tcp"`, `"protocol":"udp"`),
		"a protocol that is none":      edit(good, `"protocol":"tcp"`, `"protocol":"ip"`, "tcp/203.0.113.1:80", "fwmark/1"),
		"a state of another protocol":  edit(good, "ESTABLISHED", "COOKIE"),
		"no such method":               edit(good, "masq", "nat"),
		"FULLNAT without an address":   edit(good, "masq", "fullnat"),
		"an address without FULLNAT":   edit(good, `"state"`, `"local":"10.0.0.254:4000","state"`),
		"no such flag":                 edit(good, `"state"`, `"flags":["red"],"state"`),
		"a flag twice":                 edit(good, `"state"`, `"flags":["told","told"],"state"`),
		"a template that is not there": edit(good, `"state"`, `"template":5,"state"`),
		"no template by number":        edit(good, `"state"`, `"template":4294967295,"state"`),
		"counts without an age":        edit(good, `"state"`, `"counts":{"in_packets":1},"state"`),
		"no time":                      edit(good, `"expires":10`, `"expires":0`),
		"less":                         edit(good, `"expires":10`, `"expires":-1`),
		"too much time":                edit(good, `"expires":10`, `"expires":1e300`),
		"another family":               edit(good, "198.51.100.7:1", "[2001:db8::7]:1"),
		"a zone":                       edit(good, "198.51.100.7:1", "[fe80::7%eth0]:1"),
		"an address that is mapped":    edit(good, `"client":"198.51.100.7:1"`, `"client":"[::ffff:198.51.100.7]:1"`),
		"no client":                    edit(good, `"client":"198.51.100.7:1",`, ""),
		"no server":                    edit(good, `"server":"10.0.0.1:80",`, ""),
		"a template without a timeout": edit(template, `"timeout":60,`, ""),
		"a call that is too long":      edit(template, `"timeout"`, `"call":"`+strings.Repeat("x", 256)+`","timeout"`),
		"a call of no bytes":           edit(template, `"timeout"`, `"call":"Ā","timeout"`),
		"a line that is too long":      edit(good, "ESTABLISHED", strings.Repeat("E", 1<<17)),
	} {
		if _, _, _, err := read(text); err == nil {
			t.Errorf("%s: taken", why)
		}
	}
}

// checkRead holds whatever is read to being written in the same way, and read again.
func checkRead(t *testing.T, text string) {
	t.Helper()
	all, counts, err := readAll(text)
	if err != nil {
		return
	}
	if counts.Conns+counts.Templates != len(all.entries) {
		t.Errorf("%+v, %d entries", counts, len(all.entries))
	}
	if all.settings == (lvs.Settings{}) { // version 1, or left out
		all.settings = lvs.DefaultSettings
	}
	again := all.file()
	if all2, _, err := readAll(again); err != nil || !reflect.DeepEqual(all2, all) {
		t.Errorf("%v: %q\nwritten again as\n%q", err, text, again)
	}
}

// Each byte of a file is changed, doubled, and left out.
func TestChangedBytes(t *testing.T) {
	for _, e := range examples() {
		e.Controller = lvs.NoTemplate
		all := whole()
		all.entries, all.counters, all.rules = []lvs.Entry{e}, all.counters[:2], all.rules[:1]
		text := all.file()
		for i := range text {
			for _, other := range []string{"", "0", "9", "\"", "-", "e", "x", "\n", "\x00", "\xff", text[i:i+1] + text[i:i+1]} {
				checkRead(t, text[:i]+other+text[i+1:])
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(file([]string{"-A -t 203.0.113.1:80 -s rr"}, examples()))
	f.Add(file(nil, nil))
	f.Add(whole().file())
	for i := range examples() {
		f.Add(file(nil, examples()[i:i+1]))
	}
	f.Fuzz(checkRead)
}
