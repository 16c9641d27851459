package sshx

import (
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// A Cmd is one command: either Args or Script.
type Cmd struct {
	// Args is a program, whose name does not begin with "-", and its arguments, which reach it as
	// they are. No shell takes part, so shell builtins are not programs.
	Args []string
	// Script is the text of a program for /bin/sh, or for the interpreter that its first line
	// names ("#!/bin/bash -eu": words separated by blanks). It is sent as a file and runs with
	// stdin at /dev/null.
	Script string
	// Name stands for the command in errors and in the machine's process list; "" means "script",
	// or the Args.
	Name string
	// Env is exported to the command. It is sent over stdin and is in no argument list.
	Env map[string]string
	// Dir is the working directory; "" is the home directory, from which relative ones are
	// taken too (with User: from that of the user logged in as).
	Dir string
	// User to run as, through sudo, which may ask for a password only with Config.SudoPassword;
	// "" is the user logged in as.
	User string
	// Stdin feeds Args; nil is /dev/null. Scripts have none. When the connection is lost, the
	// command sees an early end of its stdin: with Stdin, nothing kills it.
	Stdin io.Reader
	// Stdout and Stderr receive all output as it comes, secrets taken out. With Separate false
	// (the default) all output is merged, in order, into Stdout. A writer that blocks stops only
	// this command; one that fails is not written to again. Nothing is written once Run has
	// returned, but for a Write that it had to give up waiting for.
	Stdout, Stderr io.Writer
	Separate       bool
	// WaitDelay is how long output is waited for after the exit status, since a background
	// child may hold on to it; 0 means 2 s.
	WaitDelay time.Duration
}

// A Result is what a command left: its output (head and tail if it was long) and exit code.
type Result struct {
	Stdout []byte // all of the output unless Cmd.Separate; at most 1 MiB of head and 1 MiB of tail
	Stderr []byte // likewise
	// Truncated tells that output was dropped in the middle, where a line says so, or that it may
	// lack its end.
	Truncated bool
	ExitCode  int // 128+N after signal N; -1 if it is not known
	Took      time.Duration
}

// label is how errors call the command. Secrets are looked for before anything is cut or quoted.
func (c Config) label(cmd Cmd) string {
	switch {
	case cmd.Name != "":
		return fmt.Sprintf("%q", c.Redact(cmd.Name))
	case cmd.Script != "":
		return `"script"`
	}
	s := c.Redact(strings.Join(cmd.Args, " "))
	if len(s) > 120 {
		s = strings.ToValidUTF8(s[:100], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}

// check returns all faults of the Cmd, as the error of a command of that machine.
func (cmd Cmd) check(c Config) error {
	if err := cmd.validate(); err != nil {
		return fmt.Errorf("sshx: %s: run %s: %w", c.Name, c.label(cmd), err)
	}
	return nil
}

// validate returns all faults of the Cmd.
func (cmd Cmd) validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case len(cmd.Args) == 0 && cmd.Script == "":
		fault("Cmd has neither Args nor Script")
	case len(cmd.Args) > 0 && cmd.Script != "":
		fault("Cmd has both Args and Script")
	case cmd.Script != "" && cmd.Stdin != nil:
		fault("Cmd.Stdin is for Args; a Script has none")
	case cmd.Script == "" && cmd.Args[0] == "":
		fault("Cmd.Args[0] is empty")
	case cmd.Script == "" && cmd.Args[0][0] == '-':
		fault(`Cmd.Args[0] begins with "-", which makes it an option of the shell's exec`)
	}
	for i, a := range cmd.Args {
		if strings.ContainsRune(a, 0) {
			fault("Cmd.Args[%d] has a NUL", i)
		}
	}
	if line, _, _ := strings.Cut(cmd.Script, "\n"); strings.HasSuffix(line, "\r") {
		fault("Cmd.Script has DOS line ends (CRLF), which shells take for part of the words before them")
	}
	if strings.HasPrefix(cmd.Script, "\ufeff") {
		fault("Cmd.Script begins with a byte order mark (BOM)")
	}
	for n, v := range cmd.Env {
		switch {
		case !isName(n):
			fault("Cmd.Env: %q is not a name", n)
		case strings.HasPrefix(n, "_sshx"):
			fault("Cmd.Env: names beginning with _sshx are taken")
		case strings.ContainsRune(v, 0):
			fault("Cmd.Env[%q] has a NUL", n)
		}
	}
	if cmd.WaitDelay < 0 {
		fault("Cmd.WaitDelay is %s", cmd.WaitDelay)
	}
	if strings.ContainsRune(cmd.Dir, 0) {
		fault("Cmd.Dir has a NUL")
	}
	if strings.ContainsAny(cmd.User, "\x00\r\n") {
		fault("Cmd.User %q has a control character", cmd.User)
	}
	return errors.Join(errs...)
}

// isName reports whether s can be the name of a shell variable.
func isName(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// interpreter returns the words of the script's first line, or /bin/sh.
func interpreter(script string) []string {
	line, _, _ := strings.Cut(script, "\n")
	if rest, ok := strings.CutPrefix(line, "#!"); ok {
		if words := strings.Fields(rest); len(words) > 0 {
			return words
		}
	}
	return []string{"/bin/sh"}
}

// words returns the command, to which the name of a script's file is to be added.
func (cmd Cmd) words() []string {
	if cmd.Script != "" {
		return interpreter(cmd.Script)
	}
	return cmd.Args
}

// words returns the command, and the script if that is to be sent as a file. A script for a shell is
// an argument of that, if it is short enough, has no secret, and does not look at its own name.
func (c *Client) words(cmd Cmd) (words []string, script string) {
	words, script = cmd.words(), cmd.Script
	if script == "" || !isShell(words) || !short([]string{script}) || strings.Contains(script, "\x00") ||
		fromFile.MatchString(script) || c.cfg.Redact(script) != script {
		return words, script
	}
	name := processName(c.cfg.Redact(cmd.Name))
	if name == "" {
		name = "script"
	}
	words = slices.Clone(words)
	if i := slices.IndexFunc(words, func(w string) bool { return path.Base(w) == "bash" }); i >= 0 {
		words = slices.Insert(words, i+1, "--norc") // which it reads below sshd, with -c
	}
	return append(words, "-c", script, name), ""
}

// fromFile finds what differs in a script that is not a file.
var fromFile = regexp.MustCompile(`BASH_SOURCE|BASH_LINENO|\$\{?0|\bcaller\b|\bzsh\b`)

// isShell reports whether "-c" and a script may be added to words: a shell, and options.
func isShell(words []string) bool {
	if path.Base(words[0]) == "env" && len(words) > 1 {
		words = words[1:]
	}
	if !slices.Contains([]string{"sh", "bash", "dash", "ash", "ksh"}, path.Base(words[0])) {
		return false
	}
	return !slices.ContainsFunc(words[1:], func(w string) bool { return !shellOptions.MatchString(w) })
}

var shellOptions = regexp.MustCompile(`^-[aefuvx]+$`)

// preamble is what sets the command up, of these words; other tells that it runs as another user.
func (cmd Cmd) preamble(other bool, words []string) string {
	dir := cmd.Dir
	if dir == "" && other {
		dir = "~"
	} else if dir == "~" {
		dir = "./~"
	}
	return wire.Preamble(cmd.Env, dir, words)
}

// call addresses a text to the user that cmd runs as.
func (c *Client) call(text string, cmd Cmd) wire.Call {
	call := wire.Call{Text: text, Name: "sshx"}
	if name := processName(c.cfg.Redact(cmd.Name)); name != "" {
		call.Name = "sshx:" + name
	}
	if cmd.User != "" && cmd.User != c.cfg.User {
		call.User, call.Lead, call.Prompt = cmd.User, true, c.prompt()
	}
	// Only OpenSSH is known to make each command the leader of a process group.
	if !strings.Contains(c.serverVersion(), "OpenSSH") {
		call.Lead = true
	}
	return call
}

// processName is name, as far as it can stand unquoted in every shell.
func processName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '-'
	}, name)
	return name[:min(len(name), 40)]
}

// plainWords reports whether every login shell takes the words as they are once they are in
// single quotes. That is not so in fish for "\\", and in csh for "!" and a newline.
func plainWords(words []string) bool {
	return !slices.ContainsFunc(words, func(w string) bool { return strings.ContainsAny(w, "\\!\n") })
}

// short reports whether the words may be sent in a request, of which the kernel takes 128 KiB.
func short(words []string) bool {
	n := 0
	for _, w := range words {
		n += len(w) + 3 + 4*strings.Count(w, "'")
	}
	return n < 96<<10
}

// Quote returns s as one word of POSIX shell: for scripts that are put together. It panics if s
// has a NUL, which no word can have.
func Quote(s string) string {
	if strings.ContainsRune(s, 0) {
		panic(fmt.Sprintf("sshx: quote %q: no word of a shell has a NUL", s))
	}
	return wire.Quote(s)
}
