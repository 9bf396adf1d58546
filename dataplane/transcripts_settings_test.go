// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"os"
	"regexp"
	"strings"

	"lvs"
)

// documentedSettings are the rows about settings in docs/COMPATIBILITY.md: by name, what is said about it.
func (r *transcript) documentedSettings() map[string]documentedSetting {
	r.t.Helper()
	text, err := os.ReadFile("../docs/COMPATIBILITY.md")
	must(r.t, err)
	_, table, _ := strings.Cut(string(text), "## Settings of IPVS")
	table, _, _ = strings.Cut(table, "\n## ")
	all := map[string]documentedSetting{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 {
			continue
		}
		defaults := strings.Split(cells[3], ",")
		for i, name := range recordedName.FindAllStringSubmatch(cells[1], -1) {
			d := documentedSetting{kind: strings.TrimSpace(cells[2]), note: cells[4]}
			if i < len(defaults) {
				d.value = strings.TrimSpace(defaults[i])
			}
			all[name[1]] = d
		}
	}
	return all
}

type documentedSetting struct{ kind, value, note string }

var recordedName = regexp.MustCompile("`(\\w+)`")

// checkDefaults looks at each setting of the kernel: it is one of ours, and has the recorded value in Linux's way; or docs/COMPATIBILITY.md
// says that we have it not. What it says about defaults is true.
func (r *transcript) checkDefaults(recorded []string) {
	r.t.Helper()
	said := r.documentedSettings()
	for _, line := range recorded {
		name, value, _ := strings.Cut(strings.TrimPrefix(line, "net.ipv4.vs."), " = ")
		d, ok := said[name]
		if !ok {
			r.t.Errorf("docs/COMPATIBILITY.md says nothing of %s", name)
		}
		n, err := lvs.Setting(name)
		if err != nil {
			if d.kind != "not yet" && !strings.Contains(d.note, "as with 1") {
				r.t.Errorf("%s: %v, and docs/COMPATIBILITY.md does not say so", name, err)
			}
			if d.value != "" && d.value != value {
				r.t.Errorf("%s is %s by default, docs/COMPATIBILITY.md has %s", name, value, d.value)
			}
			continue
		}
		if got := n.Text(lvs.KernelSettings); got != value || d.value != value {
			r.t.Errorf("%s is %s by default, we say %s, docs/COMPATIBILITY.md %s", name, value, got, d.value)
		}
		if ours := n.Text(lvs.DefaultSettings); ours != value && (d.kind != "better" || !regexp.MustCompile(`\b`+ours+`\b`).MatchString(d.note)) {
			r.t.Errorf("%s is %s here, and docs/COMPATIBILITY.md does not say so", name, ours)
		}
	}
}
