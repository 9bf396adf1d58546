// SPDX-License-Identifier: Apache-2.0

// Command director is the Linux Virtual Server in one binary. Under the names ipvsadm, ipvsadm-save and
// ipvsadm-restore it is those.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"lvs"
	"lvs/dataplane"
	"lvs/ipvsadm"
)

type verbs struct {
	Attach        attachVerb     `cmd:"" help:"Attach to network interfaces."`
	Detach        detachVerb     `cmd:"" help:"Take the programs off network interfaces."`
	Status        statusVerb     `cmd:"" help:"What is attached, how full the tables are, and what was not forwarded."`
	Upgrade       upgradeVerb    `cmd:"" help:"Replace the programs that run by those of this binary, with nothing lost."`
	Serve         serveVerb      `cmd:"" help:"Attach to interfaces as soon as they come."`
	Setting       settingVerb    `cmd:"" help:"What kernel IPVS has as sysctls: print it, or change it."`
	List          listVerb       `cmd:"" help:"Services and servers, and what they carry."`
	Conns         connsVerb      `cmd:"" help:"Connections."`
	Explain       explainVerb    `cmd:"" help:"What would happen to a packet now, and why."`
	Drain         drainVerb      `cmd:"" help:"Have a server take no new connections, and wait until it has none."`
	Undrain       undrainVerb    `cmd:"" help:"Give a server that drains the weight back that it had."`
	Save          saveVerb       `cmd:"" help:"Print the commands that make the table anew."`
	Restore       restoreVerb    `cmd:"" help:"Make the table anew out of such commands."`
	Apply         applyVerb      `cmd:"" help:"Make the table what a file says, and touch only what differs."`
	Confirm       confirmVerb    `cmd:"" help:"Keep the change of an apply --rollback-after."`
	WatchRollback watchVerb      `cmd:"" hidden:""`
	Laddr         laddrVerb      `cmd:"" help:"The local addresses of FULLNAT."`
	Unload        unloadVerb     `cmd:"" help:"Detach from everything, and forget all services and connections."`
	Completion    completionVerb `cmd:"" help:"Print what makes a shell complete director and ipvsadm."`
	Complete      completeVerb   `cmd:"" hidden:""`
	Man           manVerb        `cmd:"" hidden:""`
	Realserver    realserverVerb `cmd:"" help:"What runs on a real server: virtual addresses, tunnels' ends, the clients of FULLNAT."`
	Simulate      simulateVerb   `cmd:"" help:"Schedulers side by side on a described load."`
	Lab           labVerb        `cmd:"" help:"Networks out of namespaces that show the director at work."`
}

func main() {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "ipvsadm") {
		os.Exit(ipvsadm.Run(ipvsadm.System(openDirector), os.Args))
	}
	// SIGPIPE too: a closed pipe must not end a lab before it is taken away.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	os.Args = spellOut(os.Args)
	k := commandLine()
	verb, err := k.Parse(os.Args[1:])
	k.FatalIfErrorf(err)
	verb.BindTo(ctx, (*context.Context)(nil))
	err = verb.Run(k)
	if code := exit(0); errors.As(err, &code) {
		os.Exit(int(code))
	}
	if errors.Is(err, syscall.EPIPE) { // whoever reads has seen enough
		os.Exit(128 + int(syscall.SIGPIPE))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "director: %v\n", err)
		os.Exit(1)
	}
}

// commandLine knows the verbs.
func commandLine() *kong.Kong {
	return kong.Must(&verbs{}, kong.Name("director"), kong.UsageOnError(),
		kong.Description("The Linux Virtual Server. Services and servers are managed with ipvsadm, which is a link to this program."),
		kong.Vars{
			"local_ports": lvs.DefaultLocalPorts.String(),
			"conns":       strconv.Itoa(dataplane.DefaultSizes.Conns),
			"max_conns":   strconv.Itoa(dataplane.MaxConns),
			"services":    strconv.Itoa(dataplane.DefaultSizes.Services),
			"servers":     strconv.Itoa(dataplane.DefaultSizes.Servers),
		})
}

// spellOut gives an --xdp of attach that has no value the value that it means.
func spellOut(args []string) []string {
	if len(args) > 1 && args[1] == "attach" {
		for i, a := range args {
			if a == "--xdp" {
				args[i] = "--xdp=" + string(dataplane.XDPNative)
			}
		}
	}
	return args
}

func openDirector(ipvsadm.Mode) (lvs.Director, error) { return openDataplane() }
