// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lvs/lab"
)

func usage(ts *testscript.TestScript, right bool, words string) {
	if !right {
		ts.Fatalf("usage: %s", words)
	}
}

func network(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "network FILE")
	n := of(ts).network
	var err error
	n.Hosts, err = lab.Parse(ts.ReadFile(args[0]))
	ts.Check(err)
	for _, h := range n.Hosts {
		if h.Name == "director" {
			h.Leave = []string{"director", "unload"}
		}
	}
	ts.Check(n.Up(context.Background()))
}

// patience is how long a command may take before its story has failed.
const patience = time.Minute

// named finds a host.
func named(ts *testscript.TestScript, host string) *lab.Host {
	hosts := of(ts).network.Hosts
	at := slices.IndexFunc(hosts, func(h *lab.Host) bool { return h.Name == host })
	if at < 0 {
		ts.Fatalf("no host is called %s", host)
	}
	return hosts[at]
}

// command makes a command that runs in a host, with the story's folder and environment.
func command(ts *testscript.TestScript, host, name string, args ...string) *lab.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	ts.Defer(cancel)
	c := named(ts, host).Command(ctx, name, args...)
	c.WaitDelay = patience / 10 // for what a background process still holds open
	c.Dir = ts.MkAbs(".")
	c.Env = append(os.Environ(), "WORK="+ts.Getenv("WORK"))
	return c
}

func host(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) >= 2, "[!] host HOST COMMAND...")
	c := command(ts, args[0], args[1], args[2:]...)
	c.Stdout, c.Stderr = ts.Stdout(), ts.Stderr()
	switch err := c.Run(); {
	case err != nil && !neg:
		ts.Fatalf("%s: %v", strings.Join(args[1:], " "), err)
	case err == nil && neg:
		ts.Fatalf("%s succeeds", strings.Join(args[1:], " "))
	}
}

func start(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 3, "start HOST WORDS COMMAND...")
	ts.Check(begin(command(ts, args[0], args[2], args[3:]...), args[1]))
}

// begin starts a command, which ends with its host, and returns when it has printed certain words.
func begin(c *lab.Cmd, words string) error {
	said, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	c.Stderr = c.Stdout
	if err := c.Start(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if strings.Contains(lines.Text(), words) {
			go io.Copy(io.Discard, said)
			return nil
		}
	}
	return fmt.Errorf("%v ends without saying %q: %w", c.Args, words, c.Wait())
}

func attach(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "attach HOST INTERFACE...")
	if of(ts).hook == "xdp" {
		host(ts, false, append([]string{args[0], "director", "attach", "--xdp"}, args[1:]...))
	}
}

const nginxConf = `
user root;
pid %[1]s.pid;
error_log %[1]s.log;
worker_processes 1;
events {}
http {
	log_format client '$remote_addr $request';
	access_log %[1]s.clients client;
	client_body_temp_path %[1]s.tmp;
	server {
%[2]s
		root %[3]s;
		location = / { return 200 "%[4]s\n"; }
		location /uploads/ { dav_methods PUT; create_full_put_path on; client_max_body_size 0; }
	}
}
`

// nginx goes into the background by itself once it listens.
func nginx(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 2, "nginx HOST ADDRESS...")
	var listen strings.Builder
	for _, address := range args[1:] {
		fmt.Fprintf(&listen, "\t\tlisten %s;\n", address)
	}
	base := ts.MkAbs("nginx-" + args[0])
	conf := fmt.Sprintf(nginxConf, base, &listen, ts.Getenv("WORK"), args[0])
	ts.Check(os.WriteFile(base+".conf", []byte(conf), 0o644))
	host(ts, false, []string{args[0], "nginx", "-p", filepath.Dir(base), "-e", base + ".log", "-c", base + ".conf"})
}

func answers(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) >= 1, "answers NAME=COUNT...")
	count := map[string]int{}
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		count[strings.TrimSpace(line)]++
	}
	var got []string
	for _, name := range slices.Sorted(maps.Keys(count)) {
		got = append(got, fmt.Sprintf("%s=%d", name, count[name]))
	}
	if !slices.Equal(got, slices.Sorted(slices.Values(args))) {
		ts.Fatalf("answers: %s", strings.Join(got, " "))
	}
}
