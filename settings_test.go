// SPDX-License-Identifier: Apache-2.0

package lvs_test

import (
	"slices"
	"strings"
	"testing"

	"lvs"
)

func TestSettings(t *testing.T) {
	if !slices.IsSortedFunc(lvs.SettingNames, func(a, b lvs.SettingName) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("settings are not in order of their names")
	}
	for _, n := range lvs.SettingNames {
		s, value := lvs.DefaultSettings, "1"
		if n.Words != nil {
			value = n.Words[0]
		}
		if err := n.Set(&s, value); err != nil || n.Of(s) != 1 || n.Text(s) != value {
			t.Errorf("%s=%s: is %d, %v", n.Name, value, n.Of(s), err)
		}
		for _, bad := range []string{"", "-1", "4294967296", "on", "1.5", "0x1", " 1"} {
			before := s
			if err := n.Set(&s, bad); err == nil || s != before {
				t.Errorf("%s=%q is taken", n.Name, bad)
			}
		}
	}
	if _, err := lvs.Setting("conntrack_mode"); err == nil || !strings.Contains(err.Error(), "sloppy_tcp") {
		t.Errorf("an unknown setting: %v", err)
	}
}

func TestCompat(t *testing.T) {
	s := lvs.DefaultSettings
	if got := s.Compat(); got != "director" {
		t.Errorf("compat of the defaults is %s", got)
	}
	s.SloppyTCP, s.DropEntry = 1, 2
	if got := s.Compat(); got != "director" {
		t.Errorf("with what both have alike changed, and a defence on, compat is %s", got)
	}
	if err := s.SetCompat("kernel"); err != nil {
		t.Fatal(err)
	}
	want := lvs.KernelSettings
	want.SloppyTCP = 1
	if s != want || s.Compat() != "kernel" {
		t.Errorf("with compat=kernel settings are %+v (%s), want %+v", s, s.Compat(), want)
	}
	s.OnDead = lvs.OnDeadKeep
	if got := s.Compat(); got != "mixed" {
		t.Errorf("with on_dead=keep compat is %s", got)
	}
	if err := s.SetCompat("director"); err != nil || s.OnDead != lvs.OnDeadReset || s.SloppyTCP != 1 {
		t.Errorf("with compat=director settings are %+v, %v", s, err)
	}
	if err := s.SetCompat("mixed"); err == nil {
		t.Error("compat=mixed is taken")
	}
}

// A defence that is on just now was asked to be ready; one that is always on stays so.
func TestAsked(t *testing.T) {
	s := lvs.Settings{DropEntry: 2, DropPacket: 3, SecureTCP: 2, ConnReuseMode: 2}
	if got, want := s.Asked(), (lvs.Settings{DropEntry: 1, DropPacket: 3, SecureTCP: 1, ConnReuseMode: 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
