package sshx

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"golang.org/x/crypto/ssh"
)

// A PTY is a terminal for a command. Its zero value is an xterm of 80 columns and 24 rows.
//
// The terminal is as after "stty sane", but does not echo, and its output has no CRs added. Output
// is merged. Cmd.Stdin is what is typed: it is sent once the command has started, in lines of at
// most 4095 bytes, ^C and the like act, and its end is ^D. When the connection is lost the terminal
// hangs up, which ends the command, also with Stdin. What is large should come as a file: of what
// is typed faster than it is read, OpenSSH's server may claim an echo that is longer than its
// protocol allows, which ends the connection.
type PTY struct {
	Term          string // $TERM; "" means xterm
	Columns, Rows int    // 0 means 80 and 24
}

// request is the payload of a pty-req. Modes make the terminal raw, so that script and header
// arrive as they are; the wrapper makes it sane.
func (p PTY) request() []byte {
	setDefault(&p.Term, "xterm")
	setDefault(&p.Columns, 80)
	setDefault(&p.Rows, 24)
	var modes []byte
	for _, off := range []byte{
		ssh.ECHO, ssh.ECHOE, ssh.ECHOK, ssh.ECHONL, ssh.ICANON, ssh.ISIG, ssh.IEXTEN, ssh.ISTRIP, ssh.INPCK, ssh.PARMRK,
		ssh.INLCR, ssh.IGNCR, ssh.ICRNL, ssh.IXON, ssh.IXANY, ssh.IXOFF, ssh.IMAXBEL, ssh.OPOST, ssh.ONLCR,
	} {
		modes = binary.BigEndian.AppendUint32(append(modes, off), 0)
	}
	modes = binary.BigEndian.AppendUint32(append(modes, ssh.CS8), 1)
	const end = 0
	return ssh.Marshal(struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}{p.Term, uint32(p.Columns), uint32(p.Rows), 0, 0, string(append(modes, end))})
}

// validate returns what is wrong with the terminal of cmd.
func (p PTY) validate(cmd Cmd) []error {
	var errs []error
	if cmd.Separate {
		errs = append(errs, errors.New("Cmd.Separate: a terminal has one stream"))
	}
	if cmd.ExpectDisconnect {
		errs = append(errs, errors.New("Cmd.PTY: a terminal does not outlast its connection"))
	}
	if p.Columns < 0 || p.Rows < 0 || p.Columns > 1<<16 || p.Rows > 1<<16 {
		errs = append(errs, errors.New("Cmd.PTY: Columns or Rows out of range"))
	}
	if slices.ContainsFunc([]byte(p.Term), func(b byte) bool { return b <= ' ' || b > '~' }) {
		errs = append(errs, errors.New("Cmd.PTY.Term is not a word"))
	}
	return errs
}

var errNoPTY = errors.New("the machine gives out no terminals; look for PermitTTY in its sshd_config, and no-pty in authorized_keys")

// typed is what is sent in the place of an end of stdin: ^D, which is an end only at the
// beginning of a line, and ends an unfinished line before that.
type typed struct {
	w    io.Writer
	last byte
}

func (t *typed) Write(p []byte) (int, error) {
	if len(p) > 0 {
		t.last = p[len(p)-1]
	}
	return t.w.Write(p)
}

func (t *typed) end() {
	eof := "\x04"
	if t.last != 0 && t.last != '\n' {
		eof = "\x04\x04"
	}
	_, _ = io.WriteString(t.w, eof)
}
