// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"lvs"
)

// victim, in the environment, has the test binary change tables until it is killed: "change", "load" or "upgrade", and the number
// of the first state; or "restore", and how many connections.
const victim = "DATAPLANE_TEST_VICTIM"

// stories is the seed of the random ones.
const stories = "1"

func TestMain(m *testing.M) {
	if story := os.Getenv(victim); story != "" {
		fmt.Fprintln(os.Stderr, suffer(story))
		os.Exit(1)
	}
	flag.Parse()
	if seed := flag.Lookup("rapid.seed"); seed.Value.String() == "0" {
		// the same stories each time, so that a failure is the change's; others with -rapid.seed
		if err := seed.Value.Set(stories); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// suffer makes one change after the other, and writes a byte after each.
func suffer(story string) error {
	var what string
	var i int
	if _, err := fmt.Sscan(story, &what, &i); err != nil {
		return err
	}
	d, err := Open(small)
	if err != nil {
		return err
	}
	if what == "restore" {
		return d.restoreMany(i)
	}
	for ; ; i++ {
		if what == "upgrade" {
			if _, err := d.Upgrade(true); err != nil {
				return err
			}
		} else if err := d.Update(states[i%len(states)].become); err != nil {
			return err
		}
		if what == "load" {
			if err := d.Unload(); err != nil {
				return err
			}
		}
		if _, err := os.Stdout.Write([]byte{'.'}); err != nil {
			return err
		}
	}
}

// mustKill starts a victim in the thread's namespace, and kills it within a time after its first change; it gives how
// many changes were told of.
func mustKill(t testing.TB, what string, first int, within time.Duration) (changes int) {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), victim+"="+what+" "+strconv.Itoa(first))
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	_, err = io.ReadFull(out, make([]byte, 1))
	must(t, err)
	time.Sleep(rand.N(within)) // any moment is as good
	must(t, c.Process.Kill())
	rest, err := io.ReadAll(out)
	must(t, err)
	c.Wait()
	return 1 + len(rest)
}

// A process that is killed in the middle of its changes leaves no half of one behind.
func TestKilledWhileChanging(t *testing.T) {
	w := mustWorld(t, small)
	next, unfinished := 0, 0
	for round := range 60 {
		last := next + mustKill(t, "change", next, 12*time.Millisecond) - 1
		if _, err := os.Stat(w.place.Path + "/" + journalPin); err == nil {
			unfinished++
		}
		got, done, begun := mustConfigured(t, w.Director), states[last%len(states)], states[(last+1)%len(states)]
		switch got {
		case done.String():
			next = last + 1
		case begun.String():
			next = last + 2
		default:
			t.Fatalf("round %d: the table is\n%s\nneither\n%s\nnor\n%s", round, got, done, begun)
		}
		w.checkConsistent()
		if t.Failed() {
			return
		}
		w.connect(states[(next-1+len(states))%len(states)], round)
	}
	if unfinished == 0 {
		t.Error("no change was cut short")
	}
	t.Logf("%d changes were cut short", unfinished)
	w.checkLoads()
	w.mustExpire()
}

// A process that is killed while it loads and unloads leaves what the next one can load and unload.
func TestKilledWhileLoading(t *testing.T) {
	mustNamespace(t)
	d, err := Open(small)
	must(t, err)
	defer d.Unload()
	for range 4 {
		mustKill(t, "load", 0, 100*time.Millisecond)
		must(t, d.Update(states[1].become))
		if got := mustConfigured(t, d); got != states[1].String() {
			t.Fatalf("the table is\n%s\nwant\n%s", got, states[1])
		}
		mustKill(t, "load", 0, 100*time.Millisecond)
		must(t, d.Unload())
		for _, path := range []string{d.place.Path, d.place.Unfinished()} {
			if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left", path)
			}
		}
		if table, err := d.Table(); err != nil || configured(table) != configured(&lvs.Table{Timeouts: lvs.DefaultTimeouts}) {
			t.Errorf("after unloading: %v, %v", table, err)
		}
	}
}
