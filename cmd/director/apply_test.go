// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"lvs"
	"lvs/ipvsadm"
)

func mustRead(t *testing.T, text string) *lvs.Table {
	t.Helper()
	table, err := ipvsadm.ReadTable(ipvsadm.Env{Etc: t.TempDir()}, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

const (
	threeServices = `-A -t 10.0.0.1:80 -s rr
-a -t 10.0.0.1:80 -r 192.168.0.1:80 -m -w 1
-a -t 10.0.0.1:80 -r 192.168.0.2:80 -m -w 1
-A -t 10.0.0.2:80 -s rr
-a -t 10.0.0.2:80 -r 192.168.0.1:80 -m -w 1
-A -f 9 -s rr
`
	wantedServices = `--set 900 60 300
-A -t 10.0.0.1:80 -s wrr
-a -t 10.0.0.1:80 -r 192.168.0.3:80 -m -w 1
-a -t 10.0.0.1:80 -r 192.168.0.1:80 -m -w 2
-A -f 9 -s rr
`
	changes = `- --set 900 120 300
+ --set 900 60 300
- -A -t 10.0.0.1:80 -s rr
+ -A -t 10.0.0.1:80 -s wrr
- -a -t 10.0.0.1:80 -r 192.168.0.1:80 -m -w 1
+ -a -t 10.0.0.1:80 -r 192.168.0.1:80 -m -w 2
+ -a -t 10.0.0.1:80 -r 192.168.0.3:80 -m -w 1
`
)

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		prune bool
		want  string
	}{
		{true, changes + `- -a -t 10.0.0.1:80 -r 192.168.0.2:80 -m -w 1
- -A -t 10.0.0.2:80 -s rr
- -a -t 10.0.0.2:80 -r 192.168.0.1:80 -m -w 1
1 are added, 3 changed, 3 removed.
`},
		{false, changes + `  -a -t 10.0.0.1:80 -r 192.168.0.2:80 -m -w 1
  -A -t 10.0.0.2:80 -s rr
  -a -t 10.0.0.2:80 -r 192.168.0.1:80 -m -w 1
1 are added, 3 changed, 0 removed.
3 beyond FILE are left alone; --prune removes them.
`},
	} {
		table, want := mustRead(t, threeServices), mustRead(t, wantedServices)
		plan := func() string {
			edits, err := follow(table, want, c.prune)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			differ{&text, false}.print(edits, "are")
			return text.String()
		}
		if got := plan(); got != c.want {
			t.Errorf("prune %v: the plan is\n%s", c.prune, got)
		}
		if again := plan(); !strings.Contains(again, "Nothing is to be done.\n") {
			t.Errorf("prune %v: a second time, the plan is\n%s", c.prune, again)
		}
	}
}

func TestPlanIsColoured(t *testing.T) {
	var text strings.Builder
	differ{&text, true}.print(edits{all: []edit{{"a", "b"}}, beyond: []string{"c"}}, "are")
	want := "\x1b[31m- a\x1b[0m\n\x1b[32m+ b\x1b[0m\n\x1b[2m  c\x1b[0m\n0 are added, 1 changed, 0 removed.\n1 beyond FILE are left alone; --prune removes them.\n"
	if text.String() != want {
		t.Errorf("%q", text.String())
	}
}

func TestFilters(t *testing.T) {
	conn := lvs.ServiceID{Family: lvs.IPv4, Protocol: lvs.TCP, Addr: mustRead(t, "-A -t 10.0.0.1:80").Services()[0].Addr, Port: 80}
	for text, want := range map[string]bool{
		"10.0.0.1": true, "10.0.0.1:80": true, "tcp/10.0.0.1:80": true, "TCP/10.0.0.1": true,
		"10.0.0.1:81": false, "10.0.0.2": false, "udp/10.0.0.1:80": false, "fwmark/80": false,
	} {
		var f serviceFilter
		if err := f.UnmarshalText([]byte(text)); err != nil || f.chooses(conn) != want {
			t.Errorf("%s: %v, %v", text, f.chooses(conn), err)
		}
	}
	var f serviceFilter
	if err := f.UnmarshalText([]byte("[2001:db8::1]:443")); err != nil || f.port != 443 {
		t.Errorf("%+v, %v", f, err)
	}
	if (serviceFilter{}).chooses(lvs.ServiceID{Mark: 5}) == false {
		t.Error("no filter does not choose a mark")
	}
	for _, bad := range []string{"", "x", "icmp/10.0.0.1", "fwmark/0", "10.0.0.1:99999"} {
		if err := new(serviceFilter).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is a service", bad)
		}
	}
	for text, want := range map[string]bool{"10.0.0.0/24": true, "10.0.0.1": true, "10.1.0.0/16": false} {
		var c clients
		if err := c.UnmarshalText([]byte(text)); err != nil || c.Contains(conn.Addr) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestAmountsAreShort(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1k", 1234567: "1.23M", 999999: "1M", 18446744073709551615: "18.4E"} {
		if got := amount(n); got != want {
			t.Errorf("%d: %s, not %s", n, got, want)
		}
	}
}
