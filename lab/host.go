// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is the name by which `ip netns exec` knows the host.
func (h *Host) Namespace() string { return h.namespace }

// Do runs f in the host: what f opens, asks or starts belongs there. What f hands to other goroutines does not.
func (h *Host) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	away, err := h.open()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer away.Close()
	if err := unix.Setns(int(away.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("entering %s: %w", h.namespace, err)
	}
	// A thread that cannot return stays locked, and ends with its goroutine.
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

func (h *Host) open() (*os.File, error) { return os.Open(filepath.Join(namespaces, h.namespace)) }

// Listen is [net.Listen] in the host.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	err = h.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// Dial is [net.Dialer.DialContext] in the host. The address is numeric: names would be resolved elsewhere.
func (h *Host) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, err
	}
	err = h.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Cmd is a command that runs in a host. The methods of [exec.Cmd] that start it do so there.
type Cmd struct {
	*exec.Cmd
	host *Host
}

// Command is [exec.CommandContext] in the host. The command is in a process group of its own, so that an
// interrupt from the terminal reaches this process alone, which then ends its commands by the context.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	return &Cmd{c, h}
}

// Start is [exec.Cmd.Start] in the host.
func (c *Cmd) Start() error { return c.host.Do(c.Cmd.Start) }

// Run is [exec.Cmd.Run] in the host.
func (c *Cmd) Run() error { return c.host.Do(c.Cmd.Run) }

// Output is [exec.Cmd.Output] in the host.
func (c *Cmd) Output() (out []byte, err error) {
	err = c.host.Do(func() (err error) {
		out, err = c.Cmd.Output()
		return err
	})
	return out, err
}

// CombinedOutput is [exec.Cmd.CombinedOutput] in the host.
func (c *Cmd) CombinedOutput() (out []byte, err error) {
	err = c.host.Do(func() (err error) {
		out, err = c.Cmd.CombinedOutput()
		return err
	})
	return out, err
}

// create makes the namespace, with lo up.
func (h *Host) create() error {
	if err := addNamespace(h.namespace); err != nil {
		return err
	}
	return h.Do(func() error {
		if haveIPv6() {
			// An address that is still being checked for duplicates cannot be used for a second.
			if err := sysctl("net.ipv6.conf.default.accept_dad=0"); err != nil {
				return err
			}
		}
		return setUp("lo")
	})
}

// configure gives a host with interfaces its addresses, settings and routes. IPv6 is left out where the kernel
// has none.
func (h *Host) configure() error {
	return h.Do(func() error {
		for _, s := range h.Sysctls {
			if err := sysctl(s); err != nil {
				return err
			}
		}
		for _, i := range h.Interfaces {
			for _, a := range i.Addrs {
				if err := addAddr(i.Name, a); err != nil {
					return fmt.Errorf("address %s on %s: %w", a, i.Name, err)
				}
			}
		}
		for _, r := range h.Routes {
			if err := addRoute(r); err != nil {
				return fmt.Errorf("route %s: %w", r, err)
			}
		}
		return nil
	})
}

func addAddr(iface, address string) error {
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return err
	}
	if prefix.Addr().Is6() && !haveIPv6() {
		return nil
	}
	link, err := netlink.LinkByName(iface)
	if err != nil {
		return err
	}
	a := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return netlink.AddrAdd(link, a)
}

var errRoute = errors.New(`not of the form "PREFIX via ADDRESS"`)

func addRoute(route string) error {
	f := strings.Fields(route)
	if len(f) != 3 || f[1] != "via" {
		return errRoute
	}
	via, err := netip.ParseAddr(f[2])
	if err != nil {
		return err
	}
	if via.Is6() && !haveIPv6() {
		return nil
	}
	r := &netlink.Route{Gw: via.AsSlice()}
	if f[0] != "default" {
		to, err := netip.ParsePrefix(f[0])
		if err != nil {
			return err
		}
		r.Dst = ipNet(to)
	}
	return netlink.RouteAdd(r)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func haveIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// sysctl writes a setting "a.b.c=value" of the namespace that the thread is in. One of IPv6 is left out where
// the kernel has none.
func sysctl(setting string) error {
	name, value, ok := strings.Cut(setting, "=")
	if !ok {
		return fmt.Errorf("setting %s: no value", setting)
	}
	if strings.HasPrefix(name, "net.ipv6.") && !haveIPv6() {
		return nil
	}
	err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
	if err != nil {
		return fmt.Errorf("setting %s: %w", setting, err)
	}
	return nil
}
