// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"lvs"
)

// expect runs a command and compares all of its answer, written as in the recordings.
func (sh *shell) expect(command string, answer ...string) {
	sh.t.Helper()
	if got, want := strings.TrimSuffix(sh.transcript(command), "\n"), strings.Join(answer, "\n"); got != want {
		sh.t.Errorf("$ %s\n--- answers\n%s\n--- want\n%s", command, got, want)
	}
}

func TestSaveKeepsWhatTheOriginalForgets(t *testing.T) {
	sh := newShell(t)
	sh.expect("ipvsadm -A -f 4294967295 -s rr", "exit 0")
	sh.expect("ipvsadm -a -f 4294967295 -r 192.168.1.1 -m -x 10 -y 5", "exit 0")
	sh.expect("ipvsadm -a -f 4294967295 -r 192.168.1.2:80 --fullnat -w 3", "exit 0")
	sh.expect("ipvsadm -a -f 4294967295 -r 192.168.1.3 -i --tun-type gre --tun-csum -x 7", "exit 0")
	saved := []string{"exit 0",
		"out|-A -f 4294967295 -s rr",
		"out|-a -f 4294967295 -r 192.168.1.1:0 -m -w 1 -x 10 -y 5",
		"out|-a -f 4294967295 -r 192.168.1.2:80 --fullnat -w 3",
		"out|-a -f 4294967295 -r 192.168.1.3:0 -i -w 1 -x 7 --tun-type gre --tun-csum"}
	sh.expect("ipvsadm -Sn", saved...)
	sh.expect("ipvsadm -Sn > saved; ipvsadm-restore < saved; ipvsadm -Sn", saved...)
	sh.expect("ipvsadm -Ln -f 4294967295", "exit 0",
		"out|Prot LocalAddress:Port Scheduler Flags",
		"out|  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
		"out|FWM  -1 rr",
		"out|  -> 192.168.1.1:0                Masq    1      0          0         ",
		"out|  -> 192.168.1.2:80               FullNat 3      0          0         ",
		"out|  -> 192.168.1.3:0                Tunnel  1      0          0         ")
}

func TestRestoreTakesTheLastLineWithBlanks(t *testing.T) {
	sh := newShell(t)
	sh.expect(`printf -- '-A -t 10.0.0.1:80 -s rr  ' | ipvsadm -R; ipvsadm -Sn`, "exit 0", "out|-A -t 10.0.0.1:80 -s rr")
}

func TestProgramName(t *testing.T) {
	sh := newShell(t)
	var out, errs strings.Builder
	if code := Run(sh.env(strings.NewReader("-Q\n"), &out, &errs), []string{"/sbin/ipvsadm", "-R"}); code != exitError {
		t.Errorf("exit code %d", code)
	}
	if want := "Try `/sbin/ipvsadm -h' or '/sbin/ipvsadm --help' for more information.\n"; errs.String() != want {
		t.Errorf("got %q, want %q", errs.String(), want)
	}
	if code := Run(sh.env(nil, &out, &errs), []string{"/sbin/ipvsadm", "-h"}); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(out.String(), "\n  /sbin/ipvsadm -C\n") {
		t.Errorf("help does not show the program's name:\n%s", out.String())
	}
}

