// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"errors"
	"strings"
	"testing"

	"lvs"
)

const savedTable = `--set 900 60 300
-A -t 10.0.0.1:80 -s wrr -p 360 -M 255.255.255.0
-a -t 10.0.0.1:80 -r 192.168.0.1:80 -m -w 3 -x 100 -y 50
-a -t 10.0.0.1:80 -r 192.168.0.2:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum
-A -t [2001:db8::1]:443 -s sh -b sh-fallback,sh-port
-a -t [2001:db8::1]:443 -r [2001:db8:1::1]:443 -m -w 0
-A -f 7 -6 -s rr
`

func TestRulesAreWhatReadTableReads(t *testing.T) {
	table, err := ReadTable(newShell(t).env(nil, nil, nil), strings.NewReader("# a comment\n\n"+savedTable))
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, r := range Rules(table) {
		got.WriteString(r.Text + "\n")
	}
	if got.String() != savedTable {
		t.Errorf("read and written, it is\n%s", got.String())
	}
}

func TestReadTableNamesTheLine(t *testing.T) {
	for _, c := range []struct {
		bad  string
		want error
		text string
	}{
		{"-a -t 10.0.0.9:80 -r 192.168.0.1:80 -m", lvs.ErrNotDefined, "Service not defined"},
		{"-A -t 10.0.0.1:80", lvs.ErrServiceExists, "Service already exists"},
		{"-L -n", errNoChange, "-L: not a command that changes the table"},
		{"nonsense", errNoChange, "nonsense: not a command that changes the table"},
		{"-A -t 10.0.0.1", nil, "Zero port specified for non-persistent service"},
		{"-A -t 10.0.0.2:80 -s bogus", lvs.ErrNoScheduler, ""},
	} {
		_, err := ReadTable(newShell(t).env(nil, nil, nil), strings.NewReader(savedTable+"\n# more\n"+c.bad+"\n-C\n"))
		line := (*LineError)(nil)
		if !errors.As(err, &line) || line.Line != 10 || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.bad, err)
		}
	}
}
