// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"slices"
	"strings"
	"testing"

	"github.com/safchain/ethtool"
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
	} {
		got := c.advice(4)
		if !slices.EqualFunc(got, c.want, strings.Contains) {
			t.Errorf("%+v: %q, want %q", c.card, got, c.want)
		}
	}
}

// TestCardsOfTheKernel: a veth pair's other end takes frames of XDP with GRO, or with XDP, and else does not.
func TestCardsOfTheKernel(t *testing.T) {
	mustNamespace(t)
	l := mustInterface(t, "near", 1500)
	e, err := ethtool.NewEthtool()
	must(t, err)
	defer e.Close()
	for gro, deaf := range map[bool]string{true: "", false: "near-end"} {
		must(t, e.Change("near-end", map[string]bool{"rx-gro": gro}))
		if c := readCard(e, l, "native"); c.deaf != deaf || c.lro {
			t.Errorf("GRO %v: %+v", gro, c)
		}
		if c := readCard(e, l, ""); c.deaf != "" {
			t.Errorf("without XDP, GRO %v: %+v", gro, c)
		}
	}
}
