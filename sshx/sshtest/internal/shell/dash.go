package shell

import (
	"slices"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// dash is the same interpreter, on a stricter parser and without what only bash has.

// runsDash reports whether a shell of that name is dash: sh is, on Debian and its like.
func runsDash(h *machine.Host, name string) bool {
	return name == "dash" || name == "sh" && h.Debian()
}

// onlyBash are builtins and keywords of the interpreter that dash has not, and so looks for on PATH.
var onlyBash = strings.Fields(`[[ source declare typeset let shopt pushd popd dirs mapfile readarray builtin caller compgen complete
	compopt disown enable help history logout suspend bind function select nameref time`)

// bashVars are variables that bash sets and dash does not.
var bashVars = strings.Fields("RANDOM SRANDOM SECONDS UID EUID GROUPS HOSTNAME BASH BASH_VERSION BASHPID EPOCHSECONDS FUNCNAME PIPESTATUS SHLVL OSTYPE")

// rewriteForDash turns what the parser, told to be a POSIX shell's, lets through.
func rewriteForDash(f *syntax.File) {
	set := map[string]bool{}
	syntax.Walk(f, func(n syntax.Node) bool {
		if a, ok := n.(*syntax.Assign); ok && a.Name != nil {
			set[a.Name.Value] = true
		}
		return true
	})
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.Stmt: // these are words to the parser, and clauses to the interpreter
			if c, ok := n.Cmd.(*syntax.CallExpr); ok && len(c.Args) > 0 && len(c.Assigns) == 0 &&
				slices.Contains([]string{"export", "readonly", "local"}, c.Args[0].Lit()) && !dashed(c.Args) {
				redirs := n.Redirs
				n.Redirs = nil
				if again := parseBash(printNode(n)); len(again) == 1 {
					n.Cmd = again[0].Cmd
				}
				n.Redirs = redirs
			}
		case *syntax.Word: // no brace expansion
			for _, p := range n.Parts {
				if lit, ok := p.(*syntax.Lit); ok && strings.Contains(lit.Value, "{") {
					lit.Value = strings.ReplaceAll(lit.Value, "{", `\{`)
				}
			}
		case *syntax.ParamExp:
			if n.Param != nil && slices.Contains(bashVars, n.Param.Value) && !set[n.Param.Value] {
				n.Param.Value = ourVars + "none"
			}
		}
		return true
	})
}

// dashed reports whether a command has options.
func dashed(args []*syntax.Word) bool {
	return len(args) > 1 && strings.HasPrefix(args[1].Lit(), "-")
}

func parseBash(text string) []*syntax.Stmt {
	f, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	if err != nil {
		return nil
	}
	return f.Stmts
}

// turnDash answers commands that are otherwise in dash than in bash. ok is false if there is nothing
// to answer.
func (s *shell) turnDash(hc interp.HandlerContext, args []string) (out []string, ok bool) {
	die := func(text string) ([]string, bool) {
		return []string{"eval", ourVars + "fail 2 " + QuoteAll(text) + "; " + ourVars + "raw exit 2"}, true
	}
	fail := func(code int, text string) ([]string, bool) {
		c, _ := complain(code, text)
		return c, true
	}
	name := args[0]
	switch {
	case slices.Contains(onlyBash, name):
		return fail(127, name+": not found")
	case name == "set":
		for i, a := range args[1:] {
			if (a == "-o" || a == "+o") && i+2 < len(args) && !slices.Contains([]string{
				"errexit", "noglob", "ignoreeof", "interactive", "monitor", "noexec", "stdin", "xtrace", "verbose", "vi", "emacs", "noclobber", "allexport",
				"notify", "nounset", "nolog", "debug",
			}, args[i+2]) {
				return die("set: Illegal option " + a + " " + args[i+2])
			}
			if a == "--" || !strings.HasPrefix(a, "-") && !strings.HasPrefix(a, "+") {
				break
			}
		}
	case name == "export" && len(args) > 1 && args[1] != "-p" && strings.HasPrefix(args[1], "-"):
		return die("export: Illegal option " + args[1])
	case name == "export" && len(args) > 1 && args[1] == "-p", name == "readonly" && len(args) > 1 && args[1] == "-p":
		return []string{ourVars + "refuse", strings.Join(args, " ")}, true
	case name == "local": // outside of a function; in one it is no call
		return die("local: not in a function")
	case name == "test" || name == "[":
		for i, a := range args[1:] {
			if i > 0 && (a == "==" || a == "=~") {
				return fail(2, name+": "+args[i]+": unexpected operator")
			}
			if (a == "-nt" || a == "-ot") && i > 0 && i+2 < len(args) {
				for _, f := range []string{args[i], args[i+2]} {
					if _, err := s.view(hc).Stat(abs(hc, f)); err != nil {
						return []string{"false"}, true
					}
				}
			}
			if a == "-v" && i == 0 {
				return fail(2, name+": -v: unexpected operator")
			}
		}
	case name == "trap":
		for _, sig := range args[min(2, len(args)):] {
			if sig == "ERR" || sig == "DEBUG" || sig == "RETURN" || strings.HasPrefix(sig, "SIG") {
				return fail(1, "trap: "+sig+": bad trap")
			}
		}
	}
	return nil, false
}
