// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bytes"
	"strings"
	"testing"
)

// Local addresses come back from a save file as they were.
func TestLocalAddresses(t *testing.T) {
	const file = `-P -z 10.0.0.1
-P -z fd00::1 --local-ports 1024-65535
-A -t 192.0.2.1:80 -s rr
-P -t 192.0.2.1:80 -z 10.0.0.5 --local-ports 2000-2999
-a -t 192.0.2.1:80 -r 10.1.0.1:80 --fullnat -w 1
`
	sh := newShell(t)
	sh.files["saved"] = bytes.NewBufferString(file)
	if out, errs, code := sh.run("ipvsadm -R <saved"); code != 0 {
		t.Fatal(code, out, errs)
	}
	if out, _, _ := sh.run("ipvsadm-save -n"); out != file {
		t.Errorf("saved is\n%s", out)
	}
	out, _, _ := sh.run("ipvsadm -G -n")
	for _, row := range []string{"all 10.0.0.1 1024-32767 0", "all fd00::1 1024-65535 0", "TCP 192.0.2.1:80 10.0.0.5 2000-2999 0"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), row) {
			t.Errorf("%q is not in\n%s", row, out)
		}
	}
	for _, c := range []struct {
		args string
		code int
		text string
	}{
		{"-P -z 10.0.0.1", exitError, "Local address already exists"},
		{"-P -z nobody", exitRefused, "illegal local address specified"},
		{"-P -z 10.0.0.9 --local-ports 9-1", exitRefused, "illegal local ports specified: ports \"9-1\": a range is FIRST-LAST, from 1 to 65535"},
		{"-P -t 192.0.2.1:80 -z fd00::9", exitError, "A local address is of its service's family"},
		{"-P -t 192.0.2.1:81 -z 10.0.0.9", exitError, "Service not defined"},
		{"-P -t 192.0.2.1:80", exitRefused, "You need to supply the 'local-address' option for the 'add-laddr' command"},
		{"-Q -z 10.0.0.9", exitError, "No such local address"},
		{"-A -t 192.0.2.1:82 -z 10.0.0.9", exitRefused, "Illegal 'local-address' option with the 'add-service' command"},
		{"-G -t 192.0.2.1:81", exitMissing, "No such service"},
		{"-Q -t 192.0.2.1:80 -z 10.0.0.5", 0, ""},
	} {
		_, text, code := sh.run("ipvsadm " + c.args)
		if code != c.code || strings.TrimSpace(text) != c.text {
			t.Errorf("%s: %d, %q", c.args, code, text)
		}
	}
}
