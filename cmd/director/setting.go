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
	b.WriteString("The settings have the names and meanings of kernel IPVS (net.ipv4.vs.*), and on_dead is ours. They last as long as the director is loaded. " +
		"In parentheses are their defaults, and those of the kernel where they differ.\n\n")
	for _, n := range lvs.SettingNames {
		value, kernels := n.Text(lvs.DefaultSettings), n.Text(lvs.KernelSettings)
		if kernels != value {
			value += ", kernel: " + kernels
		}
		fmt.Fprintf(&b, "  %s (%s): %s\n", n.Name, value, n.About)
	}
	fmt.Fprintf(&b, "  compat (director): %s\n", aboutCompat)
	b.WriteString(`
Examples:
  director setting
  director setting compat=kernel
  director setting on_dead=drop
  director setting expire_nodest_conn
  director setting expire_nodest_conn=1 expire_quiescent_template=1`)
	return b.String()
}

const aboutCompat = "director or kernel: gives all settings whose defaults differ those of this side; shown as mixed if they are neither"

// Run prints or changes settings: all that are given, or none if one of them is wrong.
func (v settingVerb) Run() error {
	var shown []shownSetting
	var changes []func(*lvs.Settings) error
	for _, word := range v.Settings {
		name, value, change := strings.Cut(word, "=")
		one, set, err := settingOf(name)
		if err != nil {
			return err
		}
		if change {
			if err := set(&lvs.Settings{}, value); err != nil {
				return err
			}
			changes = append(changes, func(s *lvs.Settings) error { return set(s, value) })
		} else {
			shown = append(shown, one)
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
		shown = allSettings()
	}
	s, err := d.Settings()
	if err != nil {
		return err
	}
	if v.JSON {
		all := map[string]any{}
		for _, one := range shown {
			text := one.text(s)
			if all[one.name] = text; strings.Trim(text, "0123456789") == "" {
				all[one.name] = json.Number(text)
			}
		}
		return json.NewEncoder(os.Stdout).Encode(all)
	}
	return printSettings(os.Stdout, s, shown, len(v.Settings) == 0)
}

// shownSetting is a setting, or compat, which stands for several.
type shownSetting struct {
	name, about string
	text        func(lvs.Settings) string
}

func settingOf(name string) (shownSetting, func(*lvs.Settings, string) error, error) {
	if name == "compat" {
		return shownSetting{name, aboutCompat, lvs.Settings.Compat}, (*lvs.Settings).SetCompat, nil
	}
	n, err := lvs.Setting(name)
	return shownSetting{n.Name, n.About, n.Text}, n.Set, err
}

func allSettings() (all []shownSetting) {
	for _, n := range lvs.SettingNames {
		all = append(all, shownSetting{n.Name, n.About, n.Text})
	}
	return append(all, shownSetting{"compat", aboutCompat, lvs.Settings.Compat})
}

func printSettings(out io.Writer, s lvs.Settings, shown []shownSetting, explain bool) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, one := range shown {
		if explain {
			fmt.Fprintf(w, "%s\t%s\t%s\n", one.name, one.text(s), one.about)
		} else {
			fmt.Fprintf(w, "%s\t%s\n", one.name, one.text(s))
		}
	}
	return w.Flush()
}
