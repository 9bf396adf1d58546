// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"slices"
	"strings"
	"testing"

	"lvs"
)

func TestComplete(t *testing.T) {
	saved, err := ReadTable(newShell(t).env(nil, nil, nil), strings.NewReader(savedTable))
	if err != nil {
		t.Fatal(err)
	}
	table := func() (*lvs.Table, error) { return saved, nil }
	for _, c := range []struct{ line, want string }{
		{"ipvsadm --add", "--add-service --add-server --add-laddr"},
		{"ipvsadm -L --s", "--sctp-service --stats --syncid"},
		{"ipvsadm -A -s s", "sh sed"},
		{"ipvsadm -As w", "wrr wlc"},
		{"ipvsadm -A --scheduler=", ""},
		{"ipvsadm -a --tun-t", "--tun-type"},
		{"ipvsadm -a -t 1.1.1.1:1 -r 2.2.2.2:1 -i --tun-type g", "gue gre"},
		{"ipvsadm -D -t ", "10.0.0.1:80 [2001:db8::1]:443"},
		{"ipvsadm -D -u ", ""},
		{"ipvsadm -D --fwmark-service ", "7"},
		{"ipvsadm -d -t 10.0.0.1:80 -r ", "192.168.0.1:80 192.168.0.2:80"},
		{"ipvsadm -d -t 10.0.0.1:81 -r ", ""},
		{"ipvsadm -d -t 10.0.0.1:80 ", "-r --real-server"},
		{"ipvsadm -a -t 10.0.0.1:80 -r 192.168.0.9:80 -m --", "--weight --u-threshold --l-threshold --tun-type --tun-port --tun-nocsum --tun-csum --tun-remcsum"},
		{"ipvsadm -D -f 7 ", "-6 --ipv6"},
		{"ipvsadm -C ", ""},
		{"ipvsadm -A -b sh", "sh-fallback sh-port"},
		{"ipvsadm-save ", "-n"},
		{"/sbin/ipvsadm-restore ", ""},
	} {
		if got := Complete(strings.Split(c.line, " "), table); !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%q may become %q, not %s", c.line, got, c.want)
		}
	}
}
