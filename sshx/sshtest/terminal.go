package sshtest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// A terminal is what a pty-req asked for. It has no line editing: of its modes only those of output
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

// wireTerminal is wire.Terminal. Hanging up is the session's part.
func (h *Host) wireTerminal(ctx context.Context, p *Proc) int {
	if len(p.Args) < 2 {
		return wireFail(p, errors.New("too few arguments"))
	}
	in := bufio.NewReader(p.Stdin)
	n, preamble, err := wire.ReadTerminalHeader(in)
	if err != nil {
		return wireFail(p, errors.New("input ended early"))
	}
	script, err := wireScript(in, n)
	if err != nil {
		return wireFail(p, err)
	}
	token := p.Args[1]
	fmt.Fprintf(p.Stdout, "%s%s %s\n", wire.Marker, token, wire.Read)
	if _, err := in.ReadByte(); err != nil {
		return wireFail(p, errors.New("input ended early"))
	}
	text := preamble + "\n" + fmt.Sprintf("echo '%s%s %d'\n", wire.Marker, token, p.pid) + `exec "$@"`
	if len(script) > 0 {
		file := path.Join(orDefault(p.Env["TMPDIR"], "/tmp"), "sshx."+token)
		if err := p.writeNew(file, script, 0o600); err != nil {
			return wireFail(p, err)
		}
		defer func() { _ = p.view().remove(p.Path(file)) }()
		text += " " + wire.Quote(file)
	}
	q := *p
	q.Stdin = &keyboard{r: in}
	return h.shell(ctx, &q, source{text: text, name: p.Args[0]})
}

// A keyboard is the input of a terminal: ^D ends it, once what precedes it on its line was read.
type keyboard struct {
	r    *bufio.Reader
	line []byte
}

const eof = 4 // ^D

func (k *keyboard) Read(b []byte) (int, error) {
	for len(k.line) == 0 {
		c, err := k.r.ReadByte()
		for ; err == nil && c != eof; c, err = k.r.ReadByte() {
			if k.line = append(k.line, c); c == '\n' {
				break
			}
		}
		if len(k.line) == 0 {
			return 0, io.EOF
		}
	}
	n := copy(b, k.line)
	k.line = k.line[n:]
	return n, nil
}

// hasTerminal reports whether the process has a terminal, as sudo's requiretty wants.
func (p *Proc) hasTerminal() bool { return p.task != nil && p.task.terminal }
