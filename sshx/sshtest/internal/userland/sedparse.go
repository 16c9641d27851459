package userland

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/shell"
)

// A sedParser reads a script of sed.
type sedParser struct {
	s        string
	i        int
	extended bool
}

func (p *sedParser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *sedParser) skip(set string) {
	for p.i < len(p.s) && strings.IndexByte(set, p.s[p.i]) >= 0 {
		p.i++
	}
}

// block parses commands up to the end, or to "}" if inner.
func (p *sedParser) block(inner bool) ([]*sedCommand, error) {
	var out []*sedCommand
	for {
		p.skip(" \t\n;")
		switch c := p.peek(); {
		case c == 0 && inner:
			return nil, errors.New("unmatched `{'")
		case c == 0:
			return out, nil
		case c == '#':
			for p.peek() != '\n' && p.peek() != 0 {
				p.i++
			}
			continue
		case c == '}':
			if !inner {
				return nil, errors.New("unexpected `}'")
			}
			p.i++
			return out, nil
		}
		cmd, err := p.command()
		if err != nil {
			return nil, err
		}
		out = append(out, cmd)
	}
}

func (p *sedParser) command() (*sedCommand, error) {
	c := &sedCommand{nth: 1}
	var err error
	if c.a, err = p.address(); err != nil {
		return nil, err
	}
	p.skip(" \t")
	if c.a != nil && p.peek() == ',' {
		p.i++
		p.skip(" \t")
		if c.b, err = p.address(); err != nil {
			return nil, err
		}
		if c.b == nil {
			return nil, errors.New("unexpected `,'")
		}
		p.skip(" \t")
	}
	for p.peek() == '!' {
		c.negate = true
		p.i++
		p.skip(" \t")
	}
	c.name = p.peek()
	p.i++
	switch c.name {
	case '{':
		c.block, err = p.block(true)
		return c, err
	case 's':
		err = p.substitution(c)
	case 'y':
		err = p.transliteration(c)
	case 'p', 'd', '=':
	case 'q':
		p.skip(" ")
		start := p.i
		p.skip("0123456789")
		c.text = p.s[start:p.i]
	case 'a', 'i', 'c':
		if c.text = p.text(); c.text == "" && p.i == len(p.s) {
			return nil, sedNotSimulated(string(c.name) + " without text")
		}
		return c, nil
	case 'r':
		p.skip(" \t")
		c.text = p.line()
		return c, nil
	case 0:
		return nil, errors.New("missing command")
	default:
		return nil, sedNotSimulated("command " + string(c.name))
	}
	if err != nil {
		return nil, err
	}
	p.skip(" \t")
	switch p.peek() {
	case 0, ';', '\n', '}', '#':
		return c, nil
	}
	return nil, errors.New("extra characters after command")
}

func (p *sedParser) line() string {
	rest, _, _ := strings.Cut(p.s[p.i:], "\n")
	p.i += len(rest)
	return rest
}

