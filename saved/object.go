// SPDX-License-Identifier: Apache-2.0

package saved

import (
	"net/netip"
	"strconv"
)

// Object is a JSON object that is written field by field, because there may be millions of them. Its bytes begin with what stands in
// front of it, and its brace; whoever writes it closes it.
type Object struct{ Bytes []byte }

// Name begins a field. Nothing in it is escaped, nor in a [Object.Text].
func (o *Object) Name(key string) {
	if o.Bytes[len(o.Bytes)-1] != '{' {
		o.Bytes = append(o.Bytes, ',')
	}
	o.Bytes = append(append(append(o.Bytes, '"'), key...), '"', ':')
}

// Text writes a field of plain text.
func (o *Object) Text(key, value string) {
	o.Name(key)
	o.Bytes = append(append(append(o.Bytes, '"'), value...), '"')
}

// Number writes a field that is a number.
func (o *Object) Number(key string, n uint64) {
	o.Name(key)
	o.Bytes = strconv.AppendUint(o.Bytes, n, 10)
}

// Endpoint writes a field that is an address and a port.
func (o *Object) Endpoint(key string, value netip.AddrPort) {
	o.Name(key)
	o.Bytes = append(value.AppendTo(append(o.Bytes, '"')), '"')
}
