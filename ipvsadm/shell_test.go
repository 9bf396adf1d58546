// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"lvs"
)

// shell runs the command lines of the recorded cases in this process: lists with semicolons, pipes, redirections,
// quotes, and the few commands besides ipvsadm that occur.
type shell struct {
	t      testing.TB
	memory *memory
	files  map[string]*bytes.Buffer
}

func (sh *shell) run(line string) (out, errs string, code int) {
	var stdout, stderr bytes.Buffer
	for _, pipeline := range split(line, ';') {
		input := io.Reader(strings.NewReader(""))
		stages := split(pipeline, '|')
		for i, stage := range stages {
			var piped bytes.Buffer
			output := io.Writer(&piped)
			if i == len(stages)-1 {
				output = &stdout
			}
			code = sh.command(stage, input, output, &stderr)
			input = &piped
		}
	}
	return stdout.String(), stderr.String(), code
}

func (sh *shell) command(text string, in io.Reader, out, errs io.Writer) int {
	var argv []string
	words := shellWords(text)
	for i := 0; i < len(words); i++ {
		word := words[i]
		redirects := strings.HasPrefix(word, "<") || strings.HasPrefix(word, ">")
		switch {
		case redirects:
			name := word[1:]
			if name == "" {
				i++
				name = words[i]
			}
			if word[0] == '<' {
				in = sh.read(name)
			} else {
				out = sh.create(name)
			}
		case len(argv) > 0 || !strings.Contains(word, "="): // else a variable, like LC_ALL=C
			argv = append(argv, word)
		}
	}
	switch argv[0] {
	case "ipvsadm", "ipvsadm-save", "ipvsadm-restore":
		return Run(sh.env(in, out, errs), argv)
	case "printf":
		io.WriteString(out, strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t").Replace(argv[len(argv)-1]))
	case "cat":
		for _, name := range argv[1:] {
			io.Copy(out, sh.read(name))
		}
	case "sort":
		text, _ := io.ReadAll(in)
		lines := slices.Sorted(strings.Lines(string(text)))
		io.WriteString(out, strings.Join(lines, ""))
	default:
		sh.t.Fatalf("no such command in the test's shell: %q", text)
	}
	return 0
}

func (sh *shell) env(in io.Reader, out, errs io.Writer) Env {
	return Env{Stdin: in, Stdout: out, Stderr: errs, Open: sh.memory.open, Etc: "testdata/etc",
		Device: func(name string) bool { return name == "lo" }}
}

func (sh *shell) create(name string) io.Writer {
	if name == "/dev/full" {
		return full{}
	}
	sh.files[name] = &bytes.Buffer{}
	return sh.files[name]
}

func (sh *shell) read(name string) io.Reader {
	if name == "/dev/null" {
		return strings.NewReader("")
	}
	if sh.files[name] == nil {
		sh.t.Fatalf("no such file in the test's shell: %q", name)
	}
	return bytes.NewReader(sh.files[name].Bytes())
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// split takes a line apart at a character outside quotes.
func split(line string, at byte) []string {
	var parts []string
	var quote byte
	start := 0
	for i := range len(line) {
		switch c := line[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == at:
			parts = append(parts, line[start:i])
			start = i + 1
		}
	}
	return append(parts, line[start:])
}

// shellWords gives the words of a simple command without their quotes.
func shellWords(text string) []string {
	var words []string
	for _, word := range split(strings.TrimSpace(text), ' ') {
		if word != "" {
			words = append(words, strings.Trim(word, `'"`))
		}
	}
	return words
}

func mustRead(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func newShell(t testing.TB) *shell {
	return &shell{t: t, memory: newMemory(), files: map[string]*bytes.Buffer{}}
}

var _ lvs.Director = (*memory)(nil)
