// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lvs/needs"
)

// In a child process the environment says what to do, and after how many steps to die.
const childVerb, childSteps, childMode = "REALSERVER_TEST_VERB", "REALSERVER_TEST_STEPS", "REALSERVER_TEST_MODE"

func TestMain(m *testing.M) {
	verb := os.Getenv(childVerb)
	if verb == "" {
		os.Exit(m.Run())
	}
	left, err := strconv.Atoi(os.Getenv(childSteps))
	between = func() {
		if left--; left < 0 {
			unix.Kill(unix.Getpid(), unix.SIGKILL)
		}
	}
	if err == nil {
		switch verb {
		case "start":
			err = Start(Options{Mode: Mode(os.Getenv(childMode)), VIPs: []netip.Addr{vip4, vip6}})
		case "stop":
			err = Stop(nil)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var (
	vip4 = netip.MustParseAddr("192.0.2.80")
	vip6 = netip.MustParseAddr("2001:db8:80::80")
)

// namespace is a network namespace that lasts as long as the test.
type namespace struct{ file *os.File }

func mustNamespace(t testing.TB) namespace {
	t.Helper()
	made := make(chan namespace)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var ns namespace
		if unix.Unshare(unix.CLONE_NEWNET) == nil {
			ns.file, _ = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		}
		made <- ns
	}()
	ns := <-made
	if ns.file == nil {
		t.Fatal("no network namespace")
	}
	t.Cleanup(func() { ns.file.Close() })
	ns.must(t, func() error {
		for _, s := range []string{"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", "net/ipv6/conf/default/accept_dad"} {
			if err := writeSetting(s, "0"); err != nil {
				return err
			}
		}
		return nil
	})
	return ns
}

// must runs a function in the namespace.
func (ns namespace) must(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Helper()
		t.Fatal(err)
	}
}

func mustSetUp(t testing.TB, ns namespace, name string, addrs ...string) {
	t.Helper()
	ns.must(t, func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(l, addr); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
			if err := arrived(addr.IP); err != nil {
				return fmt.Errorf("%s: %w", a, err)
			}
		}
		return nil
	})
}

// arrived waits until packets to an own address are taken in, which for IPv6 is a moment after it was added.
func arrived(a net.IP) error {
	for end := time.Now().Add(patience); ; runtime.Gosched() {
		routes, err := netlink.RouteGet(a)
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("no local route: %v: %w", routes, err)
		}
	}
}

func mustWire(t testing.TB, a, b namespace, name string) {
	t.Helper()
	a.must(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(b.file.Fd())})
	})
	mustSetUp(t, a, name)
	mustSetUp(t, b, name)
}

// mustServer gives a namespace with two interfaces, one of them strict about return paths.
func mustServer(t testing.TB) namespace {
	t.Helper()
	needs.NetNS(t)
	needs.BPF(t)
	ns, peer := mustNamespace(t), mustNamespace(t)
	mustWire(t, ns, peer, "eth0")
	mustWire(t, ns, peer, "eth1.5") // a name that a bpffs does not like
	ns.must(t, func() error { return writeSetting("net/ipv4/conf/eth0/rp_filter", "1") })
	t.Cleanup(func() { ns.must(t, func() error { return Stop(nil) }) })
	return ns
}

// mustSnapshot gives all that Start might change in a namespace.
func mustSnapshot(t testing.TB, ns namespace) string {
	t.Helper()
	var s strings.Builder
	ns.must(t, func() error {
		for _, family := range []string{"ipv4", "ipv6"} {
			files, err := filepath.Glob("/proc/sys/net/" + family + "/conf/*/*")
			if err != nil {
				return err
			}
			for _, f := range files {
				text, err := os.ReadFile(f)
				tunnel := slices.ContainsFunc(devices, func(d device) bool { return filepath.Base(filepath.Dir(f)) == d.name })
				if errors.Is(err, fs.ErrNotExist) || strings.HasSuffix(f, "/stable_secret") || tunnel && family == "ipv6" {
					continue // those of a tunnel come when it is up for the first time
				}
				fmt.Fprintf(&s, "%s %s %v\n", f, strings.TrimSpace(string(text)), err)
			}
		}
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			addrs, err1 := netlink.AddrList(l, netlink.FAMILY_ALL)
			routes, err2 := netlink.RouteListFiltered(netlink.FAMILY_V4, // those of IPv6 come a moment later
				&netlink.Route{LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_LOCAL},
				netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
			qdiscs, err3 := netlink.QdiscList(l)
			if err := errors.Join(err1, err2, err3); err != nil {
				return err
			}
			fmt.Fprintf(&s, "%s %v\n", l.Attrs().Name, l.Attrs().Flags&net.FlagUp)
			for _, a := range addrs {
				if l.Attrs().Name == "lo" || a.IP.To4() != nil { // the others come a moment after their interfaces
					fmt.Fprintf(&s, "  %s %d %x\n", a.IPNet, a.Scope, a.Flags)
				}
			}
			for _, r := range routes {
				if l.Attrs().Name == "lo" {
					fmt.Fprintf(&s, "  %s\n", r)
				}
			}
			for _, q := range qdiscs {
				if q.Type() != "noqueue" { // which lo keeps once it was up
					fmt.Fprintf(&s, "  %s\n", q.Type())
				}
			}
		}
		p, err := find()
		if err != nil {
			return err
		}
		pins, _ := filepath.Glob(p.Path + "*")
		fmt.Fprintln(&s, pins)
		return nil
	})
	return s.String()
}

// mustRun runs a verb in a process of its own that is killed after so many steps; it tells whether it lived to its end.
func mustRun(t testing.TB, ns namespace, verb string, mode Mode, steps int) (finished bool) {
	t.Helper()
	ns.must(t, func() error {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), childVerb+"="+verb, childMode+"="+string(mode), childSteps+"="+strconv.Itoa(steps))
		out, err := c.CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Sys().(syscall.WaitStatus).Signal() == unix.SIGKILL {
			return nil
		}
		finished = err == nil
		if err != nil {
			return fmt.Errorf("%s: %w: %s", verb, err, out)
		}
		return nil
	})
	return finished
}
