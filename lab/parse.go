// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strings"
)

// Parse reads a description of hosts, one fact a line:
//
//	HOST interface NAME SEGMENT ADDRESS...
//	HOST route PREFIX via ADDRESS
//	HOST sysctl NAME=VALUE
func Parse(text string) (hosts []*Host, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		at := slices.IndexFunc(hosts, func(h *Host) bool { return h.Name == f[0] })
		if at < 0 {
			at = len(hosts)
			hosts = append(hosts, &Host{Name: f[0]})
		}
		h := hosts[at]
		switch {
		case len(f) >= 4 && f[1] == "interface":
			h.Interfaces = append(h.Interfaces, Interface{Name: f[2], Segment: f[3], Addrs: f[4:]})
		case len(f) == 5 && f[1] == "route":
			h.Routes = append(h.Routes, strings.Join(f[2:], " "))
		case len(f) == 3 && f[1] == "sysctl":
			h.Sysctls = append(h.Sysctls, f[2])
		default:
			return nil, fmt.Errorf("not a fact about a host: %s", line)
		}
	}
	return hosts, nil
}
