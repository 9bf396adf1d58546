// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"lvs"
	"lvs/ipvsadm"
)

// run has ipvsadm change or list both tables, which have to answer alike.
func (r *transcript) run(command string) string {
	r.t.Helper()
	var outs [2]bytes.Buffer
	for n, d := range []lvs.Director{r.Director, r.judge} {
		env := ipvsadm.Env{Stdin: strings.NewReader(""), Stdout: &outs[n], Stderr: &outs[n], Etc: "../ipvsadm/testdata/etc", Open: func(ipvsadm.Mode) (lvs.Director, error) { return d, nil }}
		if code := ipvsadm.Run(env, append([]string{"ipvsadm"}, strings.Fields(command)...)); code != 0 && command[1] != 'L' {
			r.t.Fatalf("ipvsadm %s: exit %d, %s", command, code, outs[n].String())
		}
	}
	r.mustSweep(r.t)
	rates := strings.Contains(command, "--rate") // which the oracle does not keep
	if got, want := sortedRows(outs[0].String()), sortedRows(outs[1].String()); got != want && !rates {
		r.t.Fatalf("ipvsadm %s:\n%swant, by the oracle\n%s", command, got, want)
	}
	return outs[0].String()
}

var tableSize = regexp.MustCompile(`\(size=\d+\)`)

func sortedRows(text string) string {
	rows := strings.SplitAfter(tableSize.ReplaceAllString(text, "(size=N)"), "\n")
	slices.Sort(rows)
	return strings.Join(rows, "")
}

// output takes the lines that a command has printed.
func (r *transcript) output() (all []string) {
	for len(r.lines) > 0 && regexp.MustCompile(`^(IPVS |pro |IP Virtual|Prot |  ->|TCP |UDP |FWM |IP +\d\d:|net\.|Timeout |No such service)`).MatchString(r.lines[0]) {
		all, r.lines = append(all, r.lines[0]), r.lines[1:]
	}
	return all
}

