package shell

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// echo, printf and read of bash and dash: the interpreter's own lack much of them.

// echoText is what echo prints. dash's has no option but -n, and always interprets escapes.
func echoText(args []string, dash bool) string {
	newline, escapes := true, dash
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		if dash && args[0] != "-n" || strings.Trim(args[0][1:], "neE") != "" {
			break
		}
		for _, c := range args[0][1:] {
			switch c {
			case 'n':
				newline = false
			default:
				escapes = c == 'e'
			}
		}
		args = args[1:]
		if dash {
			break
		}
	}
	text := strings.Join(args, " ")
	if escapes {
		var stop bool
		if text, stop = unescape(text, true, dash); stop {
			return text
		}
	}
	if newline {
		text += "\n"
	}
	return text
}

// unescape interprets the escapes of echo -e and printf; stop reports a \c, which only echo and %b
// know. With zero an octal number begins with 0, as echo's do.
func unescape(s string, zero, dash bool) (text string, stop bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if plain := strings.IndexByte("abfnrtv\\", s[i]); plain >= 0 {
			b.WriteByte("\a\b\f\n\r\t\v\\"[plain])
			continue
		}
		digits, base, limit := "01234567", 8, 3
		start := i
		switch c := s[i]; {
		case c == 'c':
			return b.String(), true
		case c == 'e' && !dash:
			b.WriteByte(27)
			continue
		case c == 'x' && !dash:
			digits, base, limit, start = "0123456789abcdefABCDEF", 16, 2, i+1
		case c == '0' && zero:
			start = i + 1
		case zero || c < '0' || c > '7':
			b.WriteByte('\\')
			b.WriteByte(c)
			continue
		}
		end := start
		for end < len(s) && end-start < limit && strings.IndexByte(digits, s[end]) >= 0 {
			end++
		}
		if end == start && base == 16 {
			b.WriteString(`\x`)
			continue
		}
		n, _ := strconv.ParseUint("0"+s[start:end], base, 16)
		b.WriteByte(byte(n))
		i = end - 1
	}
	return b.String(), false
}

// printfText is what printf prints, with its messages and exit code.
func printfText(args []string, dash bool) (out, errs string, code int, err error) {
	if len(args) == 0 {
		return "", "printf: usage: printf [-v var] format [arguments]\n", 2, nil
	}
	format, args := args[0], args[1:]
	var b, bad strings.Builder
	for used := true; used; {
		used = false
		for i := 0; i < len(format); i++ {
			switch c := format[i]; {
			case c == '\\':
				end := min(i+4, len(format))
				// An escape is at most four bytes long, "\101" and "\x41".
				text, n := printfEscape(format[i:end], dash)
				b.WriteString(text)
				i += n - 1
				continue
			case c != '%':
				b.WriteByte(c)
				continue
			case strings.HasPrefix(format[i:], "%%"):
				b.WriteByte('%')
				i++
				continue
			}
			next := func() (string, bool) {
				if len(args) == 0 {
					return "", false
				}
				a := args[0]
				args, used = args[1:], true
				return a, true
			}
			spec := "%"
			for i++; i < len(format) && strings.IndexByte("-+ #0123456789.*", format[i]) >= 0; i++ {
				if format[i] == '*' {
					n, _ := next()
					spec += strconv.Itoa(int(printfInt(n, &bad, &code)))
					continue
				}
				spec += string(format[i])
			}
			for i < len(format) && strings.IndexByte("hlLjzt", format[i]) >= 0 {
				i++
			}
			if i >= len(format) {
				bad.WriteString("printf: `" + spec + "': missing format character\n")
				return b.String(), bad.String(), 1, nil
			}
			switch verb := format[i]; verb {
			case 's':
				a, _ := next()
				fmt.Fprintf(&b, spec+"s", a)
			case 'b':
				a, _ := next()
				text, stop := unescape(a, false, dash)
				fmt.Fprintf(&b, spec+"s", text)
				if stop {
					return b.String(), bad.String(), code, nil
				}
			case 'c':
				a, _ := next()
				fmt.Fprintf(&b, spec+"s", a[:min(1, len(a))])
			case 'd', 'i':
				a, _ := next()
				fmt.Fprintf(&b, spec+"d", printfInt(a, &bad, &code))
			case 'u':
				a, _ := next()
				fmt.Fprintf(&b, spec+"d", uint64(printfInt(a, &bad, &code)))
			case 'o', 'x', 'X':
				a, _ := next()
				fmt.Fprintf(&b, spec+string(verb), uint64(printfInt(a, &bad, &code)))
			case 'e', 'E', 'f', 'F', 'g', 'G':
				a, ok := next()
				x, perr := strconv.ParseFloat(a, 64)
				if perr != nil && ok && a != "" {
					bad.WriteString("printf: " + a + ": invalid number\n")
					code = 1
				}
				if verb == 'g' && !strings.Contains(spec, ".") {
					spec += ".6" // Go's default is as many digits as it takes
				}
				fmt.Fprintf(&b, spec+string(verb), x)
			case 'q':
				if dash {
					return b.String(), bad.String() + "printf: %q: invalid directive\n", 2, nil
				}
				a, _ := next()
				q, qerr := syntax.Quote(a, syntax.LangBash)
				if qerr != nil || a != "" && q != a { // bash quotes in another style
					return "", "", 0, &machine.Refusal{Command: "printf", What: "%q of " + strconv.Quote(a)}
				}
				fmt.Fprintf(&b, spec+"s", q)
			case '(':
				return "", "", 0, &machine.Refusal{Command: "printf", What: "%(...)T"}
			default:
				fmt.Fprintf(&bad, "printf: `%c': invalid format character\n", verb)
				return b.String(), bad.String(), map[bool]int{false: 1, true: 2}[dash], nil
			}
		}
		if len(args) == 0 {
			break
		}
	}
	return b.String(), bad.String(), code, nil
}

