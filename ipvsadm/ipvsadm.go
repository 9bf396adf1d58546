// SPDX-License-Identifier: Apache-2.0

// Package ipvsadm is the ipvsadm command line, with ipvsadm-save and ipvsadm-restore: arguments become a
// change of a director's table or a question to it, tables become text. Its answers are those of ipvsadm 1.31,
// to the byte.
package ipvsadm

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"lvs"
)

// Mode says what a command wants of the director.
type Mode int

// The modes of [Env.Open].
const (
	Read   Mode = iota // to be looked at: what is not loaded is empty, and need not be loaded
	Change             // to be changed
)

// Env is the world of a command.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Open   func(Mode) (lvs.Director, error) // called when a command first needs the director
	Etc    string                           // where hosts and services are
	DNS    *net.Resolver                    // for names that hosts does not have; nil for none
	Device func(name string) bool           // tells whether there is a network device of that name
}

// System is the environment of a process: its standard streams, /etc and the system's name servers.
func System(open func(Mode) (lvs.Director, error)) Env {
	return Env{
		Stdin:  os.Stdin,
		Stdout: os.Stdout,
		Stderr: os.Stderr,
		Open:   open,
		Etc:    "/etc",
		DNS:    &net.Resolver{PreferGo: true},
		Device: func(name string) bool { _, err := net.InterfaceByName(name); return err == nil },
	}
}

// Run executes a command line and gives its exit code. The first word is the program's name, which decides
// between ipvsadm, ipvsadm-save and ipvsadm-restore.
func Run(env Env, argv []string) int {
	out := bufio.NewWriterSize(env.Stdout, 1<<16)
	defer out.Flush() // as in the original, an output that cannot be written changes nothing
	s := &session{env: env, program: argv[0], out: out, names: &names{etc: env.Etc, dns: env.DNS}}
	return s.exitCode(s.main(argv))
}

// session is the execution of one command line, or of the many of a restore.
type session struct {
	env      Env
	program  string
	out      *bufio.Writer
	names    *names
	director lvs.Director // once it is open
	mode     Mode
	pending  *lvs.Table // what a restore has made of the table so far
}

func (s *session) main(argv []string) error {
	switch filepath.Base(argv[0]) {
	case "ipvsadm-save":
		return s.saveScript(argv)
	case "ipvsadm-restore":
		s.program = "ipvsadm"
		return s.restoreScript()
	}
	if len(argv) == 1 {
		return s.listAll(0)
	}
	return s.line(argv)
}

// exitCode reports how a command has ended.
func (s *session) exitCode(err error) int {
	if err == nil {
		return 0
	}
	code := exitError
	if end := (*stop)(nil); errors.As(err, &end) {
		code = end.code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(s.env.Stderr, text)
	}
	return code
}

// saveScript is the shell script ipvsadm-save: it knows -n, explains itself for any other option, and does
// not look at words.
func (s *session) saveScript(argv []string) error {
	given := set(0)
	for _, word := range argv[1:] {
		switch {
		case word == "-n":
			given = optNumeric
		case strings.HasPrefix(word, "-"):
			return &stop{code: 1, text: filepath.Base(argv[0]) + ": Script to save the IPVS table to stdout.\n" +
				"   With the -n option, prints out the table in numeric format."}
		}
	}
	return s.save(given)
}

// line executes one command line.
func (s *session) line(argv []string) error {
	c, err := parse(argv, s.names)
	if err != nil {
		return err
	}
	switch c.verb {
	case verbHelp:
		fmt.Fprint(s.out, help(s.program))
		return &stop{final: true}
	case verbVersion:
		fmt.Fprintln(s.out, versionText)
		return &stop{final: true}
	case verbList:
		return s.list(c)
	case verbListLocal:
		return s.listLocals(c)
	case verbSave:
		return s.save(c.given)
	case verbRestore:
		return s.restore(false)
	case verbStartDaemon:
		return s.startDaemon(cmp.Or(c.device, "eth0"))
	case verbStopDaemon:
		return &stop{code: exitError, text: "No daemon is running"}
	}
	return s.change(c.change)
}

// change applies a change to the table, at once or, in a restore, with all the others.
func (s *session) change(change func(*lvs.Table) error) error {
	if s.pending != nil {
		return change(s.pending)
	}
	d, err := s.open(Change)
	if err != nil {
		return err
	}
	return d.Update(change)
}

// change is what a command makes of a table.
func (c *command) change(t *lvs.Table) error {
	switch c.verb {
	case verbAdd:
		return t.AddService(c.service, c.config)
	case verbEdit:
		return t.EditService(c.service, c.config)
	case verbDelete:
		return t.DeleteService(c.service)
	case verbAddServer:
		return t.AddServer(c.service, c.server, c.serverConfig)
	case verbEditServer:
		return t.EditServer(c.service, c.server, c.serverConfig)
	case verbDeleteServer:
		return t.DeleteServer(c.service, c.server)
	case verbZero:
		if c.service.Mark == 0 && c.service.Port == 0 && !(c.service.Addr.IsValid() && !c.service.Addr.IsUnspecified()) {
			return t.Zero(nil) // also for the address and port that are all zeros
		}
		return t.Zero(&c.service)
	case verbSet:
		t.SetTimeouts(c.timeouts)
	case verbClear:
		t.Clear()
	case verbAddLocal:
		return t.AddLocal(c.pool(), c.local)
	case verbDeleteLocal:
		return t.DeleteLocal(c.pool(), c.local.Addr)
	}
	return nil
}

// pool names the service whose own local addresses are meant; nil for those that all share.
func (c *command) pool() *lvs.ServiceID {
	if !c.has(optService) {
		return nil
	}
	return &c.service
}

// startDaemon refuses to synchronize connections, which is not done here.
func (s *session) startDaemon(device string) error {
	if !s.env.Device(device) {
		return &stop{code: exitError, text: "No such device"}
	}
	return &stop{code: exitError, text: "Connection synchronization is not supported"}
}

func (s *session) open(m Mode) (lvs.Director, error) {
	if s.director != nil && m <= s.mode {
		return s.director, nil
	}
	d, err := s.env.Open(m)
	switch {
	case errors.Is(err, os.ErrPermission):
		return nil, refuse("Can't initialize ipvs: Permission denied (you must be root)\n" +
			"Are you sure that IP Virtual Server is built in the kernel or as module?")
	case err != nil:
		return nil, refuse("Can't initialize ipvs: %v", err)
	}
	s.director, s.mode = d, m
	return d, nil
}
