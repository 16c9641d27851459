package sshd

import (
	"encoding/binary"

	"golang.org/x/crypto/ssh"
)

// A terminal is what a pty-req requested. It has no line editing: of its modes only those of output
// act.
type terminal struct {
	term string
	crs  bool // output gets CRs
}

// parseTerminal reads the payload of a pty-req.
func parseTerminal(payload []byte) (*terminal, bool) {
	var m struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        []byte
	}
	if ssh.Unmarshal(payload, &m) != nil {
		return nil, false
	}
	t := &terminal{term: m.Term, crs: true}
	for modes := m.Modes; len(modes) >= 5 && modes[0] != 0; modes = modes[5:] {
		if on := binary.BigEndian.Uint32(modes[1:]) != 0; modes[0] == ssh.OPOST || modes[0] == ssh.ONLCR {
			t.crs = t.crs && on
		}
	}
	return t, true
}