// printfEscape interprets the escape that s begins with, and returns how long that is.
func printfEscape(s string, dash bool) (text string, n int) {
	for n = 2; n <= len(s); n++ {
		octal := strings.Trim(s[1:n], "01234567") == ""
		hex := !dash && s[1] == 'x' && strings.Trim(s[2:n], "0123456789abcdefABCDEF") == ""
		if !octal && !hex {
			break
		}
	}
	n = min(max(n-1, 2), len(s))
	text, _ = unescape(s[:n], false, dash)
	if s[:n] == `\c` {
		text = `\c`
	}
	if n == 2 && (s[1] == '"' || s[1] == '\'') {
		text = s[1:2]
	}
	return text, n
}

func printfInt(s string, bad *strings.Builder, code *int) int64 {
	t := strings.TrimLeft(s, " \t")
	if t == "" {
		return 0
	}
	if t[0] == '"' || t[0] == '\'' {
		r, _ := utf8.DecodeRuneInString(t[1:])
		return int64(r)
	}
	digits := strings.TrimLeft(t, "+-")
	base := 10
	switch {
	case strings.HasPrefix(digits, "0x") || strings.HasPrefix(digits, "0X"):
		base, digits = 16, digits[2:]
	case strings.HasPrefix(digits, "0"):
		base = 8
	}
	end := 0
	for end < len(digits) && strings.IndexByte("0123456789abcdef"[:base], digits[end]|0x20) >= 0 {
		end++
	}
	n, err := strconv.ParseUint("0"+digits[:end], base, 64)
	if end < len(digits) || err != nil {
		bad.WriteString("printf: " + s + ": invalid number\n")
		*code = 1
	}
	if n > math.MaxInt64 {
		n = math.MaxInt64
	}
	if t[0] == '-' {
		return -int64(n)
	}
	return int64(n)
}

// A readCall is a call of read.
type readCall struct {
	raw     bool
	array   string // -a
	count   int    // -n; -1 is any number of characters
	delim   byte
	timeout time.Duration // -t; -1 is none
	names   []string
}

func parseRead(args []string, dash bool) (c readCall, err error) {
	c = readCall{count: -1, delim: '\n', timeout: -1}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		a := args[0]
		args = args[1:]
		if a == "--" {
			break
		}
		for j := 1; j < len(a); j++ {
			o := a[j]
			if dash && o != 'r' && o != 'p' {
				return c, fmt.Errorf("read: Illegal option -%c", o)
			}
			if o == 'r' || o == 's' || o == 'e' {
				c.raw = c.raw || o == 'r'
				continue
			}
			value := a[j+1:]
			if value == "" {
				if len(args) == 0 {
					return c, fmt.Errorf("read: -%c: option requires an argument", o)
				}
				value, args = args[0], args[1:]
			}
			n, nerr := strconv.ParseFloat(value, 64)
			switch {
			case o == 'p':
			case o == 'a':
				c.array = value
			case o == 'd':
				c.delim = (value + "\x00")[0]
			case o == 'n' && nerr == nil && n > 0:
				c.count = int(n)
			case o == 't' && nerr == nil && n > 0:
				c.timeout = time.Duration(n * float64(time.Second))
			default:
				return c, &machine.Refusal{Command: "read", What: a}
			}
			break
		}
	}
	for _, n := range args {
		if !syntax.ValidName(n) {
			return c, fmt.Errorf("read: `%s': not a valid identifier", n)
		}
	}
	c.names = args
	if len(args) == 0 && dash {
		return c, errors.New("read: arg count")
	}
	return c, nil
}

