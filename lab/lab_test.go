// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"lvs/needs"
)

func equal(a, b []act) bool { return len(a) == len(b) && (len(a) == 0 || reflect.DeepEqual(a, b)) }

// routed is a client and two servers on both sides of a router, one family as good as the other.
func routed(t *testing.T) (n *Network, client, router *Host, servers []*Host) {
	client = &Host{Name: "client",
		Interfaces: []Interface{{Name: "eth0", Segment: "outside", Addrs: []string{"10.1.0.2/24", "2001:db8:1::2/64"}}},
		Routes:     []string{"default via 10.1.0.1", "2001:db8:2::/64 via 2001:db8:1::1"}}
	router = &Host{Name: "router",
		Interfaces: []Interface{
			{Name: "eth0", Segment: "outside", Addrs: []string{"10.1.0.1/24", "2001:db8:1::1/64"}},
			{Name: "eth1", Segment: "inside", Addrs: []string{"10.2.0.1/24", "2001:db8:2::1/64"}}},
		Sysctls: []string{"net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"}}
	n = &Network{Name: fmt.Sprintf("labtest-%d", os.Getpid()), Hosts: []*Host{client, router}}
	for i := range 2 {
		servers = append(servers, &Host{Name: fmt.Sprintf("server%d", i+1),
			Interfaces: []Interface{{Name: "eth0", Segment: "inside",
				Addrs: []string{fmt.Sprintf("10.2.0.%d/24", i+2), fmt.Sprintf("2001:db8:2::%d/64", i+2)}}},
			Routes: []string{"10.1.0.0/24 via 10.2.0.1", "default via 2001:db8:2::1"}})
	}
	n.Hosts = append(n.Hosts, servers...)
	return n, client, router, servers
}

func mustUp(t *testing.T, n *Network) {
	t.Helper()
	if err := n.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Down() })
}

func mustServe(t *testing.T, h *Host, address string) {
	t.Helper()
	l, err := h.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go Serve(l, h.Name)
}

func TestRequestsCrossWiresAndSwitches(t *testing.T) {
	needs.NetNS(t)
	for _, xdp := range []bool{false, true} {
		t.Run(fmt.Sprintf("xdp=%v", xdp), func(t *testing.T) {
			n, client, _, servers := routed(t)
			n.XDP = xdp
			mustUp(t, n)
			for i, s := range servers {
				for _, address := range []string{fmt.Sprintf("10.2.0.%d:80", i+2), fmt.Sprintf("[2001:db8:2::%d]:80", i+2)} {
					mustServe(t, s, address)
					answer, err := client.Get(t.Context(), netip.MustParseAddrPort(address))
					if err != nil || !strings.HasPrefix(answer, s.Name+" answers ") {
						t.Errorf("%s: %q, %v", address, answer, err)
					}
				}
			}
		})
	}
}

func TestCommandsRunInTheirHost(t *testing.T) {
	needs.NetNS(t)
	n, client, router, _ := routed(t)
	mustUp(t, n)
	for _, h := range []*Host{client, router} {
		out, err := h.Command(t.Context(), "cat", "/proc/sys/net/ipv4/ip_forward").Output()
		if want := map[*Host]string{client: "0\n", router: "1\n"}[h]; err != nil || string(out) != want {
			t.Errorf("%s: ip_forward %q, %v; want %q", h.Name, out, err, want)
		}
	}
	var exit *exec.ExitError
	if err := client.Command(t.Context(), "false").Run(); !errors.As(err, &exit) {
		t.Errorf("false answers %v", err)
	}
}

func TestDownLeavesNothing(t *testing.T) {
	needs.NetNS(t)
	n, client, _, _ := routed(t)
	mustUp(t, n)
	running := client.Command(t.Context(), "sleep", "1000")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.Down(); err != nil {
		t.Fatal(err)
	}
	if err := running.Wait(); err == nil {
		t.Error("a command outlives its host")
	}
	mustBeGone(t, n.Name)
}

