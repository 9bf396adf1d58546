// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespaces is where iproute2 looks for network namespaces by name.
const namespaces = "/run/netns"

// addNamespace makes a network namespace with a name, as `ip netns add` does.
func addNamespace(name string) error {
	if err := shareNamespaces(); err != nil {
		return err
	}
	path := filepath.Join(namespaces, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error)
	go func() {
		// Never unlocked: the thread, which is in the new namespace, ends with its goroutine.
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The first thread of a process cannot end. Hold it here while another one does the work.
			inner := make(chan error)
			go func() {
				runtime.LockOSThread()
				inner <- unshareTo(path)
			}()
			err := <-inner
			runtime.UnlockOSThread()
			done <- err
			return
		}
		done <- unshareTo(path)
	}()
	if err := <-done; err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

func unshareTo(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("making a network namespace: %w", err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", path, err)
	}
	return nil
}

// shareNamespaces makes the folder a shared mount: a namespace that is named or unnamed in one mount namespace is
// then so in all.
func shareNamespaces() error {
	if err := os.MkdirAll(namespaces, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", namespaces, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: it is no mount point yet
		return err
	}
	if err := unix.Mount(namespaces, namespaces, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", namespaces, err)
	}
	return unix.Mount("", namespaces, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// remove kills what runs in the host and takes its interfaces and its namespace away. The interfaces go first
// and by hand, since the kernel would take them away with the namespace only some time later. A host that is not
// there, or only half, is fine.
func (h *Host) remove() error {
	path := filepath.Join(namespaces, h.namespace)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err == nil && stat.Type == unix.NSFS_MAGIC {
		if err := h.kill(); err != nil {
			return err
		}
		if err := h.Do(removeLinks); err != nil {
			return err
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
	return os.Remove(path)
}

func removeLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type() != "veth" && l.Type() != "bridge" {
			continue
		}
		var gone netlink.LinkNotFoundError
		err := netlink.LinkDel(l)
		if err != nil && !errors.As(err, &gone) && !errors.Is(err, unix.ENODEV) {
			return err
		}
	}
	return nil
}

// kill ends all processes in the host, other than this one.
func (h *Host) kill() error {
	var own unix.Stat_t
	if err := unix.Stat(filepath.Join(namespaces, h.namespace), &own); err != nil {
		return err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var its unix.Stat_t
		err = unix.Stat(filepath.Join("/proc", e.Name(), "ns/net"), &its)
		if err == nil && its.Ino == own.Ino && its.Dev == own.Dev {
			unix.Kill(pid, unix.SIGKILL) // it may have ended by itself
		}
	}
	return nil
}