// text is the argument of a, i and c: the rest of the line, or what follows "a\" and a newline.
// Lines that end in a backslash go on.
func (p *sedParser) text() string {
	p.skip(" \t")
	if p.peek() == '\\' {
		p.i++
		white := p.i
		if p.skip(" \t"); p.peek() == '\n' {
			p.i++
		} else {
			p.i = white // what precedes the text on its line is its own
		}
	}
	var b strings.Builder
	for {
		l := p.line()
		more := strings.HasSuffix(l, `\`)
		l = strings.TrimSuffix(l, `\`)
		b.WriteString(strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\`, "").Replace(l))
		if !more || p.peek() == 0 {
			return b.String()
		}
		p.i++
		b.WriteByte('\n')
	}
}

func (p *sedParser) number() int {
	start := p.i
	p.skip("0123456789")
	n, _ := strconv.Atoi(p.s[start:p.i])
	return n
}

func (p *sedParser) address() (*sedAddress, error) {
	switch c := p.peek(); {
	case c >= '0' && c <= '9':
		a := &sedAddress{line: p.number()}
		if p.peek() == '~' {
			p.i++
			a.step = p.number()
		} else if a.line == 0 {
			return nil, sedNotSimulated("address 0")
		}
		return a, nil
	case c == '$':
		p.i++
		return &sedAddress{last: true}, nil
	case c == '~':
		return nil, sedNotSimulated("address ~N")
	case c == '+':
		p.i++
		n := p.number()
		if n == 0 {
			return nil, sedNotSimulated("address +0")
		}
		return &sedAddress{plus: n}, nil
	case c == '/' || c == '\\':
		if c == '\\' {
			p.i++
		}
		s, err := p.delimited(p.peek(), true)
		if err != nil {
			return nil, errors.New("unterminated address regex")
		}
		fold := false
		if p.peek() == 'I' {
			fold = true
			p.i++
		}
		re, err := p.regexp(s, fold)
		return &sedAddress{re: re}, err
	}
	return nil, nil
}

func (p *sedParser) regexp(s string, fold bool) (*regexp.Regexp, error) {
	if s == "" {
		return nil, sedNotSimulated("the empty regular expression")
	}
	re, err := compileRegexp(s, p.extended, fold, false)
	if ns, ok := errors.AsType[*shell.NotSimulated](err); ok {
		return nil, sedNotSimulated(ns.What)
	}
	return re, err
}

// delimited reads what stands from one delimiter, at which the parser is, to the next. A delimiter
// after a backslash is itself.
func (p *sedParser) delimited(d byte, pattern bool) (string, error) {
	if d == 0 || d == '\n' || d == '\\' {
		return "", errors.New("bad delimiter")
	}
	var b strings.Builder
	set := false // in a bracket expression delimiters are plain
	for p.i++; p.i < len(p.s); p.i++ {
		c := p.s[p.i]
		switch {
		case c == '\\' && p.i+1 < len(p.s) && !set:
			p.i++
			switch n := p.s[p.i]; {
			case n == d && (d == '/' || !pattern || strings.IndexByte(`.*[]^$+?(){}|`, d) < 0):
				b.WriteByte(d)
			case n == '\n':
				b.WriteByte('\n')
			default:
				b.WriteString(`\` + string(n))
			}
			continue
		case pattern && c == '[' && !set:
			set = true
			b.WriteByte(c)
			for _, x := range "^]" { // a first "]" is plain
				if p.i+1 < len(p.s) && p.s[p.i+1] == byte(x) {
					p.i++
					b.WriteByte(byte(x))
				}
			}
			continue
		case set && c == '[' && p.i+1 < len(p.s) && p.s[p.i+1] == ':':
			if end := strings.Index(p.s[p.i:], ":]"); end > 0 {
				b.WriteString(p.s[p.i : p.i+end+2])
				p.i += end + 1
				continue
			}
		case set && c == ']':
			set = false
		case c == d && !set:
			p.i++
			return b.String(), nil
		}
		b.WriteByte(c)
	}
	return "", errors.New("unterminated")
}

func (p *sedParser) substitution(c *sedCommand) error {
	d := p.peek()
	pattern, err := p.delimited(d, true)
	if err != nil {
		return errors.New("unterminated `s' command")
	}
	p.i--
	if c.text, err = p.delimited(d, false); err != nil {
		return errors.New("unterminated `s' command")
	}
	fold := false
	for {
		switch f := p.peek(); {
		case f == 'g':
			c.global = true
		case f == 'p':
			c.print = true
		case f == 'i' || f == 'I':
			fold = true
		case f >= '1' && f <= '9':
			c.nth = p.number()
			continue
		case f == 'w' || f == 'e' || f == 'm' || f == 'M':
			return sedNotSimulated("flag " + string(f) + " of s")
		default:
			c.re, err = p.regexp(pattern, fold)
			if err == nil && strings.ContainsAny(c.text, `\`) && regexp.MustCompile(`\\[LUElu]`).MatchString(c.text) {
				return sedNotSimulated("case conversion in a replacement")
			}
			if err == nil && regexp.MustCompile(`\\[xodc]`).MatchString(strings.ReplaceAll(c.text, `\\`, "")) {
				return sedNotSimulated("characters by number in a replacement")
			}
			return err
		}
		p.i++
	}
}

func (p *sedParser) transliteration(c *sedCommand) error {
	d := p.peek()
	from, err := p.delimited(d, false)
	if err != nil {
		return errors.New("unterminated `y' command")
	}
	p.i--
	to, err := p.delimited(d, false)
	if err != nil {
		return errors.New("unterminated `y' command")
	}
	c.from, c.to = []rune(from), []rune(to)
	if len(c.from) != len(c.to) {
		return errors.New("strings for `y' command are different lengths")
	}
	return nil
}