func TestConnections(t *testing.T) {
	at := netip.MustParseAddrPort
	sh := newShell(t)
	sh.memory.conns = []lvs.Conn{
		{Protocol: lvs.TCP, State: lvs.TCPEstablished, Client: at("10.1.0.1:31000"), Virtual: at("10.0.0.1:80"),
			Server: at("192.168.1.1:8080"), Expires: 14*time.Minute + 59*time.Second + 999*time.Millisecond},
		{Protocol: lvs.UDP, Client: at("10.1.0.1:31001"), Virtual: at("10.0.0.1:53"), Server: at("192.168.1.1:53"),
			Expires: 200 * time.Minute},
		{Protocol: lvs.TCP, State: lvs.TCPSynRecv, Client: at("[2001:db8::7]:1"), Virtual: at("[2001:db8::1]:80"),
			Server: at("192.168.1.2:80")},
		{Template: true, State: lvs.TemplateAssured, Client: at("10.1.0.0:0"), Virtual: at("0.0.0.77:0"),
			Server: at("192.168.1.1:0"), Expires: time.Minute},
		{Protocol: lvs.TCP, Template: true, Client: at("10.1.0.0:0"), Virtual: at("10.0.0.1:80"), Server: at("192.168.1.1:80")},
	}
	sh.expect("ipvsadm -Lnc", "exit 0",
		"out|IPVS connection entries",
		"out|pro expire state       source             virtual            destination",
		"out|TCP 14:59  ESTABLISHED 10.1.0.1:31000     10.0.0.1:80        192.168.1.1:8080",
		"out|UDP 200:00 UDP         10.1.0.1:31001     10.0.0.1:53        192.168.1.1:53",
		"out|TCP 00:00  SYN_RECV    [2001:db8::7]:1    [2001:db8::1]:80   192.168.1.2:80",
		"out|IP  01:00  ASSURED     10.1.0.0:0         0.0.0.77:0         192.168.1.1:0",
		"out|TCP 00:00  NONE        10.1.0.0:0         10.0.0.1:80        192.168.1.1:80")
	sh.memory.conns = sh.memory.conns[:1]
	sh.expect("ipvsadm -Lc", "exit 0",
		"out|IPVS connection entries",
		"out|pro expire state       source             virtual            destination",
		"out|TCP 14:59  ESTABLISHED 10.1.0.1:31000     vip.example.com:http rs1.example.com:http-alt")
}

func TestCounters(t *testing.T) {
	sh := newShell(t)
	s := &lvs.Service{
		ServiceID:     lvs.ServiceID{Family: lvs.IPv4, Protocol: lvs.TCP, Addr: netip.MustParseAddr("10.0.0.1"), Port: 80},
		ServiceConfig: lvs.ServiceConfig{Scheduler: "rr", Netmask: 0xffffffff},
		Stats:         lvs.Stats{Conns: 99_999_999, InPackets: 100_000_000, OutPackets: 1e9, InBytes: 100e9, OutBytes: 100e12},
		Rates:         lvs.Rates{CPS: 1, InPPS: 999_999_999, OutPPS: 2, InBPS: 3e9, OutBPS: 4},
	}
	s.Servers = []*lvs.Server{{
		ServerID:     lvs.ServerID{Addr: netip.MustParseAddr("192.168.1.1"), Port: 80},
		ServerConfig: lvs.ServerConfig{Forward: lvs.Masq, Weight: 5, Upper: 7, Lower: 3},
		Load:         lvs.Load{Active: 11, Inactive: 22, Persistent: 33},
		Stats:        s.Stats, Rates: s.Rates,
	}}
	sh.memory.table.Put(s)
	const lo = "out|TCP  10.0.0.1:80                 "
	const rs = "out|  -> 192.168.1.1:80              "
	for command, want := range map[string][2]string{
		"--stats":           {lo + " 99999999  100000K    1000M     100G     100T", rs + " 99999999  100000K    1000M     100G     100T"},
		"--stats -X":        {lo + " 99999999 100000000 1000000000 100000000000 100000000000000", rs + " 99999999 100000000 1000000000 100000000000 100000000000000"},
		"--rate":            {lo + "        1  999999K        2    3000M        4", rs + "        1 999999999        2    3000M        4"},
		"--thresholds":      {"out|TCP  10.0.0.1:80 rr", rs + " 7          3          11         22        "},
		"--persistent-conn": {"out|TCP  10.0.0.1:80 rr", rs + " 5         33          11         22        "},
		"--nosort":          {"out|TCP  10.0.0.1:80 rr", rs + " Masq    5      11         22        "},
	} {
		lines := strings.Split(sh.transcript("ipvsadm -Ln "+command), "\n")
		if got := [2]string(lines[4:6]); got != want {
			t.Errorf("%s\ngot  %q\nwant %q", command, got, want)
		}
	}
	sh.expect("ipvsadm -Z -t 10.0.0.1:80", "exit 0")
	if s := sh.memory.table.Services()[0]; s.Stats != (lvs.Stats{}) || !s.Zeroed {
		t.Errorf("after -Z: %+v", s)
	}
}

