// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	_ "embed"
	"strings"
)

const versionText = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v" + version + ")"

//go:embed help.txt
var usage string

// help is the text of -h. Its usage lines show the name that the program was called by.
func help(program string) string {
	return versionText + "\n" + strings.ReplaceAll(usage, "PROGRAM", program)
}
