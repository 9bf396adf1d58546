// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestRecorded replays what the original was recorded to answer on a kernel with IPVS.
func TestRecorded(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		for _, c := range recordedCases(mustRead(t, file)) {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				sh := newShell(t)
				for _, step := range c.steps {
					if got := sh.transcript(step.command); got != step.answer {
						t.Errorf("$ %s\n--- answers\n%s--- recorded\n%s", step.command, got, step.answer)
					}
				}
			})
		}
	}
}

type recordedCase struct {
	name  string
	steps []step
}

type step struct{ command, answer string }

// recordedCases reads a recording: "== name" begins a case, "$ command" a command, and what follows is its answer.
func recordedCases(text string) []recordedCase {
	var cases []recordedCase
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "== "); ok {
			cases = append(cases, recordedCase{name: strings.TrimSpace(name)})
			continue
		}
		if len(cases) == 0 || line == "\n" {
			continue
		}
		c := &cases[len(cases)-1]
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			c.steps = append(c.steps, step{command: strings.TrimSuffix(command, "\n")})
			continue
		}
		c.steps[len(c.steps)-1].answer += line
	}
	return cases
}

// transcript runs a command and writes down its answer as the recordings do.
func (sh *shell) transcript(command string) string {
	out, errs, code := sh.run(command)
	return fmt.Sprintf("exit %d\n", code) + tagged("out", out) + tagged("err", errs)
}

func tagged(tag, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasSuffix(line, "\n") {
			b.WriteString(tag + "|" + line)
		} else {
			b.WriteString(tag + `\` + line + "\n")
		}
	}
	return b.String()
}
