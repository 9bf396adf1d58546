// SPDX-License-Identifier: Apache-2.0

package place

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"lvs/needs"
)

// A command that has mounts of its own, as `ip netns exec` and `unshare -m` give it, finds what everybody finds; and what was
// found is kept.
func TestFind(t *testing.T) {
	needs.BPF(t)
	here, err := Find("")
	if err != nil {
		t.Fatal(err)
	}
	var inside string
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its mounts
		inside, err = func() (string, error) {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return "", err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return "", err
			}
			if err := unix.Mount("tmpfs", "/sys", "tmpfs", 0, ""); err != nil {
				return "", err
			}
			if isBPFFS(bpffsMount) {
				return "", errors.New("the mount is seen in spite of what is mounted over it")
			}
			return findBPFFS()
		}()
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	root, err := held()
	if err != nil {
		t.Fatal(err)
	}
	var same [3]os.FileInfo
	for i, path := range []string{root.found, root.held, inside} {
		if same[i], err = os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if !os.SameFile(same[0], same[i]) {
			t.Errorf("%s is another one than %s", path, root.found)
		}
	}
	if again, err := Find(""); err != nil || again != here {
		t.Errorf("%v, then %v (%v)", here, again, err)
	}
}
