// SPDX-License-Identifier: Apache-2.0

// Package dataplane is the Go face of the eBPF program: it loads and attaches it, writes the table of services into
// its maps, and reads connections and counters back. The kernel half is complete by itself; whoever opens it here
// changes it under a lock and goes.
//
// It is the only package that knows maps. C owns their layouts (bpf/types.h); Go has them from BTF.
package dataplane

//go:generate go tool -modfile=../tools/go.mod bpf2go -go-package dataplane -target bpfel -output-stem director -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -mcpu=v3 -I/usr/include/x86_64-linux-gnu" -type seat -type contest -type counts -type conn -type attachment -type scheduler -type reason -type slot_use -type local -type outcome -type routed -type direction -type rest bpf bpf/director.bpf.c
//go:generate go tool -modfile=../tools/go.mod bpf2go -go-package dataplane -target bpfel -output-stem restorer -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-unused-function -mcpu=v3 -I/usr/include/x86_64-linux-gnu" -type restored -type restore_outcome restorer bpf/restore.bpf.c
