// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"lvs"
)

type settingVerb struct {
	Settings []string `arg:"" optional:"" name:"NAME[=VALUE]" help:"Print the value of a setting, or give it one."`
	JSON     bool     `name:"json" help:"Print one JSON object."`
}

// Help is what --help adds.
func (settingVerb) Help() string {
	var b strings.Builder
	b.WriteString("The settings have the names, meanings and defaults of kernel IPVS (net.ipv4.vs.*). They last as long as the director is loaded.\n\n")
	for _, n := range lvs.SettingNames {
		fmt.Fprintf(&b, "  %s (%d): %s\n", n.Name, n.Of(lvs.DefaultSettings), n.About)
	}
	b.WriteString(`
Examples:
  director setting
  director setting expire_nodest_conn
  director setting expire_nodest_conn=1 expire_quiescent_template=1`)
	return b.String()
}

// Run prints or changes settings: all that are given, or none if one of them is wrong.
func (v settingVerb) Run() error {
	var shown []lvs.SettingName
	var changes []func(*lvs.Settings) error
	for _, word := range v.Settings {
		name, value, change := strings.Cut(word, "=")
		n, err := lvs.Setting(name)
		if err != nil {
			return err
		}
		if change {
			if err := n.Set(&lvs.Settings{}, value); err != nil {
				return err
			}
			changes = append(changes, func(s *lvs.Settings) error { return n.Set(s, value) })
		} else {
			shown = append(shown, n)
		}
	}
	d, err := openDataplane()
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		err := d.Set(func(s *lvs.Settings) error {
			for _, change := range changes {
				if err := change(s); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(shown) == 0 {
			return err
		}
	}
	if len(v.Settings) == 0 {
		shown = lvs.SettingNames
	}
	s, err := d.Settings()
	if err != nil {
		return err
	}
	if v.JSON {
		all := map[string]uint32{}
		for _, n := range shown {
			all[n.Name] = n.Of(s)
		}
		return json.NewEncoder(os.Stdout).Encode(all)
	}
	return printSettings(os.Stdout, s, shown, len(v.Settings) == 0)
}

func printSettings(out io.Writer, s lvs.Settings, names []lvs.SettingName, explain bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, n := range names {
		if explain {
			fmt.Fprintf(w, "%s\t%d\t%s\n", n.Name, n.Of(s), n.About)
		} else {
			fmt.Fprintf(w, "%s\t%d\n", n.Name, n.Of(s))
		}
	}
	return w.Flush()
}