func (r *transcript) command(text string, want []string) {
	r.t.Helper()
	if setting, ok := strings.CutPrefix(text, "sysctl -w net.ipv4.vs."); ok {
		name, value, _ := strings.Cut(setting, "=")
		n, err := lvs.Setting(name)
		mustDo(r.t, text, err)
		change := func(s *lvs.Settings) error { return n.Set(s, value) }
		mustDo(r.t, text, r.Set(change))
		mustDo(r.t, text, r.judge.Set(change))
		return
	}
	if strings.HasPrefix(text, "cat ") { // what only the kernel has
		r.take("   ")
		return
	}
	if strings.HasPrefix(text, "sysctl ") {
		r.checkDefaults(want)
		return
	}
	text = strings.TrimPrefix(text, "ipvsadm ")
	if strings.Contains(text, "| grep -E '^(") {
		r.formats(text, want)
		return
	}
	if strings.HasPrefix(text, "-A ") && strings.Contains(text, " -o; ") { // the recorder had cleared the table
		r.run("-C")
		r.virtual, r.forward = netip.MustParseAddr(recordedVirtual.FindString(text)), text[len(text)-2:]
	}
	if change, _, ok := strings.Cut(text, "   (and rs1..rs3"); ok {
		if v := recordedVirtual.FindString(change); v != "" && v != r.virtual.String() {
			r.run("-C")
			r.virtual = netip.MustParseAddr(v)
		}
		r.run(change)
		r.servers(strings.Join(strings.Fields(change)[1:3], " "), "", "", "")
		return
	}
	var got []string
	for _, one := range strings.Split(text, "; ") {
		one, filter, _ := strings.Cut(strings.TrimPrefix(one, "ipvsadm "), " | ")
		switch {
		case strings.HasPrefix(one, "cat "):
			continue
		case strings.HasPrefix(one, "-Lnc"):
			r.checkConns(strings.Split(r.run(one), "\n"), want, filter)
			return
		case strings.HasPrefix(one, "-Ln --stats") && !r.counted:
			// how many packets there are is up to the hosts
			for n, line := range slices.Backward(want) {
				if line == want[0] {
					want = want[:n]
					break
				}
			}
			continue
		case strings.HasPrefix(one, "-A ") && r.serves(one): // the recorder had cleared the table
			r.run("-C")
		}
		said := strings.Split(strings.TrimSuffix(r.run(one), "\n"), "\n")
		var n int
		if _, err := fmt.Sscanf(filter, "tail -n %d", &n); err == nil {
			said = said[max(0, len(said)-n):]
		}
		if said[0] != "" {
			got = append(got, said...)
		}
	}
	if sortedRows(strings.Join(got, "\n")) != sortedRows(strings.Join(want, "\n")) {
		r.t.Fatalf("ipvsadm %s:\n%s\nwant\n%s", text, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// serves says whether the table has the service that a command is to add.
func (r *transcript) serves(add string) bool {
	r.t.Helper()
	t, err := r.judge.Table()
	mustDo(r.t, "table", err)
	for _, s := range t.Services() {
		if strings.Contains(add, " "+netip.AddrPortFrom(s.Addr, s.Port).String()+" ") {
			return true
		}
	}
	return false
}

// take takes lines that begin so.
func (r *transcript) take(prefixes ...string) (all []string) {
	for len(r.lines) > 0 && slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(r.lines[0], p) }) {
		all, r.lines = append(all, r.lines[0]), r.lines[1:]
	}
	return all
}

// formats compares listings as they are, but for a second that may have gone by.
func (r *transcript) formats(text string, want []string) {
	r.t.Helper()
	var got []string
	for _, one := range strings.Split(text, "; ") {
		one, filter, found := strings.Cut(strings.TrimPrefix(one, "ipvsadm "), " | grep -E ")
		if strings.HasPrefix(one, "grep ") { // in a file that only the kernel has
			continue
		}
		pattern := regexp.MustCompile(strings.Trim(filter, "'"))
		for _, line := range strings.Split(strings.TrimSuffix(r.run(one), "\n"), "\n") {
			if !found || pattern.MatchString(line) {
				got = append(got, line)
			}
		}
	}
	want = slices.DeleteFunc(want, func(line string) bool { return strings.Contains(line, " 0A01C8C8 ") })
	listed := func(lines []string) string {
		return tableSize.ReplaceAllString(strings.ReplaceAll(strings.Join(lines, "\n"), " 15:00 ", " 14:59 "), "(size=N)")
	}
	if listed(got) != listed(want) {
		r.t.Errorf("ipvsadm %s:\n%s\nwant\n%s", text, listed(got), listed(want))
	}
}

// checkConns compares listings but for the ports of clients, and for the seconds that the recorded ones took.
func (r *transcript) checkConns(got, want []string, filter string) {
	r.t.Helper()
	of := []string{r.virtual.String()} // what listings were searched for, each the beginning of an address of ours
	if _, pattern, ok := strings.Cut(filter, "-E '"); ok {
		pattern, _, _ = strings.Cut(pattern, "'")
		of = strings.Split(pattern, "|")
	}
	rows := func(lines []string) (all []string, left []int) {
		for _, line := range lines {
			f := strings.Fields(line)
			if len(f) != 6 || !slices.ContainsFunc(of, func(a string) bool {
				host := f[4][:max(0, strings.LastIndexByte(f[4], ':'))]
				return strings.Trim(host, "[]") == strings.TrimSuffix(a, ":")
			}) {
				continue
			}
			minutes, seconds, _ := strings.Cut(f[1], ":")
			client, port := f[3][:strings.LastIndexByte(f[3], ':')], f[3][strings.LastIndexByte(f[3], ':')+1:]
			if port != "0" && !r.counted {
				port = "any"
			}
			m, _ := strconv.Atoi(minutes)
			s, _ := strconv.Atoi(seconds)
			all = append(all, fmt.Sprint(f[0], " ", f[2], " ", client, ":", port, " ", f[4], " ", f[5], " ", fmt.Sprintf("%06d", m*60+s)))
		}
		slices.Sort(all)
		for i, row := range all {
			at := strings.LastIndexByte(row, ' ')
			n, _ := strconv.Atoi(row[at+1:])
			all[i], left = row[:at], append(left, n)
		}
		return all, left
	}
	g, gotLeft := rows(got)
	w, wantLeft := rows(want)
	if strings.Contains(filter, "head") { // the first ones in an order that is up to the clock
		for _, row := range w {
			if !slices.Contains(g, row) {
				r.t.Errorf("no connection %s", row)
			}
		}
		return
	}
	if !slices.Equal(g, w) {
		r.t.Fatalf("connections\n%s\nwant\n%s", strings.Join(g, "\n"), strings.Join(w, "\n"))
	}
	for i := range w {
		if late := gotLeft[i] - wantLeft[i]; late < 0 || late > 12 && (late > 40 || r.title != "TUN") { // recorded on a busy machine
			r.t.Errorf("%s: %d s left, want %d", w[i], gotLeft[i], wantLeft[i])
		}
	}
}
