package sshx

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSecretsAreLookedForBeforeTextsAreCutOrQuoted(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"hunter2", `a"b`, `back\slash`, "tab\tstop", "näive", "two  blanks", "\x1b[31m", strings.Repeat("s3", 60)} {
		c := Config{Name: "m1", Secrets: []string{secret}}
		for name, text := range map[string]string{
			"args":   c.label(Cmd{Args: []string{"curl", "-u", "root:" + secret, "x"}}),
			"cut":    c.label(Cmd{Args: []string{strings.Repeat("x", 95) + secret}}),
			"name":   c.label(Cmd{Name: "log in with " + secret}),
			"said":   c.said("the machine said " + secret + " and more"),
			"banner": c.said(strings.Repeat("x", 498) + secret),
		} {
			assert.Contains(t, text, strings.Repeat("*", 2), name)
			for _, part := range []string{secret, clean(secret), secret[:len(secret)/2+1]} {
				assert.NotContains(t, text, part, "%s of %q", name, secret)
			}
		}
	}
}

func TestSecretOfSeveralLinesIsOneLineByLine(t *testing.T) {
	t.Parallel()
	c := Config{Secrets: []string{"-----BEGIN KEY-----\nc2VjcmV0IGtleQ\nend\n-----END KEY-----\n"}, SudoPassword: "hunter2"}
	assert.Equal(t, "***", c.Redact(c.Secrets[0]))
	assert.Equal(t, "***", c.Redact(strings.ReplaceAll(c.Secrets[0], "\n", "\r\n")), "as a terminal shows it")
	assert.Equal(t, "12: ***", c.Redact("12: c2VjcmV0IGtleQ"), "as grep -n shows it")
	assert.Equal(t, "-----BEGIN KEY-----, the end", c.Redact("-----BEGIN KEY-----, the end"))
	assert.Equal(t, "sudo ***", c.Redact("sudo hunter2"))
}

func TestErrorsOfTheMachineAreRedacted(t *testing.T) {
	t.Parallel()
	c := &Client{cfg: Config{Name: "m1", Secrets: []string{"hunter2"}}}
	cause := errors.New("hunter2")
	err := c.bare(&DialError{Host: "m1", Cause: cause})
	assert.NotContains(t, err.Error(), "hunter2")
	require.ErrorIs(t, err, cause)
	_, ok := errors.AsType[*DialError](err)
	assert.True(t, ok)
}

// FuzzRedactor looks for secrets in what is left of a text that has some, in pieces of any size.
func FuzzRedactor(f *testing.F) {
	f.Add("hunter2", "hunter2-long", "so hunter2-longhunter2", uint8(3))
	f.Add("aab", "aabaa", "aaabaabaaab", uint8(1))
	f.Add("a\nb12345678", "b1", "a\r\nb12345678b1", uint8(2))
	f.Fuzz(func(t *testing.T, one, two, text string, step uint8) {
		if strings.ContainsAny(one+two, "*") { // stars may make one
			t.Skip()
		}
		c := Config{Secrets: []string{one, two}}
		want := c.Redact(one + text + two)
		var got bytes.Buffer
		r := newRedactor(&got, c.secrets())
		for s := one + text + two; s != ""; {
			n := min(len(s), int(step)+1)
			_, _ = r.Write([]byte(s[:n]))
			s = s[n:]
		}
		_ = r.flush()
		if got.String() != want {
			t.Errorf("in pieces of %d it is %q, as a whole %q", int(step)+1, got.String(), want)
		}
		for _, s := range c.secrets() {
			if strings.Contains(got.String(), s) {
				t.Errorf("%q is left in %q", s, got.String())
			}
		}
	})
}