func mustBeGone(t *testing.T, name string) {
	t.Helper()
	left, _ := filepath.Glob(filepath.Join(namespaces, name+"-*"))
	noted, _ := filepath.Glob(filepath.Join(states, name))
	if all := append(left, noted...); len(all) > 0 {
		t.Errorf("left over: %v", all)
	}
}

func TestUpThatEndsHalfWayLeavesNothing(t *testing.T) {
	needs.NetNS(t)
	for about, spoil := range map[string]func(*Network){
		"a bad address":      func(n *Network) { n.Hosts[0].Interfaces[0].Addrs = []string{"10.1.0.300/24"} },
		"a bad route":        func(n *Network) { n.Hosts[0].Routes = []string{"default 10.1.0.1"} },
		"no such gateway":    func(n *Network) { n.Hosts[0].Routes = []string{"default via 10.9.9.9"} },
		"a bad setting":      func(n *Network) { n.Hosts[1].Sysctls = []string{"net.ipv4.no_such_thing=1"} },
		"an interface twice": func(n *Network) { n.Hosts[1].Interfaces[1].Name = "eth0" },
		"a lonely interface": func(n *Network) { n.Hosts[0].Interfaces[0].Segment = "elsewhere" },
	} {
		t.Run(about, func(t *testing.T) {
			n, _, _, _ := routed(t)
			spoil(n)
			if err := n.Up(t.Context()); err == nil {
				t.Error("is up")
			}
			mustBeGone(t, n.Name)
		})
	}
}

func TestOneLabAtATime(t *testing.T) {
	needs.NetNS(t)
	n, client, _, _ := routed(t)
	mustUp(t, n)
	again, _, _, _ := routed(t)
	if err := again.Up(t.Context()); !errors.Is(err, ErrUp) {
		t.Errorf("a second one while the first is up: %v", err)
	}
	if _, err := Clean(n.Name); !errors.Is(err, ErrUp) {
		t.Errorf("cleaning while it is up: %v", err)
	}
	if err := n.Keep(); err != nil {
		t.Fatal(err)
	}
	if err := again.Up(t.Context()); !errors.Is(err, ErrUp) {
		t.Errorf("a second one while the first is kept: %v", err)
	}
	if out, err := client.Command(t.Context(), "true").CombinedOutput(); err != nil {
		t.Errorf("a host of a kept lab: %v: %s", err, out)
	}
	if found, err := Clean(n.Name); !found || err != nil {
		t.Errorf("cleaning: %v, %v", found, err)
	}
	if found, err := Clean(n.Name); found || err != nil {
		t.Errorf("cleaning twice: %v, %v", found, err)
	}
	mustBeGone(t, n.Name)
}

// A process that is killed loses its lock, and leaves the note and the namespaces.
func TestLeftoversAreClearedAway(t *testing.T) {
	needs.NetNS(t)
	for _, by := range []string{"the next lab", "clean"} {
		t.Run(by, func(t *testing.T) {
			n, _, _, _ := routed(t)
			mustUp(t, n)
			n.guard.file.Close()
			if by == "clean" {
				if found, err := Clean(n.Name); !found || err != nil {
					t.Errorf("cleaning: %v, %v", found, err)
				}
			} else {
				again, _, _, _ := routed(t)
				mustUp(t, again)
				if err := again.Down(); err != nil {
					t.Error(err)
				}
			}
			mustBeGone(t, n.Name)
		})
	}
}

func TestNamespacesOfOthersAreLeftAlone(t *testing.T) {
	needs.NetNS(t)
	n, _, _, _ := routed(t)
	theirs := n.Name + "-router"
	if err := addNamespace(theirs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { (&Host{namespace: theirs}).remove() })
	if err := n.Up(t.Context()); err == nil || !strings.Contains(err.Error(), theirs) {
		t.Errorf("up beside it: %v", err)
	}
	if _, err := os.Stat(filepath.Join(namespaces, theirs)); err != nil {
		t.Error(err)
	}
}
