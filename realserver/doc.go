// SPDX-License-Identifier: Apache-2.0

// Package realserver is what runs on a real server, in place of the shell script that tutorials end with: virtual
// addresses on lo that nobody hears of, the way out of the director's tunnels, and for FULLNAT the client's address.
// Whatever it changes is written down first, so that [Stop] finds all of it, also after a crash.
package realserver

//go:generate go tool -modfile=../tools/go.mod bpf2go -go-package realserver -target bpfel -output-stem realserver -cflags "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -mcpu=v3 -I/usr/include/x86_64-linux-gnu" -type decap -type toa bpf bpf/realserver.bpf.c