// input reads what read does. quoted marks the bytes that a backslash protects from being split.
// code is 1 at the end of the input, and 142 after a timeout.
func (c readCall) input(r io.Reader) (line []byte, quoted []bool, code int) {
	if f, ok := r.(*os.File); ok && c.timeout >= 0 {
		_ = f.SetReadDeadline(time.Now().Add(c.timeout))
		defer func() { _ = f.SetReadDeadline(time.Time{}) }()
	}
	b := make([]byte, 1)
	escaped := false
	for c.count < 0 || len(line) < c.count {
		n, err := r.Read(b)
		if n == 0 && err == nil {
			continue
		}
		if n == 0 {
			if errors.Is(err, os.ErrDeadlineExceeded) && c.timeout >= 0 {
				return line, quoted, 142
			}
			return line, quoted, 1
		}
		switch {
		case escaped:
			escaped = false
			if b[0] != '\n' {
				line, quoted = append(line, b[0]), append(quoted, true)
			}
		case b[0] == '\\' && !c.raw:
			escaped = true
		case b[0] == c.delim:
			return line, quoted, 0
		case b[0] != 0:
			line, quoted = append(line, b[0]), append(quoted, false)
		}
	}
	return line, quoted, 0
}

const blanks = " \t\n"

// splitFields is field splitting by IFS. With limit > 0 the last of so many fields is the rest, as
// read has it.
func splitFields(line []byte, quoted []bool, ifs string, limit int) []string {
	is := func(i int, set string) bool {
		return !(i < len(quoted) && quoted[i]) && strings.IndexByte(ifs, line[i]) >= 0 && strings.IndexByte(set, line[i]) >= 0
	}
	blank := func(i int) bool { return is(i, blanks) }
	sep := func(i int) bool { return is(i, ifs) }
	i, end := 0, len(line)
	for i < end && blank(i) {
		i++
	}
	for end > i && blank(end-1) {
		end--
	}
	var out []string
	for i < end {
		if limit > 0 && len(out) == limit-1 {
			rest := string(line[i:end])
			// One separator at the very end of the last field goes, if no other is in it.
			if n := end - 1; sep(n) && !blank(n) {
				j := i
				for j < n && !sep(j) {
					j++
				}
				if j == n {
					rest = rest[:len(rest)-1]
				}
			}
			return append(out, rest)
		}
		j := i
		for j < end && !sep(j) {
			j++
		}
		out = append(out, string(line[i:j]))
		for j < end && blank(j) {
			j++
		}
		if j < end && sep(j) && !blank(j) {
			j++
			for j < end && blank(j) {
				j++
			}
		}
		i = j
	}
	return out
}

// ifsOf is IFS as a command sees it.
func ifsOf(hc interp.HandlerContext) string {
	if v := hc.Env.Get("IFS"); v.IsSet() {
		return v.String()
	}
	return blanks
}

// turnRead makes read a script that sets its variables.
func (s *shell) turnRead(hc interp.HandlerContext, args []string) ([]string, error) {
	c, err := parseRead(args[1:], s.dash)
	if err != nil {
		if _, ok := errors.AsType[*machine.Refusal](err); ok {
			return nil, &NotSimulated{strings.Join(args, " "), hc.Pos}
		}
		return complain(2, err.Error())
	}
	line, quoted, code := c.input(hc.Stdin)
	var b strings.Builder
	switch {
	case c.array != "":
		fmt.Fprintf(&b, "%s=(%s)", c.array, QuoteAll(splitFields(line, quoted, ifsOf(hc), 0)...))
	case len(c.names) == 0:
		fmt.Fprintf(&b, "REPLY=%s", QuoteAll(string(line)))
	default:
		fields := splitFields(line, quoted, ifsOf(hc), len(c.names))
		for i, n := range c.names {
			value := ""
			if i < len(fields) {
				value = fields[i]
			}
			fmt.Fprintf(&b, "%s=%s; ", n, QuoteAll(value))
		}
	}
	fmt.Fprintf(&b, "\n%sstatus %d", ourVars, code)
	return []string{"eval", b.String()}, nil
}
