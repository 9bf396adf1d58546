// SPDX-License-Identifier: Apache-2.0

// Package place says where things of the kernel that outlive a command are pinned: a directory of the bpffs for each
// network namespace and purpose, with its lock, and the link that tells when the namespace is gone.
package place

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrNotRoot says that the caller may not load programs or open what is pinned.
var ErrNotRoot = fmt.Errorf("this needs root: %w", os.ErrPermission)

const (
	bpffsMount = "/sys/fs/bpf"
	home       = "director" // in the bpffs: a directory for each network namespace
)

// Place is the directory that everything of one network namespace is pinned in, named by the namespace's cookie,
// which is never used twice while the machine is up.
type Place struct {
	Parent string // the directory of all places
	Path   string
	Shown  string // the path by which others find it, while the process that it goes by is there
}

// Find finds the place of the calling thread's network namespace for a purpose, which is a part of the name; the
// director's is "". It makes nothing but the bpffs mount.
func Find(purpose string) (Place, error) {
	if os.Geteuid() != 0 {
		return Place{}, ErrNotRoot
	}
	root, err := held()
	if err != nil {
		return Place{}, err
	}
	cookie, err := Cookie()
	if err != nil {
		return Place{}, err
	}
	name := strconv.FormatUint(cookie, 16)
	if purpose != "" {
		name += "-" + purpose
	}
	parent := filepath.Join(root.held, home)
	return Place{parent, filepath.Join(parent, name), filepath.Join(root.found, home, name)}, nil
}

// root is a bpffs: the path that it was found by, and one that lasts as long as this process.
type root struct{ found, held string }

// held finds the bpffs, once, and keeps it open: the process that it is found through, often a shell, may end meanwhile, and its path
// with it.
var held = sync.OnceValues(func() (root, error) {
	found, err := findBPFFS()
	if err != nil {
		return root{}, err
	}
	fd, err := unix.Open(found, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return root{}, fmt.Errorf("open %s: %w", found, err)
	}
	return root{found, fmt.Sprintf("/proc/self/fd/%d", fd)}, nil
})

// Cookie is that of the calling thread's network namespace.
func Cookie() (uint64, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("network namespace's cookie: %w", err)
	}
	defer unix.Close(s)
	cookie, err := unix.GetsockoptUint64(s, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("network namespace's cookie (Linux 5.14 and later have it): %w", err)
	}
	return cookie, nil
}

// findBPFFS gives the path of a bpffs that outlives this command. `ip netns exec` and `unshare -m` give a command mounts
// of its own, which end with it, pins and all; so the mount is looked for, and if need be made, in the mount namespace
// of the outermost ancestor that lets us in: pid 1, except in some containers.
func findBPFFS() (string, error) {
	var first error
	for _, pid := range slices.Backward(ancestors()) {
		root := fmt.Sprintf("/proc/%d/root", pid)
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err != nil {
			continue
		}
		path := root + bpffsMount
		if isBPFFS(path) {
			return path, nil
		}
		err := mountBPFFS(pid)
		if err == nil && isBPFFS(path) {
			return path, nil
		}
		if first == nil {
			first = err
		}
	}
	return "", fmt.Errorf("no bpffs at %s, and none could be mounted (try: mount -t bpf bpf %s): %w", bpffsMount, bpffsMount, first)
}

// ancestors gives the process and its ancestors, itself first.
func ancestors() []int {
	var pids []int
	for pid := os.Getpid(); pid > 0; {
		pids = append(pids, pid)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			break
		}
		_, rest, _ := strings.Cut(string(status), "\nPPid:")
		line, _, _ := strings.Cut(rest, "\n")
		pid, _ = strconv.Atoi(strings.TrimSpace(line))
	}
	return pids
}

func isBPFFS(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.BPF_FS_MAGIC
}

// mountBPFFS mounts a bpffs in another process's mount namespace, on a thread that it leaves unusable.
func mountBPFFS(pid int) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("mount namespace of process %d: %w", pid, err)
			}
			if err := unix.Mount("bpf", bpffsMount, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
				return fmt.Errorf("mount bpffs on %s: %w", bpffsMount, err)
			}
			return nil
		}()
	}()
	return <-done
}

// Lock is a lock on a directory of the bpffs, which lasts until it is released or the process ends.
type Lock struct{ dir *os.File }

// Release gives the lock up.
func (l Lock) Release() { l.dir.Close() }

// LockDir waits for the lock of a directory: shared (unix.LOCK_SH), exclusive (unix.LOCK_EX) or none (unix.LOCK_UN). It answers
// os.ErrNotExist if there is no such directory, also if it went while we waited.
func LockDir(path string, how int) (Lock, error) {
	for {
		dir, err := os.Open(path)
		if err != nil {
			return Lock{}, err
		}
		for {
			err = unix.Flock(int(dir.Fd()), how)
			if err != unix.EINTR {
				break
			}
		}
		if err != nil {
			dir.Close()
			return Lock{}, fmt.Errorf("lock %s: %w", path, err)
		}
		ours, err1 := dir.Stat()
		now, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(ours, now) {
			return Lock{dir}, nil
		}
		dir.Close()
	}
}
