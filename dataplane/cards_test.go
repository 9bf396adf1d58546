// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestCardAdvice(t *testing.T) {
	for _, c := range []struct {
		card
		want []string // in this order
	}{
		{card: card{name: "eth0", queues: 4, most: 8, xdp: "native"}},
		{card: card{name: "eth0", queues: 1, most: 1}},
		{card: card{name: "eth0"}},
		{card{name: "eth0", queues: 1, most: 2}, []string{"ethtool -L eth0 combined 2"}},
		{card{name: "eth0", queues: 2, most: 64}, []string{"2 of 4 CPUs receive: ethtool -L eth0 combined 4"}},
		{card{name: "eth0", lro: true, xdp: "generic"}, []string{"ethtool -K eth0 lro off", "generic"}},
		{card{name: "veth0", xdp: "native", deaf: "peer"}, []string{"ethtool -K peer gro on"}},
		{card{name: "veth0", xdp: "native", partial: "peer"}, []string{"ethtool -K peer tx off"}},
		{card{name: "veth0", xdp: "native", hidden: true}, []string{"gro on tx off"}},
	} {
		got := c.advice(4)
		if !slices.EqualFunc(got, c.want, strings.Contains) {
			t.Errorf("%+v: %q, want %q", c.card, got, c.want)
		}
	}
}

// TestCardsOfTheKernel: a veth pair's other end takes frames of XDP with GRO, or with XDP, and else does not; and it makes checksums itself
// where no device is said to. In another namespace it is out of sight.
func TestCardsOfTheKernel(t *testing.T) {
	mustNamespace(t)
	l := mustInterface(t, "near", 1500)
	e, err := ethtool.NewEthtool()
	must(t, err)
	defer e.Close()
	names := map[bool]string{false: "near-end"}
	for _, gro := range []bool{true, false} {
		for _, whole := range []bool{true, false} {
			must(t, e.Change("near-end", map[string]bool{"rx-gro": gro, "tx-checksum-ip-generic": !whole}))
			if c := readCard(e, l, "native"); c.deaf != names[gro] || c.partial != names[whole] || c.hidden || c.lro {
				t.Errorf("GRO %v, checksums %v: %+v", gro, whole, c)
			}
			if c := readCard(e, l, ""); c.deaf != "" || c.partial != "" {
				t.Errorf("without XDP, GRO %v, checksums %v: %+v", gro, whole, c)
			}
		}
	}
	far, err := netlink.LinkByName("near-end")
	must(t, err)
	elsewhere := make(chan *os.File)
	go func() {
		runtime.LockOSThread() // as in mustNamespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Error(err)
		}
		elsewhere <- ns
	}()
	ns := <-elsewhere
	defer ns.Close()
	must(t, netlink.LinkSetNsFd(far, int(ns.Fd())))
	l, err = netlink.LinkByName("near")
	must(t, err)
	if c := readCard(e, l, "native"); !c.hidden || c.deaf != "" || c.partial != "" {
		t.Errorf("the other end is elsewhere: %+v", c)
	}
}
