package pool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
)

// checkScript returns what makes a script certain to fail on any host.
func checkScript(text string) error {
	before, _, crlf := strings.Cut(text, "\r\n")
	switch {
	case strings.TrimSpace(text) == "":
		return errors.New("the script is empty")
	case strings.ContainsRune(text, 0):
		return errors.New("the script has a NUL")
	case crlf:
		return fmt.Errorf("line %d of the script ends in CRLF, of which the CR is text to a shell; "+
			"use LF", 1+strings.Count(before, "\n"))
	}
	sum := sha256.Sum256([]byte(text))
	known, ok := syntaxErrors.Load(sum)
	if !ok {
		known, _ = syntaxErrors.LoadOrStore(sum, syntaxError(text))
	}
	if known != "" {
		return fmt.Errorf("the script has a syntax error: %s", known)
	}
	return nil
}

// syntaxErrors has the result of syntaxError for every script of this process, by its SHA-256.
var syntaxErrors sync.Map

// syntaxError returns what the shells of this machine report of a shell script, or "" if they find
// nothing or cannot know. No shell runs any of it.
//
// The host may have another /bin/sh than this machine. What both the sh of this machine and bash
// reject, the second with and without its extended patterns, no common sh accepts: bash accepts
// nearly all that others do.
func syntaxError(text string) string {
	var shells [][]string
	switch interpreter(text) {
	case "sh":
		shells = append(shells, []string{"sh", "-n"})
	case "bash":
	default:
		return ""
	}
	shells = append(shells, []string{"bash", "-n"}, []string{"bash", "-O", "extglob", "-n"})
	said := ""
	for _, shell := range shells {
		out, err := runShell(text, shell...)
		if errors.As(err, new(*exec.ExitError)) {
			said = strings.Join(strings.Fields(out), " ")
			continue
		}
		return ""
	}
	if _, err := runShell("", "bash", "-c", "((BASH_VERSINFO[0] >= 5))"); err != nil {
		return "" // older ones do not know all of today's syntax
	}
	return said
}

// runShell returns all output of a shell that reads stdin. It takes no context: what it runs only
// parses, or compares two numbers, and ends by itself.
func runShell(stdin string, args ...string) (string, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return "", err
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"} // without BASH_ENV
	cmd := exec.Cmd{Path: path, Args: args, Env: env, Stdin: strings.NewReader(stdin)}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// interpreter returns the name of the program that a script is for.
func interpreter(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	line, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return "sh"
	}
	for _, word := range strings.Fields(line) {
		name := path.Base(word)
		if name != "env" && !strings.HasPrefix(word, "-") {
			return name
		}
	}
	return ""
}
