package wire

import (
	"bufio"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTextsSuitEveryLoginShell(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"Lead": Lead, "Ready": Ready, "Run": Run, "Exec": Exec, "Guard": Guard, "Stop": Stop, "Detach": Detach, "Job": Job, "Poll": Poll, "Kill": Kill,
	} {
		assert.NotContains(t, text, "'", name)
		assert.NotContains(t, text, "!", name)
		assert.NotContains(t, text, "\n", name)
		assert.NotContains(t, text, `\\`, name)
		assert.Less(t, len(text), 4096, name)
	}
}

func TestCallsAreParsedAsTheyWereMade(t *testing.T) {
	t.Parallel()
	for _, c := range []Call{
		{Text: Run, Name: "sshx", Args: []string{"0123abcd", "m"}},
		{Text: Run, Name: "sshx:install", Lead: true, Args: []string{"t", "si"}},
		{Text: Run, Name: "sshx", Lead: true, User: "o'neil $x", Args: []string{"t", "s"}},
		{Text: Run, Name: "sshx", Lead: true, User: "root", Prompt: "tok 'password': ", Args: []string{"t", "s"}},
		{Text: Exec, Name: "sshx", Args: []string{"t", "mi", "ls", "-l", "it's", ""}},
		{Text: Exec, Name: "sshx", Direct: true, Args: []string{"t", "m", "ls", "it's", "two\nlines", "!\\"}},
		{Text: Guard, Name: "sshx:guard", Args: []string{"0123abcd"}},
		{Text: Stop, Name: "sshx", Args: []string{"4711"}},
		{Text: Detach, Name: "sshx", Args: []string{"id", Job}},
		{Text: Poll, Name: "sshx", Args: []string{"id", "0", "65536"}},
		{Text: Kill, Name: "sshx", Lead: true, User: "root", Args: []string{"id"}},
	} {
		got, ok := Parse(c.Command())
		require.True(t, ok, c.Command())
		assert.Equal(t, c, got)
	}
	for _, s := range []string{
		"", "exec", "true", "exec /bin/sh -c", "exec /bin/sh -c 'true' sshx", "exec /bin/sh -c '", "exec /bin/sh -c $(x) y",
		Call{Text: Run, Name: "sshx"}.Command() + "; true", "sudo -n true",
		"set -- t m $(x); " + Exec, "set -- t m; " + Run,
	} {
		_, ok := Parse(s)
		assert.False(t, ok, "%q", s)
	}
}

func TestHeadersAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	for _, p := range []string{
		Preamble(nil, "", []string{"true"}),
		Preamble(map[string]string{"A": "1", "B": "two\nlines\n"}, "/tmp", []string{"sh"}),
		Preamble(nil, "-", []string{"a b", "c'd", "\n"}),
	} {
		r := bufio.NewReader(strings.NewReader(Header(5, p) + "12345rest"))
		n, got, err := ReadHeader(r)
		require.NoError(t, err)
		assert.EqualValues(t, 5, n)
		assert.Equal(t, p, got)
		b := make([]byte, 9)
		_, err = r.Read(b)
		require.NoError(t, err)
		assert.Equal(t, "12345rest", string(b))
	}
	for _, s := range []string{"", "0", "0\n", "0 0\n", "-1 0 f x #end\n", "0 0 f set -- 'a'\n", "0 0 f #end", "0 9 f\nset", "x 0 f #end\n", "0 0 #end\n"} {
		_, _, err := ReadHeader(bufio.NewReader(strings.NewReader(s)))
		assert.Error(t, err, "%q", s)
	}
}
