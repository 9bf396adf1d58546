// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// bigTable gives a save file of services with ten servers each.
func bigTable(services int) string {
	var b strings.Builder
	for i := range services {
		vip := fmt.Sprintf("10.0.%d.%d:80", i>>8, i&255)
		fmt.Fprintf(&b, "-A -t %s -s wlc -p 360\n", vip)
		for j := range 10 {
			fmt.Fprintf(&b, "-a -t %s -r 192.168.%d.%d:8080 -m -w %d\n", vip, j, i&255, j)
		}
	}
	return b.String()
}

func BenchmarkRestore(b *testing.B) {
	for _, services := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("%dx10", services), func(b *testing.B) {
			text := bigTable(services)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				mustRestore(b, text)
			}
		})
	}
}

func mustRestore(b *testing.B, text string) *shell {
	sh := newShell(b)
	var errs strings.Builder
	if code := Run(sh.env(strings.NewReader(text), io.Discard, &errs), []string{"ipvsadm", "-R"}); code != 0 {
		b.Fatalf("exit %d: %s", code, errs.String())
	}
	return sh
}

func BenchmarkList(b *testing.B) {
	sh := mustRestore(b, bigTable(1000))
	for _, option := range []string{"-Ln", "-L", "-Sn"} {
		b.Run(option, func(b *testing.B) {
			for b.Loop() {
				if code := Run(sh.env(nil, io.Discard, io.Discard), []string{"ipvsadm", option}); code != 0 {
					b.Fatalf("exit %d", code)
				}
			}
		})
	}
}
