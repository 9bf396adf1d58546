// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os/exec"
)

// mark is what a firewall marks for a service: a port of the virtual address.
type mark struct {
	port uint16
	mark int
}

// rules are the commands by which the director's firewall sets the marks, with the program that this machine has.
func (s *stage) rules() (commands []string, err error) {
	iptables, family := "iptables", "ip"
	if s.options.IPv6 {
		iptables, family = "ip6tables", "ip6"
	}
	if _, err := exec.LookPath(iptables); err == nil {
		for _, m := range s.marks {
			commands = append(commands, fmt.Sprintf("director# %s -t mangle -A PREROUTING -d %v -p tcp --dport %d -j MARK --set-mark %d",
				iptables, s.names["VIP"], m.port, m.mark))
		}
		return commands, nil
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return nil, errors.New("marks are set by a firewall, and neither iptables nor nft is installed here: " +
			"install one of them (apt install nftables)")
	}
	commands = []string{"director# nft add table inet lab",
		"director# nft 'add chain inet lab marks { type filter hook prerouting priority mangle; }'"}
	for _, m := range s.marks {
		commands = append(commands, fmt.Sprintf("director# nft add rule inet lab marks %s daddr %v tcp dport %d meta mark set %d",
			family, s.names["VIP"], m.port, m.mark))
	}
	return commands, nil
}
