// SPDX-License-Identifier: Apache-2.0

// Package dataplane is the Go face of the eBPF program.
package dataplane

import (
	_ "github.com/cilium/ebpf"
	_ "github.com/vishvananda/netlink"
	_ "github.com/vishvananda/netns"
)
