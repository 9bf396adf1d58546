// SPDX-License-Identifier: Apache-2.0

// Package needs lets a test say what it needs of the machine. A test whose need is not met is skipped with the
// reason, and fails instead if DIRECTOR_TEST_REQUIRE, a list like "bpf,netns", names the need.
package needs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// NetNS is for tests that make network namespaces.
func NetNS(t testing.TB) {
	t.Helper()
	check(t, "netns", errors.Join(root(), inThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) })))
}

// BPF is for tests that load eBPF programs.
func BPF(t testing.TB) {
	t.Helper()
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	check(t, "bpf", errors.Join(root(), err))
}

// Programs is for tests that run programs of the distribution. Which ones counts as a part of "netns".
func Programs(t testing.TB, names ...string) {
	t.Helper()
	var missing []error
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, err)
		}
	}
	check(t, "netns", errors.Join(missing...))
}

func check(t testing.TB, need string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("DIRECTOR_TEST_REQUIRE"), ","), need) {
		t.Fatalf("required, but missing: %s: %v", need, err)
	}
	t.Skipf("needs %s: %v", need, err)
}

func root() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("not root: %w", os.ErrPermission)
	}
	return nil
}

// inThread runs f on a thread that ends afterwards, with whatever f changed about it.
func inThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}
