package wire

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Quote returns s as one word of POSIX shell. s must not contain NUL. A quote becomes '"'"', which
// every shell reads the same; the interpreter of sshtest does not do so with '\” in assignments.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'" }

// Words returns quoted words, separated by blanks.
func Words(words ...string) string {
	q := make([]string, len(words))
	for i, w := range words {
		q[i] = Quote(w)
	}
	return strings.Join(q, " ")
}

// A Call is one exec request for one of the texts.
type Call struct {
	User   string // through sudo; "" without
	Prompt string // with User: by which sudo asks for a password; "" is never
	Lead   bool   // have Lead run the text; implied by User
	Text   string // Run, Exec, Guard, Stop, Detach, Poll or Kill
	Name   string // $0: letters, digits, "-", "_", "." and ":"
	Args   []string
	// Direct has the login shell run Exec, without another shell: it must be one that
	// SuitsDirect. Without User and Lead; Name is not used.
	Direct bool
}

// Command is the string of the exec request.
func (c Call) Command() string {
	if c.Direct {
		return c.direct()
	}
	var b strings.Builder
	if c.User != "" {
		b.WriteString(Sudo(c.User, c.Prompt))
	} else {
		b.WriteString("exec /bin/sh -c ")
	}
	if c.leads() {
		b.WriteString(Quote(Lead) + " ")
	}
	b.WriteString(Quote(c.Text))
	for _, a := range append([]string{c.Name}, c.Args...) {
		if plain(a) {
			b.WriteString(" " + a)
		} else {
			b.WriteString(" " + Quote(a))
		}
	}
	return b.String()
}

func (c Call) leads() bool { return c.Lead || c.User != "" }

// plain reports whether every shell takes the word as it is, unquoted.
func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':') {
			return false
		}
	}
	return s != ""
}

// Parse reads what Command wrote; ok is false for every other command.
func Parse(command string) (c Call, ok bool) {
	if c, ok := ParseDirect(command); ok {
		return c, true
	}
	words, ok := split(command)
	if !ok {
		return Call{}, false
	}
	if sudo := []string{"exec", "sudo", "-n", "-H", "-u"}; len(words) > 7 && slices.Equal(words[:5], sudo) && words[6] == "--" {
		c.User = words[5]
		words = append([]string{"exec"}, words[7:]...)
	}
	if sudo := []string{"exec", "sudo", "-S", "-p"}; len(words) > 12 && slices.Equal(words[:4], sudo) && words[11] == Ready {
		c.Prompt, c.User = words[4], words[7]
		words = slices.Concat([]string{"exec"}, words[9:11], words[12:])
	}
	if len(words) < 5 || !slices.Equal(words[:3], []string{"exec", "/bin/sh", "-c"}) {
		return Call{}, false
	}
	words = words[3:]
	if words[0] == Lead {
		c.Lead = true
		words = words[1:]
	}
	if len(words) < 2 || !slices.Contains([]string{Run, Exec, Guard, Stop, Detach, Poll, Kill}, words[0]) {
		return Call{}, false
	}
	c.Text, c.Name, c.Args = words[0], words[1], words[2:]
	return c, c.leads() == c.Lead
}

// split undoes quoting: words of plain characters, "/", single-quoted parts and Quote's quotes.
func split(s string) (words []string, ok bool) {
	var w strings.Builder
	in := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ' ':
			if in {
				words = append(words, w.String())
				w.Reset()
			}
			in = false
			continue
		case c == '\'':
			n := strings.IndexByte(s[i+1:], '\'')
			if n < 0 {
				return nil, false
			}
			w.WriteString(s[i+1 : i+1+n])
			i += n + 1
		case strings.HasPrefix(s[i:], `"'"`):
			w.WriteByte('\'')
			i += 2
		case plain(s[i:i+1]) || c == '/':
			w.WriteByte(c)
		default:
			return nil, false
		}
		in = true
	}
	if in {
		words = append(words, w.String())
	}
	return words, true
}

// end closes every preamble, so that a truncated one is told from a whole one.
const end = " #end"

// Preamble is the shell text that sets up a command: it exports env, in order of names, changes
// to dir ("" stays; relative ones are taken from where the login starts; "~" is $HOME, or / if that
// cannot be entered), and sets the positional parameters to words. Nothing of it may contain NUL;
// names must be names.
func Preamble(env map[string]string, dir string, words []string) string {
	var b strings.Builder
	names := make([]string, 0, len(env))
	for n := range env {
		names = append(names, n)
	}
	slices.Sort(names)
	switch {
	case dir == "~":
		b.WriteString(`cd "$HOME" 2>/dev/null || cd /; `)
	case dir != "":
		if !strings.HasPrefix(dir, "/") {
			dir = "./" + dir // keeps CDPATH, "-" and options out of it
		}
		b.WriteString("cd " + Quote(dir) + " || exit 125; ")
	}
	for _, n := range names {
		b.WriteString("export " + n + "=" + Quote(env[n]) + "; ")
	}
	b.WriteString("set -- " + Words(words...) + ";" + end)
	return b.String()
}

// Header is what precedes a script of n bytes on stdin, with an unguessable name for the
// script's file.
func Header(n int64, preamble string) string {
	if strings.Contains(preamble, "\n") {
		return fmt.Sprintf("%d %d %s\n%s", n, len(preamble), rand.Text(), preamble)
	}
	return fmt.Sprintf("%d 0 %s %s\n", n, rand.Text(), preamble)
}

// ReadHeader reads a Header, but for the name. The script, of n bytes, is what r reads next; r must
// be what everything else of the stream is read from, since it may have read ahead.
func ReadHeader(r *bufio.Reader) (n int64, preamble string, err error) {
	head, err := r.ReadString('\n')
	if err != nil {
		return 0, "", short(err)
	}
	f := strings.SplitN(strings.TrimSuffix(head, "\n"), " ", 4)
	if len(f) < 3 {
		return 0, "", errors.New("header without two numbers and a name")
	}
	if n, err = strconv.ParseInt(f[0], 10, 64); err != nil || n < 0 {
		return 0, "", fmt.Errorf("length of script %q", f[0])
	}
	m, err := strconv.Atoi(f[1])
	if err != nil || m < 0 {
		return 0, "", fmt.Errorf("length of preamble %q", f[1])
	}
	if m > 0 {
		b := make([]byte, m)
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, "", short(err)
		}
		preamble = string(b)
	} else if len(f) == 4 {
		preamble = f[3]
	}
	if !strings.HasSuffix(preamble, end) {
		return 0, "", errors.New("preamble without end")
	}
	return n, preamble, nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
