// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lvs/needs"
)

// TestMain lets the test be the binary that the shells ask: it is director if it is called so.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "director" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestEachVerbHasAnExample(t *testing.T) {
	leaves := commandLine().Model.Leaves(true)
	if len(leaves) < 10 {
		t.Fatalf("only %d verbs", len(leaves))
	}
	for _, leaf := range leaves {
		_, examples, found := strings.Cut(leaf.Detail, "Example")
		if !found || !strings.Contains(examples, "director "+leaf.Path()) {
			t.Errorf("director %s --help has no example of it", leaf.Path())
		}
		if leaf.Help == "" {
			t.Errorf("director %s has no help", leaf.Path())
		}
		for _, f := range leaf.Flags {
			if f.Help == "" {
				t.Errorf("director %s: --%s has no help", leaf.Path(), f.Name)
			}
		}
		for _, p := range leaf.Positional {
			if p.Help == "" {
				t.Errorf("director %s: %s has no help", leaf.Path(), p.Name)
			}
		}
	}
}

func TestManualIsThatOfTheProgram(t *testing.T) {
	model := commandLine().Model
	page, err := os.ReadFile("director.8")
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != manual(model) {
		t.Error("director.8 is out of date: go generate ./cmd/director")
	}
	for _, leaf := range model.Leaves(true) {
		for _, f := range leaf.Flags {
			if f.Name != "help" && !strings.Contains(string(page), roff("--"+f.Name)) {
				t.Errorf("director.8 does not know %s --%s", leaf.Path(), f.Name)
			}
		}
	}
	needs.Programs(t, "groff")
	complaints, err := exec.Command("groff", "-man", "-ww", "-z", "director.8").CombinedOutput()
	if err != nil || len(complaints) > 0 {
		t.Errorf("groff: %v\n%s", err, complaints)
	}
}

func TestComplete(t *testing.T) {
	model := commandLine().Model
	for _, c := range []struct{ line, want string }{
		{"at", "attach"},
		{"co", "conns confirm completion"},
		{"drain 10.0.0.1 --then ", "none remove reset"},
		{"apply --p", "--prune"},
		{"apply --rollback-after ", ""},
		{"conns --state x --w", "--watch"},
		{"completion ", "bash zsh fish"},
		{"lab all p", "persistence"},
		{"lab ", "nat dr tun fullnat fwmark persistence all clean"},
		{"lab nat --xdp --js", "--json"},
		{"detach l", "lo"},
		{"man", ""},
	} {
		var got []string
		for _, found := range complete(model, strings.Split(c.line, " ")) {
			got = append(got, found.word)
		}
		if !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("director %q may become %q, not %s", c.line, got, c.want)
		}
	}
}

// TestShellsComplete asks each shell itself, with a line that ends where the cursor is.
func TestShellsComplete(t *testing.T) {
	shells := map[string]string{
		"bash": `source completion/director.bash; COMP_LINE='%[1]s' COMP_POINT=%[2]d; _director; printf '%%s\n' "${COMPREPLY[@]}"`,
		"zsh": `compdef() { :; }; compadd() { print -l -- "${(@P)argv[-1]}"; }; _files() { echo FILES; }
			source completion/director.zsh; words=("${(@s: :)line}"); words=(%[3]s); CURRENT=${#words}; _director`,
		"fish": `source completion/director.fish; complete -C '%[1]s'`,
	}
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(bin, "director")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for shell, script := range shells {
		t.Run(shell, func(t *testing.T) {
			needs.Programs(t, shell)
			for _, c := range []struct{ line, want string }{
				{"director conn", "conns"},
				{"director apply --pr", "--prune"},
				{"director completion ", "bash zsh fish"},
				{"ipvsadm -A -t 10.0.0.1:80 -s w", "wrr wlc"},
				{"/sbin/ipvsadm --edit-s", "--edit-service --edit-server"},
			} {
				quoted := "'" + strings.ReplaceAll(c.line, " ", "' '") + "'"
				out, err := exec.Command(shell, "-c", fmt.Sprintf(script, c.line, len(c.line), quoted)).CombinedOutput()
				var got []string
				for line := range strings.Lines(string(out)) {
					word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
					got = append(got, word)
				}
				want := strings.Fields(c.want)
				slices.Sort(got)
				slices.Sort(want)
				if err != nil || !slices.Equal(got, want) {
					t.Errorf("%q becomes %q, not %q (%v)", c.line, got, want, err)
				}
			}
		})
	}
}
