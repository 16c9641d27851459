package userland

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// A sedAddress selects lines: a number, the last one, or an expression.
type sedAddress struct {
	line int // 0 is none
	step int // first~step
	last bool
	re   *regexp.Regexp
	plus int // addr,+N
}

// A sedCommand is one command of a script. For s, re, text and the flags; for y, from and to.
type sedCommand struct {
	a, b     *sedAddress
	negate   bool
	name     byte
	text     string
	re       *regexp.Regexp
	nth      int
	global   bool
	print    bool
	from, to []rune
	block    []*sedCommand

	active bool // inside of a range
	until  int
}

// cmdSed is
//
//	sed [-n] [-E|-r] [-u] [-i[SUFFIX]] [-e SCRIPT] [-f FILE] [SCRIPT] [FILE...]
//
// with the commands s (flags g, p, i, I, a number), y, p, d, a, i, c, q, =, r FILE and {...}, after
// addresses N, $, /RE/, \cREc, FIRST~STEP, and ranges of them, with +N, and "!". The empty
// expression, hold space, n, N and labels are not simulated.
func cmdSed(ctx context.Context, p *machine.Proc) int {
	// -i may have a suffix, but only attached.
	suffix, inPlace := "", false
	args := []string{p.Args[0]}
	for _, a := range p.Args[1:] {
		switch rest, ok := strings.CutPrefix(a, "-i"); {
		case ok:
			inPlace, suffix = true, rest
		case a == "--in-place":
			inPlace = true
		case strings.HasPrefix(a, "--in-place="):
			inPlace, suffix = true, a[len("--in-place="):]
		case a == "-ni" || a == "-Ei" || a == "-ri":
			inPlace = true
			args = append(args, a[:2])
		default:
			args = append(args, a)
		}
	}
	q := p.With(args...)
	o, ok := parse(q, "-n -E -r -e: -f: -u --quiet --silent --regexp-extended --expression=")
	if !ok {
		return machine.ExitNotSimulated
	}
	var script []string
	for _, x := range o.list {
		switch x[0] {
		case "-e", "--expression":
			script = append(script, x[1])
		case "-f":
			data, err := readNamed(p, x[1])
			if err != nil {
				return p.Fail(4, "couldn't open file %s: %s", x[1], disk.Reason(err))
			}
			script = append(script, strings.TrimSuffix(string(data), "\n"))
		}
	}
	if len(script) == 0 {
		if len(o.args) == 0 {
			return p.Fail(1, "usage: sed [OPTION]... {script-only-if-no-other-script} [input-file]...")
		}
		script, o.args = o.args[:1], o.args[1:]
	}
	ps := &sedParser{s: strings.Join(script, "\n"), extended: o.has("-E", "-r", "--regexp-extended")}
	cmds, err := ps.block(false)
	if err != nil {
		if ns, ok := errors.AsType[sedNotSimulated](err); ok {
			return p.NotSimulated(string(ns))
		}
		return p.Fail(1, "-e expression #1, char %d: %v", ps.i, err)
	}
	quiet := o.has("-n", "--quiet", "--silent") || strings.HasPrefix(ps.s, "#n\n") || ps.s == "#n"
	if inPlace && len(o.args) == 0 {
		return p.Fail(4, "no input files")
	}
	if !inPlace {
		for _, name := range o.args {
			if i, err := p.View().Stat(p.Path(name)); err == nil && i.IsDir() {
				return p.Fail(4, "read error on %s: %s", name, disk.Reason(syscall.EISDIR))
			}
		}
		var all strings.Builder
		code := eachText(ctx, p, o.args, func(_, text string) error {
			if all.Len() > 0 && !strings.HasSuffix(all.String(), "\n") {
				all.WriteByte('\n')
			}
			all.WriteString(text)
			return nil
		})
		if code != 0 {
			code = 2
		}
		out, exit := runSed(p, cmds, all.String(), quiet)
		_, _ = io.WriteString(p.Stdout, out)
		return max(code, exit)
	}
	code := 0
	for _, name := range o.args {
		i, err := p.View().Stat(p.Path(name))
		if err != nil {
			code = p.Fail(2, "can't read %s: %s", name, disk.Reason(err))
			continue
		}
		if !i.Mode().IsRegular() {
			code = p.Fail(4, "couldn't edit %s: not a regular file", name)
			continue
		}
		text, err := p.ReadFile(name)
		if err == nil && suffix != "" {
			err = p.WriteFile(name+suffix, text, 0o644)
		}
		if err == nil {
			out, exit := runSed(p, cmds, string(text), quiet)
			code = max(code, exit)
			err = p.View().ReplaceFile(p.Path(name), []byte(out), 0o644)
		}
		if err != nil {
			code = p.Fail(4, "couldn't edit %s: %s", name, disk.Reason(err))
		}
	}
	return code
}

