// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"strings"

	"lvs"
)

// schedFlag is a name that -b knows.
type schedFlag struct {
	name string
	only string // the scheduler that it belongs to, or "" for any
	flag lvs.SchedulerFlags
}

var schedFlags = []schedFlag{
	{"flag-1", "", lvs.SchedulerFlag1},
	{"flag-2", "", lvs.SchedulerFlag2},
	{"flag-3", "", lvs.SchedulerFlag3},
	{"sh-fallback", "sh", lvs.SchedulerFallback},
	{"sh-port", "sh", lvs.SchedulerPort},
	{"mh-fallback", "mh", lvs.SchedulerFallback},
	{"mh-port", "mh", lvs.SchedulerPort},
}

func parseSchedFlags(list, scheduler string) (lvs.SchedulerFlags, error) {
	var flags lvs.SchedulerFlags
next:
	for name := range strings.SplitSeq(list, ",") {
		if name == "" {
			continue
		}
		for _, f := range schedFlags {
			if f.name != name {
				continue
			}
			if f.only != "" && f.only != scheduler {
				return 0, refuse("incompatible scheduler flag `%s'", name)
			}
			flags |= f.flag
			continue next
		}
		return 0, refuse("invalid scheduler flag `%s'", name)
	}
	return flags, nil
}

// schedFlagNames gives the flags in the words of the scheduler; those that it has no word for are left out.
func schedFlagNames(flags lvs.SchedulerFlags, scheduler string) string {
	own := ""
	if scheduler == "sh" || scheduler == "mh" {
		own = scheduler
	}
	var names []string
	for _, f := range schedFlags {
		if f.only == own && flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, ",")
}
