package userland

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/shell"
)

func regexpError(p *machine.Proc, err error) int {
	if ns, ok := errors.AsType[*shell.NotSimulated](err); ok {
		return p.NotSimulated(ns.What)
	}
	return p.Fail(2, "%v", err)
}

// compileRegexp makes a POSIX expression, basic or extended, with GNU's additions, one of Go's that
// finds the same: the leftmost and longest.
func compileRegexp(s string, extended, fold, whole bool) (*regexp.Regexp, error) {
	out, err := translate(s, extended)
	if err != nil {
		return nil, err
	}
	flags := "(?s)"
	if fold {
		flags = "(?si)"
	}
	if whole {
		out = "^(?:" + out + ")$"
	}
	re, err := regexp.Compile(flags + out)
	if err != nil {
		return nil, fmt.Errorf("invalid regular expression %q", s)
	}
	re.Longest()
	return re, nil
}

// translate turns POSIX syntax into Go's.
func translate(s string, extended bool) (string, error) {
	var b strings.Builder
	start := true // of an expression, where "*" and, in basic ones, "^" have their special roles
	for i := 0; i < len(s); i++ {
		c := s[i]
		wasStart := start
		start = false
		switch {
		case c == '\\':
			if i++; i == len(s) {
				return "", errors.New("trailing backslash")
			}
			e := s[i]
			switch {
			case e >= '1' && e <= '9':
				return "", &shell.NotSimulated{What: "back-references in a pattern"} // Go's expressions cannot look back
			case strings.IndexByte("wWsSbB", e) >= 0:
				b.WriteString(`\` + string(e))
			case e == '<' && !beginsWord.MatchString(s[i+1:]), e == '>' && !endsWord.MatchString(s[:i-1]):
				return "", &shell.NotSimulated{What: `\` + string(e) + " at other than letters and digits"}
			case e == '<' || e == '>':
				b.WriteString(`\b`)
			case e == '`':
				b.WriteString(`\A`)
			case e == '\'':
				b.WriteString(`\z`)
			case strings.IndexByte("nrtfv", e) >= 0:
				b.WriteString(`\` + string(e))
			case strings.IndexByte("xodc", e) >= 0: // sed's characters by number; to grep they mean nothing certain
				return "", &shell.NotSimulated{What: `\` + string(e) + " in a pattern"}
			case !extended && e == '{' && !isInterval(strings.Replace(s[i:], `\}`, "}", 1)):
				return "", errors.New(`Unmatched \{`)
			case !extended && strings.IndexByte("(){}|+?", e) >= 0:
				b.WriteByte(e)
				start = e == '(' || e == '|'
			default:
				b.WriteString(regexp.QuoteMeta(string(e)))
			}
		case c == '[':
			set, n, err := bracket(s[i:])
			if err != nil {
				return "", err
			}
			b.WriteString(set)
			i += n - 1
		case !extended && strings.IndexByte("(){}|+?", c) >= 0:
			b.WriteString(`\` + string(c))
		case extended && wasStart && (c == '*' || c == '{' && isInterval(s[i:])):
			return "", &shell.NotSimulated{What: string(c) + " at the start of an expression"}
		case c == '*' && wasStart:
			b.WriteString(`\*`)
		case c == '*' && i > 0 && s[i-1] == '*' && (i < 2 || s[i-2] != '\\'):
			start = wasStart // again is as good as once
		case !extended && c == '^' && !wasStart:
			b.WriteString(`\^`)
		case !extended && c == '$' && i+1 < len(s) && !strings.HasPrefix(s[i+1:], `\)`) && !strings.HasPrefix(s[i+1:], `\|`):
			b.WriteString(`\$`)
		case extended && (c == '?' || c == '+') && i > 1 && strings.IndexByte("*+?}", s[i-1]) >= 0 && s[i-2] != '\\':
			return "", &shell.NotSimulated{What: s[i-1:i+1] + " in a pattern"} // to Go it is another operator
		case extended && c == '{' && (wasStart || !isInterval(s[i:])):
			b.WriteString(`\{`)
		case extended && c == '}':
			b.WriteByte(c)
		default:
			b.WriteByte(c)
			start = c == '^' || extended && (c == '(' || c == '|')
		}
	}
	return b.String(), nil
}

// Go has no \< and \>, but \b is the same next to what can only be part of a word.
var (
	beginsWord = regexp.MustCompile(`^(\w|\\w|\[(\[:(alnum|alpha|digit|lower|upper):\]|[a-zA-Z0-9_](-[a-zA-Z0-9])?)+\])([^*?\\{]|\\[^?{]|$)`)
	endsWord   = regexp.MustCompile(`(^|[^\\])(\w|\\w)$`)
)

var interval = regexp.MustCompile(`^\{[0-9]+(,[0-9]*)?\}`)

func isInterval(s string) bool { return interval.MatchString(s) }

// bracket translates "[...]", in which a backslash is itself.
func bracket(s string) (out string, n int, err error) {
	var b strings.Builder
	b.WriteByte('[')
	i := 1
	if i < len(s) && s[i] == '^' {
		b.WriteByte('^')
		i++
	}
	for first := true; i < len(s); first = false {
		switch {
		case s[i] == ']' && !first:
			b.WriteByte(']')
			return b.String(), i + 1, nil
		case strings.HasPrefix(s[i:], "[:"):
			end := strings.Index(s[i:], ":]")
			if end < 0 {
				return "", 0, errors.New("Unmatched [, [^, [:, [., or [=")
			}
			b.WriteString(s[i : i+end+2])
			i += end + 2
			continue
		case s[i] == '[' || s[i] == ']' || s[i] == '\\' || s[i] == '^':
			b.WriteString(`\` + string(s[i]))
		default:
			b.WriteByte(s[i])
		}
		i++
	}
	return "", 0, errors.New("Unmatched [, [^, [:, [., or [=")
}
