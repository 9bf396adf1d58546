// SPDX-License-Identifier: Apache-2.0

package oracle

import "lvs"

// Settings gives the settings.
func (d *Director) Settings() (lvs.Settings, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.settings, nil
}

// Set changes settings, all at once.
func (d *Director) Set(change func(*lvs.Settings) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.settings
	if err := change(&s); err != nil {
		return err
	}
	d.settings = s
	return nil
}

// replaced says whether the packet begins a new connection in place of one that is all but over.
func (d *Director) replaced(c *conn, p *packet) bool {
	mode := d.settings.ConnReuseMode
	if !p.opens || mode == 0 {
		return false
	}
	if mode&lvs.ReuseEnding != 0 && c.ending() {
		return true
	}
	if c.template != nil || mode == lvs.ReuseEnding {
		return false
	}
	if c.protocol == lvs.SCTP {
		return c.state == lvs.SCTPClosed
	}
	return c.state == lvs.TCPTimeWait || c.state == lvs.TCPClose ||
		mode&2 != 0 && c.state == lvs.TCPFinWait && c.noOutput()
}

// ending says that a FIN or RST was seen, or that an SCTP association is over.
func (c *conn) ending() bool {
	if c.protocol == lvs.SCTP {
		return c.state == lvs.SCTPClosed
	}
	switch c.state {
	case lvs.TCPFinWait, lvs.TCPTimeWait, lvs.TCPClose, lvs.TCPCloseWait, lvs.TCPLastAck:
		return true
	}
	return false
}