// runSed runs a script over a text.
func runSed(p *machine.Proc, cmds []*sedCommand, text string, quiet bool) (out string, exit int) {
	resetSed(cmds)
	var b strings.Builder
	all := lines(text)
	end := "\n"
	for n, line := range all {
		r := &sedLine{p: p, out: &b, n: n + 1, last: n == len(all)-1, text: line}
		r.run(cmds)
		if r.last && !strings.HasSuffix(text, "\n") {
			end = ""
		}
		if !quiet && !r.deleted {
			b.WriteString(r.text + end)
		}
		b.WriteString(r.after.String())
		if r.quit {
			return b.String(), r.exit
		}
	}
	return b.String(), 0
}

func resetSed(cmds []*sedCommand) {
	for _, c := range cmds {
		c.active = false
		resetSed(c.block)
	}
}

// sedLine is one cycle.
type sedLine struct {
	p             *machine.Proc
	out           *strings.Builder
	after         strings.Builder
	n             int
	last          bool
	text          string
	deleted, quit bool
	exit          int
}

func (r *sedLine) run(cmds []*sedCommand) {
	for _, c := range cmds {
		if r.deleted || r.quit {
			return
		}
		if r.selected(c) == c.negate {
			continue
		}
		switch c.name {
		case '{':
			r.run(c.block)
		case 's':
			var changed bool
			if r.text, changed = c.substitute(r.text); changed && c.print {
				r.out.WriteString(r.text + "\n")
			}
		case 'y':
			r.text = strings.Map(func(x rune) rune {
				for i, f := range c.from {
					if f == x {
						return c.to[i]
					}
				}
				return x
			}, r.text)
		case 'p':
			r.out.WriteString(r.text + "\n")
		case '=':
			fmt.Fprintln(r.out, r.n)
		case 'd':
			r.deleted = true
		case 'a':
			r.after.WriteString(c.text + "\n")
		case 'i':
			r.out.WriteString(c.text + "\n")
		case 'c':
			r.deleted = true
			if c.b == nil || !c.active || c.negate {
				r.out.WriteString(c.text + "\n")
			}
		case 'r':
			data, _ := r.p.ReadFile(c.text)
			r.after.Write(data)
		case 'q':
			r.quit = true
			r.exit, _ = strconv.Atoi(c.text)
		}
	}
}

func (a *sedAddress) fits(r *sedLine) bool {
	switch {
	case a.last:
		return r.last
	case a.re != nil:
		return a.re.MatchString(r.text)
	case a.step > 0:
		return r.n >= a.line && (r.n-a.line)%a.step == 0
	}
	return r.n == a.line
}

func (r *sedLine) selected(c *sedCommand) bool {
	switch {
	case c.a == nil:
		return true
	case c.b == nil:
		return c.a.fits(r)
	case !c.active:
		if !c.a.fits(r) {
			return false
		}
		c.active = true
		switch {
		case c.b.plus > 0:
			c.until = r.n + c.b.plus
		case c.b.line > 0:
			c.until = c.b.line
		default:
			c.active = !r.last || !c.b.last
			return true
		}
		c.active = r.n < c.until
		return true
	}
	switch {
	case c.b.plus > 0 || c.b.line > 0:
		c.active = r.n < c.until
	default:
		c.active = !c.b.fits(r)
	}
	return true
}

// substitute applies s to a line.
func (c *sedCommand) substitute(line string) (string, bool) {
	var b strings.Builder
	at, changed := 0, false
	for n, m := range c.re.FindAllStringSubmatchIndex(line, -1) {
		if n+1 < c.nth {
			continue
		}
		b.WriteString(line[at:m[0]])
		b.WriteString(expandSed(c.text, line, m))
		at, changed = m[1], true
		if !c.global {
			break
		}
	}
	b.WriteString(line[at:])
	return b.String(), changed
}

// expandSed fills in a replacement: & and \1 to \9, \n and \t.
func expandSed(text, s string, m []int) string {
	var b strings.Builder
	group := func(n int) {
		if 2*n+1 < len(m) && m[2*n] >= 0 {
			b.WriteString(s[m[2*n]:m[2*n+1]])
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '&':
			group(0)
		case c == '\\' && i+1 < len(text):
			i++
			switch c := text[i]; {
			case c >= '0' && c <= '9':
				group(int(c - '0'))
			case c == 'n':
				b.WriteByte('\n')
			case c == 't':
				b.WriteByte('\t')
			default:
				b.WriteByte(c)
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

type sedNotSimulated string

func (e sedNotSimulated) Error() string { return string(e) }
