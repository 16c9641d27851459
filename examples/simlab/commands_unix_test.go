//go:build unix

package main

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// root is the directory of the module.
var root = filepath.Join("..", "..")

// commandForm is a command of go test in a code block of a doc comment or of a page.
var commandForm = regexp.MustCompile(`^(?://\t|    )(?:\$ |# then: )?((?:[A-Z_]+=\S+ )*go test .*)$`)

// documented returns the commands of the pages and of the doc comments below dir, in their order
// and without remarks.
func documented(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path == dir {
				return nil
			}
			_, err := os.Stat(filepath.Join(path, "go.mod"))
			if err == nil || strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir // a module of its own
			}
			return nil
		}
		if ext := filepath.Ext(path); ext != ".md" && ext != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			if m := commandForm.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
				command, _, _ := strings.Cut(m[1], " #")
				if command = strings.Join(strings.Fields(command), " "); !slices.Contains(all, command) {
					all = append(all, command)
				}
			}
		}
		return nil
	}))
	return all
}

// ofMake returns the commands of the Makefile's targets that use a set.
func ofMake(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, target := range []string{"pools", "plan", "status", "verify", "diff", "rebuild", "reset", "keep", "release", "sweep", "destroy"} {
		cmd := exec.CommandContext(t.Context(), "make", "--no-print-directory", "-n", target, "POOLS=2")
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		all = append(all, strings.Join(strings.Fields(string(out)), " "))
	}
	return all
}

// ownTests are the commands that run what go test ./... runs, this test among it.
var ownTests = []string{
	"go test ./...", "POOLREADY_DIR=out go test ./...", "go test -v ./examples/hermetic", "go test -v ./examples/quickstart",
}

// elsewhere maps the commands that another test runs on a lab to that test.
var elsewhere = map[string]string{
	"go test ./examples/quickstart ./examples/suites/...": "TestPackagesShareOneSet of examples/suites",
}

// A docRunner runs commands of the docs on a lab, as in a terminal into which its lines were pasted.
type docRunner struct {
	lab *process
	e2e string // the binary of package e2e's tests
}

// run runs a command with the template of the lab. One for e2e is run with the binary: the go command
// would link it each time.
func (r docRunner) run(t *testing.T, command string, more ...string) (said string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", strings.Replace(command, "templates/rhel9", template, 1))
	cmd.Dir = root
	if args, ok := strings.CutPrefix(command, "go test ./e2e "); ok {
		words := append(strings.Fields(args), more...)
		for i, w := range words {
			if w == "-args" { // what follows is the binary's own
				words = slices.Delete(words, i, i+1)
				break
			}
			switch w {
			case "-v", "-run", "-count", "-timeout":
				words[i] = "-test." + w[1:]
			}
		}
		cmd = exec.CommandContext(ctx, r.e2e, words...)
		cmd.Dir = filepath.Join(root, "e2e")
	}
	cmd.Env = r.lab.pasted()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // without a terminal
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// word returns the word that follows a flag in the command.
func word(command, flag string) string {
	words := strings.Fields(command)
	if i := slices.Index(words, flag); i >= 0 && i+1 < len(words) {
		return words[i+1]
	}
	return ""
}

// TestCommandsOfTheDocs runs every command of the docs on one lab, in the order of the docs, and
// shows that the targets of the Makefile are among them.
func TestCommandsOfTheDocs(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program and many VMs")
	}
	t.Parallel()
	vars, stop := serve(t, "-state", t.TempDir(), "-pools", "4")
	defer stop()
	r := docRunner{&process{env: vars}, program(t, "e2e.test", "test", "-ldflags=-s -w", "-c", "../../e2e")}
	ran := map[string]bool{} // by what they do
	for _, command := range documented(t, root) {
		if slices.Contains(ownTests, command) || elsewhere[command] != "" {
			continue
		}
		t.Run(command, func(t *testing.T) {
			require.NotContains(t, command, "./...", "it would run this test, which would run it, and so on")
			ran[word(command, "-args")+word(command, "-run")] = true
			before := clones(t, vars)
			said, err := r.run(t, command)
			if word(command, "-args") == "destroy" {
				require.Error(t, err, "%s", said)
				assert.Contains(t, said, "-yes", "there is no terminal to ask at")
				said, err = r.run(t, command, "-yes")
			}
			require.NoError(t, err, "%s", said)
			if word(command, "-run") == "'^$'" {
				assert.Greater(t, clones(t, vars), before, "it builds pools")
			} else {
				assert.NotContains(t, said, "no tests to run")
			}
			t.Log(said)
		})
	}
	for _, command := range ofMake(t) {
		assert.True(t, ran[word(command, "-args")+word(command, "-run")], "%s is like none of the docs", command)
	}
}
