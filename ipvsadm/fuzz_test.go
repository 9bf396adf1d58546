// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// recordedCommands gives every command of the recordings.
func recordedCommands(t testing.TB) []string {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, file := range files {
		for _, c := range recordedCases(mustRead(t, file)) {
			for _, s := range c.steps {
				commands = append(commands, s.command)
			}
		}
	}
	return commands
}

// FuzzArgs runs any command line on a table that is not empty. One that fails must say so and change nothing.
func FuzzArgs(f *testing.F) {
	for i, command := range recordedCommands(f) {
		if words := shellWords(command); words[0] == "ipvsadm" && i%7 == 0 {
			f.Add(strings.Join(words[1:], "\x00"))
		}
	}
	f.Fuzz(func(t *testing.T, args string) {
		sh := newShell(t)
		run := func(input string, argv ...string) (int, string) {
			var out, errs strings.Builder
			code := Run(sh.env(strings.NewReader(input), &out, &errs), argv)
			if code != 0 && errs.Len() == 0 {
				t.Errorf("%q: exit %d without a word", argv, code)
			}
			return code, out.String()
		}
		const table = "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 192.168.1.1 -m\n-A -f 1 -6\n-A -u [2001:db8::1]:53 -o\n"
		run(table, "ipvsadm", "-R")
		before, _ := sh.memory.Table()
		if code, _ := run("", append([]string{"ipvsadm"}, strings.Split(args, "\x00")...)...); code != 0 {
			if after, _ := sh.memory.Table(); !reflect.DeepEqual(before, after) {
				t.Errorf("exit %d changed the table", code)
			}
		}
		checkSaved(t, sh)
	})
}

// FuzzRestore restores any text. Whatever table comes of it, what is saved of it makes the same table.
func FuzzRestore(f *testing.F) {
	for i, command := range recordedCommands(f) {
		if args, ok := strings.CutPrefix(command, "ipvsadm "); ok && i%5 == 0 {
			f.Add(args + "\n")
		}
	}
	for _, file := range []string{"dest", "fwmark", "ipv6", "tunnel", "service"} {
		var text strings.Builder
		for _, c := range recordedCases(mustRead(f, "testdata/"+file+".txt")) {
			for _, s := range c.steps {
				for line := range strings.Lines(s.answer) {
					if rule, ok := strings.CutPrefix(line, "out|-"); ok {
						text.WriteString("-" + rule)
					}
				}
			}
		}
		f.Add(text.String())
	}
	f.Fuzz(func(t *testing.T, text string) {
		sh := newShell(t)
		var out, errs strings.Builder
		Run(sh.env(strings.NewReader(text), &out, &errs), []string{"ipvsadm", "-R"})
		checkSaved(t, sh)
	})
}

// checkSaved saves the table, restores it elsewhere, and saves again. Lines may change places where addresses
// compare in a loop, as with the original.
func checkSaved(t *testing.T, sh *shell) {
	saved, errs, code := sh.run("ipvsadm -Sn")
	if code != 0 || errs != "" {
		t.Fatalf("save: exit %d, %s", code, errs)
	}
	if strings.Contains(saved, " -b \n") {
		return // flags that the scheduler has no words for, which the original cannot restore either
	}
	other := newShell(t)
	var out, complaints strings.Builder
	if code := Run(other.env(strings.NewReader(saved), &out, &complaints), []string{"ipvsadm", "-R"}); code != 0 {
		t.Fatalf("restore: exit %d, %s\n%s", code, complaints.String(), saved)
	}
	again, _, _ := other.run("ipvsadm -Sn")
	if a, b := slices.Sorted(strings.Lines(saved)), slices.Sorted(strings.Lines(again)); !slices.Equal(a, b) {
		t.Errorf("saved\n%s\nand after a restore\n%s%s", saved, again, complaints.String())
	}
}
