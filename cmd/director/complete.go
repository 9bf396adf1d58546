// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"lvs"
	"lvs/dataplane"
	"lvs/ipvsadm"
	"lvs/lab"
)

//go:embed completion/director.bash
var completionBash string

//go:embed completion/director.zsh
var completionZsh string

//go:embed completion/director.fish
var completionFish string

type completionVerb struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help is what --help adds.
func (completionVerb) Help() string {
	return `An installation has them already. They complete director and ipvsadm: verbs, options, and as root the services and
servers that there are.

Examples:
  source <(director completion bash)
  director completion zsh >/usr/local/share/zsh/site-functions/_director
  director completion fish >~/.config/fish/completions/director.fish`
}

// Run prints.
func (v completionVerb) Run() error {
	_, err := fmt.Print(map[string]string{"bash": completionBash, "zsh": completionZsh, "fish": completionFish}[v.Shell])
	return err
}

// completeVerb is what the shells ask: words up to the one that is being written, the program's name first. It answers
// with what that one may become, a line each, with a tab and a description if there is one.
type completeVerb struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// Run answers.
func (v completeVerb) Run(k *kong.Kong) error {
	if len(v.Words) > 0 && strings.HasPrefix(v.Words[0], "ipvsadm") {
		for _, word := range ipvsadm.Complete(v.Words, presentTable) {
			fmt.Println(word)
		}
		return nil
	}
	for _, c := range complete(k.Model, v.Words[min(1, len(v.Words)):]) {
		fmt.Fprintf(os.Stdout, "%s\t%s\n", c.word, c.help)
	}
	return nil
}

func presentTable() (*lvs.Table, error) {
	d, err := dataplane.Open(dataplane.Sizes{})
	if err != nil {
		return nil, err
	}
	return d.Table()
}

type candidate struct{ word, help string }

// complete gives what the last of the words may become.
func complete(model *kong.Application, words []string) (found []candidate) {
	if len(words) == 0 {
		return nil
	}
	node, last, waiting := model.Node, words[len(words)-1], (*kong.Flag)(nil)
	for _, word := range words[:len(words)-1] {
		if waiting != nil {
			waiting = nil
		} else if strings.HasPrefix(word, "-") {
			waiting = flagThatWaits(node, word)
		} else if at := slices.IndexFunc(node.Children, func(n *kong.Node) bool { return n.Name == word }); at >= 0 {
			node = node.Children[at]
		}
	}
	var all []candidate
	switch {
	case waiting != nil:
		for _, v := range waiting.EnumSlice() {
			all = append(all, candidate{word: v})
		}
	case strings.HasPrefix(last, "-"):
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				all = append(all, candidate{"--" + f.Name, f.Help})
			}
		}
	default:
		for _, n := range node.Children {
			if !n.Hidden {
				all = append(all, candidate{n.Name, n.Help})
			}
		}
		for _, p := range node.Positional {
			all = append(all, positional(p)...)
		}
	}
	return slices.DeleteFunc(all, func(c candidate) bool { return c.word == "" || !strings.HasPrefix(c.word, last) })
}

// flagThatWaits gives the flag that a word is, if its value is the next word.
func flagThatWaits(node *kong.Node, word string) *kong.Flag {
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if (word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short)) && !f.IsBool() && f.Name != "xdp" {
				return f
			}
		}
	}
	return nil
}

func positional(p *kong.Positional) (all []candidate) {
	for _, v := range p.EnumSlice() {
		all = append(all, candidate{word: v})
	}
	if p.Name == "interface" {
		interfaces, _ := net.Interfaces()
		for _, i := range interfaces {
			all = append(all, candidate{word: i.Name})
		}
	}
	if p.Name == "lab" {
		for _, name := range lab.Scenarios() {
			all = append(all, candidate{word: name})
		}
	}
	return all
}