// TestOpen checks that the director is opened as late as possible, and for no more than is needed.
func TestOpen(t *testing.T) {
	for command, want := range map[string][]Mode{
		"ipvsadm -h":                          nil,
		"ipvsadm -A":                          nil,
		"ipvsadm -A -t 10.0.0.1:80 -s rr -n":  nil,
		"ipvsadm -L --daemon":                 nil,
		"ipvsadm -R":                          nil,
		"ipvsadm":                             {Read},
		"ipvsadm -Ln":                         {Read},
		"ipvsadm -Lnc":                        {Read},
		"ipvsadm -L --timeout":                {Read},
		"ipvsadm -Sn":                         {Read},
		"ipvsadm-save":                        {Read},
		"ipvsadm -C":                          {Change},
		"ipvsadm --set 1 2 3":                 {Change},
		"ipvsadm-restore":                     {Change},
		"printf '-L\\n-Lc\\n-C' | ipvsadm -R": {Change},
	} {
		sh := newShell(t)
		sh.run(command)
		if !slices.Equal(sh.memory.opens, want) {
			t.Errorf("%s: opens %v, want %v", command, sh.memory.opens, want)
		}
	}
}

func TestOpenFails(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("no bpffs"), "Can't initialize ipvs: no bpffs\n"},
		{fmt.Errorf("bpf: %w", fs.ErrPermission), "Can't initialize ipvs: Permission denied (you must be root)\n" +
			"Are you sure that IP Virtual Server is built in the kernel or as module?\n"},
	} {
		for _, args := range []string{"-L", "-C", "-Lc", "-S", "-L --timeout", "-L -t 10.0.0.1:80"} {
			var errs strings.Builder
			env := newShell(t).env(nil, &errs, &errs)
			env.Open = func(Mode) (lvs.Director, error) { return nil, test.err }
			code := Run(env, strings.Fields("ipvsadm "+args))
			if code != exitRefused || errs.String() != test.want {
				t.Errorf("%s: exit %d, %q", args, code, errs.String())
			}
		}
	}
}

// broken is a director that cannot commit.
type broken struct{ *memory }

func (b broken) Update(change func(*lvs.Table) error) error {
	return errors.Join(change(&lvs.Table{}), errors.New("no space in the map"))
}

func TestCommitFails(t *testing.T) {
	for _, args := range []string{"-A -t 10.0.0.1:80", "-R", "-C"} {
		var errs strings.Builder
		env := newShell(t).env(strings.NewReader("-A -t 10.0.0.1:80\n"), &errs, &errs)
		env.Open = func(Mode) (lvs.Director, error) { return broken{newMemory()}, nil }
		if code := Run(env, strings.Fields("ipvsadm "+args)); code != exitError || errs.String() != "no space in the map\n" {
			t.Errorf("%s: exit %d, %q", args, code, errs.String())
		}
	}
}

// TestRestoreShowsThePending checks that a listing within a restore shows what came before it.
func TestRestoreShowsThePending(t *testing.T) {
	sh := newShell(t)
	sh.expect(`printf -- '-A -t 10.0.0.1:80\n-L -n -t 10.0.0.1:80\n-C\n-L -n -t 10.0.0.1:80\n-A -t 10.0.0.2:80' | ipvsadm -R`,
		"exit 1",
		"out|Prot LocalAddress:Port Scheduler Flags",
		"out|  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
		"out|TCP  10.0.0.1:80 wlc",
		"err|No such service")
	sh.expect("ipvsadm -Sn", "exit 0")
}

// TestManual checks that the manual page has every option.
func TestManual(t *testing.T) {
	page := mustRead(t, "ipvsadm.8")
	for _, o := range options {
		if !strings.Contains(page, "Fl -"+o.long+" ") && !strings.Contains(page, "Fl -"+o.long+"\n") {
			t.Errorf("--%s is not in the manual page", o.long)
		}
		if o.short != 0 && !strings.Contains(page, ".It Fl "+string(o.short)) && !strings.Contains(page, " Fl "+string(o.short)+" ,") {
			t.Errorf("-%c is not in the manual page", o.short)
		}
	}
}
