// SPDX-License-Identifier: Apache-2.0

package saved

import (
	"bufio"
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"lvs"
)

// Writer writes a file. Errors of the writing wait until the end.
type Writer struct {
	Counts
	out       *bufio.Writer
	line      []byte
	templates []uint32 // their numbers
}

// NewWriter begins a file with rules.
func NewWriter(out io.Writer, rules []string) *Writer {
	w := &Writer{out: bufio.NewWriterSize(out, 1<<16)}
	w.marshal(map[string]any{"director": Format, "version": Version})
	for _, r := range rules {
		w.marshal(map[string]any{"rule": r})
	}
	return w
}

func (w *Writer) marshal(v any) {
	j := json.NewEncoder(w.out)
	j.SetEscapeHTML(false)
	j.Encode(v)
}

// Entry writes an entry. Templates come before connections, in the order of their numbers.
func (w *Writer) Entry(e *lvs.Entry) {
	l := &object{append(w.line[:0], `{"conn":{`...)}
	if e.Template {
		l.b = append(w.line[:0], `{"template":{`...)
	}
	l.name("service")
	l.b = append(appendService(append(l.b, '"'), e.Service), '"')
	l.endpoint("server", netip.AddrPortFrom(e.ServerID.Addr, e.ServerID.Port))
	l.text("protocol", protocolName(e.Protocol))
	l.endpoint("virtual", e.Virtual)
	l.name("expires")
	l.b = strconv.AppendFloat(l.b, float64(max(e.Expires.Milliseconds(), 1))/1000, 'f', -1, 64)
	if e.Accounted {
		l.number("age", uint64(e.Age/time.Second))
	}
	if e.Template {
		w.template(l, e)
	} else {
		w.conn(l, e)
	}
	w.line = append(l.b, "}}\n"...)
	w.out.Write(w.line)
}

func (w *Writer) template(l *object, e *lvs.Entry) {
	w.Templates++
	w.templates = append(w.templates, e.Number)
	l.number("number", uint64(e.Number))
	l.name("client")
	l.b = append(e.Client.Addr().AppendTo(append(l.b, '"')), '"')
	l.number("timeout", uint64(e.Timeout))
	l.number("conns", uint64(e.Conns))
	if e.State == lvs.TemplateAssured {
		l.name("assured")
		l.b = append(l.b, "true"...)
	}
	if e.PEData != "" {
		var call []rune
		for i := range len(e.PEData) {
			call = append(call, rune(e.PEData[i]))
		}
		quoted, _ := json.Marshal(string(call))
		l.name("call")
		l.b = append(l.b, quoted...)
	}
}

func (w *Writer) conn(l *object, e *lvs.Entry) {
	w.Conns++
	l.endpoint("client", e.Client)
	l.text("forward", strings.ToLower(e.Forward.String()))
	l.text("state", e.StateName())
	if e.Local.IsValid() {
		l.endpoint("local", e.Local)
	}
	if e.Controller != lvs.NoTemplate {
		if _, there := slices.BinarySearch(w.templates, e.Controller); there { // else it has ended, or nobody finds it
			l.number("template", uint64(e.Controller))
		}
	}
	if s := e.Stats; e.Accounted && s != (lvs.Stats{}) {
		l.name("counts")
		l.b = append(l.b, '{')
		l.number("in_packets", s.InPackets)
		l.number("out_packets", s.OutPackets)
		l.number("in_bytes", s.InBytes)
		l.number("out_bytes", s.OutBytes)
		l.b = append(l.b, '}')
	}
	if e.Flags == 0 {
		return
	}
	l.name("flags")
	before := byte('[')
	for _, f := range flags {
		if e.Flags&f.flag != 0 {
			l.b = append(append(append(l.b, before, '"'), f.name...), '"')
			before = ','
		}
	}
	l.b = append(l.b, ']')
}

// Close ends the file.
func (w *Writer) Close() error {
	w.marshal(map[string]any{"end": w.Counts})
	return w.out.Flush()
}

// object is written field by field: there may be millions.
type object struct{ b []byte }

func (o *object) name(key string) {
	if o.b[len(o.b)-1] != '{' {
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, '"'), key...), '"', ':')
}

func (o *object) text(key, value string) {
	o.name(key)
	o.b = append(append(append(o.b, '"'), value...), '"')
}

func (o *object) number(key string, n uint64) {
	o.name(key)
	o.b = strconv.AppendUint(o.b, n, 10)
}

func (o *object) endpoint(key string, value netip.AddrPort) {
	o.name(key)
	o.b = append(value.AppendTo(append(o.b, '"')), '"')
}
