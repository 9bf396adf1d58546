// SPDX-License-Identifier: Apache-2.0

// Package e2e plays the stories of testdata: the real binary, real clients and real servers in a lab.
package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"lvs/lab"
	"lvs/needs"
)

// TestStories plays each story for both hooks. A story that begins with `[xdp] skip` has nothing to do with them.
//
// The commands of a story, besides those of testscript, are:
//
//	network FILE                    build the network that FILE describes, as [lab.Parse] reads it
//	host HOST COMMAND...            run a command in a host; `stdout`, `stderr` and `cmp` look at what it says
//	start HOST WORDS COMMAND...     start a command in a host, and go on once it has printed WORDS
//	attach HOST INTERFACE...        for xdp only: attach to this hook too
//	nginx HOST ADDRESS...           start an nginx that answers / with the name of the host, has the story's files, and
//	                                takes in those that are sent to /uploads/; nginx-HOST.clients is its log
//	respond HOST ADDRESS...         start what answers each UDP datagram with the name of the host
//	ask HOST ADDRESS COUNT          send so many datagrams, each from another port, and print the answers
//	serve HOST ADDRESS...           start what answers each line of a TCP connection with the name of the host, and ends after "end"
//	connect HOST NAME tcp|udp ADDRESS [PORT]
//	                                open a connection, from a port if that is given, and keep it; TCP's SYN is sent once only
//	say NAME ANSWER [LINE]          send a line; the answer is a host's name, end, reset, refused, or nothing for a while
//	close NAME fin|half|reset|silently
//	                                end a connection in a way
//	resets HOST COUNT               wait until so many connections of what serves there have ended by a reset
//	iperf3 HOST ADDRESS FLAG...     run a client of iperf3, once the server takes it, and print its report
//	stream HOST ADDRESS FILE        send 100 MB to an iperf3, whose report is written to a file
//	retransmits HOST ADDRESS FILE   send as much through the director, and compare with that report
//	answers NAME=COUNT...           the lines of the last output are these, so many of each
//
// $NS begins the names of namespaces; those that a story makes by hand are taken away as well.
func TestStories(t *testing.T) {
	needs.NetNS(t)
	needs.BPF(t)
	t.Setenv("PATH", mustBuild(t)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	needs.Programs(t, "curl", "nginx", "iperf3", "ip", "iptables-nft", "ip6tables-nft", "nft", "ping")
	for _, hook := range []string{"tc", "xdp"} {
		t.Run(hook, func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Dir:                "testdata",
				RequireUniqueNames: true,
				Setup:              func(env *testscript.Env) error { return setup(t, env, hook) },
				Condition: func(cond string) (bool, error) {
					if cond != "tc" && cond != "xdp" {
						return false, fmt.Errorf("unknown condition %q", cond)
					}
					return cond == hook, nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"network": network,
					"host":    host,
					"start":   start,
					"attach":  attach,
					"nginx":   nginx,
					"answers": answers,
					"respond": respond,
					"ask":     ask,
					"serve":   serve,
					"connect": connect,
					"say":     say,
					"close":   closeConn,
					"resets":  heard,

					"iperf3":      iperf3,
					"stream":      stream,
					"retransmits": retransmits,
				},
			})
		})
	}
}

// mustBuild compiles the binary, with the links that an installation has, and answers with their folder, which is
// open to all users.
func mustBuild(t testing.TB) string {
	t.Helper()
	bin, err := os.MkdirTemp("", "director-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err := os.Chmod(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(bin, "director"), "lvs/cmd/director")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building director: %v\n%s", err, out)
	}
	for _, link := range []string{"ipvsadm", "ipvsadm-save", "ipvsadm-restore"} {
		if err := os.Symlink("director", filepath.Join(bin, link)); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

// story is what the commands of one story share.
type story struct {
	hook    string
	network *lab.Network
	conns   conns
}

type storyKey struct{}

func of(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

// setup names what the story makes, and takes it away at the end.
func setup(t *testing.T, env *testscript.Env, hook string) error {
	s := &story{hook: hook, network: &lab.Network{
		Name: fmt.Sprintf("labtest-%d-%s-%s", os.Getpid(), hook, strings.TrimPrefix(filepath.Base(env.WorkDir), "script-")),
		XDP:  hook == "xdp",
	}}
	s.conns = conns{open: map[string]net.Conn{}, reset: map[string]int{}}
	env.Values[storyKey{}] = s
	env.Setenv("NS", s.network.Name)
	env.Setenv("PATH", os.Getenv("PATH"))
	env.Defer(func() {
		if err := s.network.Down(); err != nil {
			t.Error(err)
		}
		made, _ := filepath.Glob("/run/netns/" + s.network.Name + "-*")
		for _, path := range made {
			script := `ip netns pids "$0" | xargs -r kill -9; ip netns delete "$0"`
			if out, err := exec.Command("sh", "-c", script, filepath.Base(path)).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", path, err, out)
			}
		}
	})
	return nil
}
