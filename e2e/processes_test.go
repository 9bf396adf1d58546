// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lvs/lab"
	"lvs/needs"
)

// lone is a host that has nothing but the binary's programs.
type lone struct {
	testing.TB
	*lab.Host
	bin string
}

// mustLone makes such a host for a test.
func mustLone(t testing.TB) lone {
	t.Helper()
	needs.NetNS(t)
	needs.BPF(t)
	bin := mustBuild(t)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	h := &lab.Host{Name: "director", Leave: []string{filepath.Join(bin, "director"), "unload"}}
	n := &lab.Network{Name: fmt.Sprintf("labtest-%d-%s", os.Getpid(), strings.ToLower(t.Name()[:8])), Hosts: []*lab.Host{h}}
	if err := n.Up(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Down() })
	return lone{t, h, bin}
}

// command runs a program of the binary with an input, and answers with its output.
func (l lone) command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	c := l.Host.Command(ctx, filepath.Join(l.bin, name), args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && len(exit.Stderr) > 0 {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, exit.Stderr)
	}
	return string(out), err
}

func (l lone) must(stdin, name string, args ...string) string {
	l.Helper()
	out, err := l.command(context.Background(), stdin, name, args...)
	if err != nil {
		l.Fatal(err)
	}
	return out
}

// bigTable gives a save file of services with servers each, of a weight.
func bigTable(services, servers, weight int) string {
	var b strings.Builder
	for i := range services {
		vip := fmt.Sprintf("10.0.%d.%d:80", i>>8, i&255)
		fmt.Fprintf(&b, "-A -t %s -s wlc\n", vip)
		for j := range servers {
			fmt.Fprintf(&b, "-a -t %s -r 192.168.%d.%d:80 -m -w %d\n", vip, i&255, j+1, weight)
		}
	}
	return b.String()
}

// TestCommandsAtOnceLoseNothing lets 32 loops change the same service at once, each its own server of it, and a
// service of its own.
func TestCommandsAtOnceLoseNothing(t *testing.T) {
	l := mustLone(t)
	l.must("", "ipvsadm", "-A", "-t", "10.0.0.1:80")
	const loops, rounds = 32, 1
	var all sync.WaitGroup
	for i := range loops {
		all.Go(func() {
			own, server := fmt.Sprintf("10.0.0.1:%d", 1000+i), fmt.Sprintf("192.168.0.%d:80", i+1)
			run := func(words string) {
				if _, err := l.command(context.Background(), "", "ipvsadm", strings.Fields(words)...); err != nil {
					t.Error(err)
				}
			}
			for range rounds {
				run("-a -t 10.0.0.1:80 -m -r " + server)
				run("-e -t 10.0.0.1:80 -m -w 7 -r " + server)
				run("-A -s rr -t " + own)
				run("-d -t 10.0.0.1:80 -r " + server)
				run("-E -s lc -t " + own)
				run("-D -t " + own)
			}
			run(fmt.Sprintf("-a -t 10.0.0.1:80 -m -w %d -r %s", i, server))
			run("-A -s wrr -t " + own)
		})
	}
	all.Wait()
	var want strings.Builder
	fmt.Fprintln(&want, "-A -t 10.0.0.1:80 -s wlc")
	for i := range loops {
		fmt.Fprintf(&want, "-a -t 10.0.0.1:80 -r 192.168.0.%d:80 -m -w %d\n", i+1, i)
	}
	for i := range loops {
		fmt.Fprintf(&want, "-A -t 10.0.0.1:%d -s wrr\n", 1000+i)
	}
	if got := l.must("", "ipvsadm", "-S", "-n"); got != want.String() {
		t.Errorf("the table is\n%s, not\n%s", got, want.String())
	}
}

// TestKilledRestoreIsWholeOrNothing kills a restore at some time, often, and looks at the table afterwards.
func TestKilledRestoreIsWholeOrNothing(t *testing.T) {
	l := mustLone(t)
	tables := []string{bigTable(150, 5, 1), bigTable(200, 4, 2)}
	l.must(tables[0], "ipvsadm-restore")
	killed := map[string]int{}
	for ms := range 60 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(ms+5)*time.Millisecond)
		_, err := l.command(ctx, tables[1-ms%2], "ipvsadm-restore")
		cancel()
		if err != nil {
			killed["restores"]++
		}
		switch got := l.must("", "ipvsadm", "-S", "-n"); got {
		case tables[ms%2]:
			killed["before"]++
		case tables[1-ms%2]:
			killed["after"]++
		default:
			t.Fatalf("killed after %d ms, it leaves neither table:\n%s", ms+5, got)
		}
	}
	t.Log(killed)
	l.must(tables[0], "ipvsadm-restore")
	if got := l.must("", "ipvsadm", "-S", "-n"); got != tables[0] {
		t.Errorf("a restore afterwards leaves\n%s", got)
	}
}

func BenchmarkRestore(b *testing.B) {
	l := mustLone(b)
	for _, services := range []int{1000, 10000} {
		table := bigTable(services, 10, 1)
		b.Run(fmt.Sprintf("%dx10", services), func(b *testing.B) {
			l.must("", "ipvsadm", "-C") // the first time also loads the program
			for b.Loop() {
				b.StopTimer()
				l.must("", "ipvsadm", "-C")
				b.StartTimer()
				l.must(table, "ipvsadm", "-R")
			}
		})
	}
}

func BenchmarkList(b *testing.B) {
	l := mustLone(b)
	for _, services := range []int{0, 1000, 10000} {
		l.must(bigTable(services, 10, 1), "ipvsadm-restore")
		b.Run(fmt.Sprintf("%dx10", services), func(b *testing.B) {
			for b.Loop() {
				l.must("", "ipvsadm", "-L", "-n")
			}
		})
	}
}

func BenchmarkOneChange(b *testing.B) {
	l := mustLone(b)
	for _, services := range []int{0, 1000} {
		l.must(bigTable(services, 10, 1)+"-A -f 1\n-a -f 1 -r 192.0.2.1:0\n", "ipvsadm-restore")
		b.Run(fmt.Sprintf("in%dx10", services), func(b *testing.B) {
			for b.Loop() {
				l.must("", "ipvsadm", "-e", "-f", "1", "-r", "192.0.2.1:0", "-w", "2")
			}
		})
	}
}

// BenchmarkFirstChange loads the program, and takes it away again.
func BenchmarkFirstChange(b *testing.B) {
	l := mustLone(b)
	for b.Loop() {
		l.must("", "ipvsadm", "-A", "-f", "1")
		b.StopTimer()
		l.must("", "director", "unload")
		b.StartTimer()
	}
}
