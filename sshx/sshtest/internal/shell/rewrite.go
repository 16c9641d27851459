package shell

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
)

// NotSimulated is a construct of the shell's language that the machine refuses.
type NotSimulated struct {
	What string
	pos  syntax.Pos
}

func (e *NotSimulated) Error() string { return fmt.Sprintf("line %d: %s", e.pos.Line(), e.What) }

// A dialect is which shell the interpreter is, and where.
type dialect struct {
	dash    bool                   // it is dash, not bash
	posix   bool                   // it is bash, called sh
	program func(name string) bool // reports whether the machine has a program, beside builtins
}

// rewrite refuses what would reach the host or be wrong in silence, gives $$, $PPID and $! to our
// process table, and has background commands counted.
func rewrite(f *syntax.File, as dialect) error {
	if as.dash {
		rewriteForDash(f)
	}
	if setsIFS(f) {
		splitByIFS(f)
	}
	traps := trapsOf(f)
	counted := false // there is an associative array
	syntax.Walk(f, func(n syntax.Node) bool {
		if d, ok := n.(*syntax.DeclClause); ok {
			for _, a := range d.Args {
				counted = counted || a.Naked && a.Value != nil && strings.Contains(a.Value.Lit(), "A")
			}
		}
		return true
	})
	var stmts []*syntax.Stmt
	var readonly []string
	constants := 0
	errexit := callsAny(f, map[string]bool{"set": true})
	var bad error
	var back []*syntax.Stmt
	var here *syntax.Word // the text of the here document that was met last
	refuse := func(pos syntax.Pos, what string) {
		if bad == nil {
			bad = &NotSimulated{what, pos}
		}
	}
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.ProcSubst:
			refuse(n.Pos(), "process substitution")
		case *syntax.CoprocClause:
			refuse(n.Pos(), "coproc")
		case *syntax.Subshell:
			if callsAny(n, traps) {
				refuse(n.Pos(), "trap in a subshell")
			}
		case *syntax.DeclClause:
			for _, a := range n.Args {
				if a.Naked && a.Value != nil {
					if o := a.Value.Lit(); strings.HasPrefix(o, "-") && strings.ContainsAny(o, "ilu") || o == "-p" && n.Variant.Value != "declare" {
						refuse(n.Pos(), n.Variant.Value+" "+o)
					}
				}
				if n.Variant.Value == "readonly" && a.Name != nil {
					readonly = append(readonly, a.Name.Value)
				}
			}
		case *syntax.Assign:
			if n.Name != nil && slices.Contains(readonly, n.Name.Value) && n.Value != nil {
				if constants++; constants > len(readonly) {
					refuse(n.Pos(), "setting a constant")
				}
			}
		case *syntax.ForClause:
			if n.Select {
				refuse(n.Pos(), "select")
			}
		case *syntax.CmdSubst:
			if len(n.Stmts) > 1 && errexit && !as.posix { // bash takes set -e back there, unless it is sh
				n.Stmts = append(parseStmts(ourVars+"raw set +e"), n.Stmts...)
			}
			if callsAny(n, traps) {
				refuse(n.Pos(), "trap in a command substitution")
			}
		case *syntax.CallExpr:
			if len(n.Args) == 1 && n.Args[0].Lit() == "return" { // the interpreter's returns 0
				n.Args = append(n.Args, &syntax.Word{Parts: []syntax.WordPart{&syntax.ParamExp{Short: true, Param: &syntax.Lit{Value: "?"}}}})
			}
		case *syntax.UnaryTest:
			switch n.Op {
			case syntax.TsUsrOwn, syntax.TsGrpOwn, syntax.TsModif:
				refuse(n.Pos(), "[[ "+n.Op.String()+" ]]")
			}
		case *syntax.BinaryTest:
			if n.Op == syntax.TsDevIno {
				refuse(n.Pos(), "[[ -ef ]]")
			}
		case *syntax.Redirect:
			checkRedirect(n, refuse)
			here = n.Hdoc
		case *syntax.Word:
			if n != here {
				rewriteTilde(n)
			}
		case *syntax.ParamExp:
			if what := wrongExpansion(n, counted); what != "" {
				refuse(n.Pos(), what)
			}
			if n.Param != nil {
				switch n.Param.Value {
				case "$":
					n.Param.Value, n.Short = varPID, false
				case "PPID":
					n.Param.Value, n.Short = varPPID, false
				case "!":
					n.Param.Value, n.Short = varBack, false
				case "PIPESTATUS", "-", "BASHPID", "FUNCNAME", "BASH_SOURCE", "BASH_LINENO", "BASH_COMMAND", "BASH_VERSINFO", "SECONDS", "EPOCHSECONDS",
					"EPOCHREALTIME", "SHLVL", "OSTYPE", "HOSTTYPE", "MACHTYPE":
					if n.Exp == nil { // the interpreter takes them for empty
						refuse(n.Pos(), "$"+n.Param.Value)
					}
				case "0":
					n.Param.Value, n.Short = varName, false
				}
			}
		case *syntax.BinaryCmd:
			if (n.Op == syntax.Pipe || n.Op == syntax.PipeAll) && !as.isProgram(n.Y) {
				n.Y = &syntax.Stmt{Position: n.Y.Position, Cmd: &syntax.Subshell{Stmts: []*syntax.Stmt{n.Y}}}
			}
		case *syntax.Stmt:
			if n.Coprocess || n.Disown {
				refuse(n.Pos(), "coprocess")
			}
			stmts = append(stmts, n)
			if n.Background {
				back = append(back, n)
			}
		}
		return bad == nil
	})
	if bad != nil {
		return bad
	}
	for _, st := range stmts {
		if t, ok := st.Cmd.(*syntax.TimeClause); ok && t.Stmt != nil {
			how := "-"
			if t.PosixFormat {
				how = "-p"
			}
			st.Cmd = &syntax.Block{Stmts: append([]*syntax.Stmt{t.Stmt}, parseStmts(ourVars+"timed $? "+how)...)}
		}
		checkArithmetic(st, as.dash)
	}
	for _, st := range back {
		background(st)
	}
	return nil
}

// wrongExpansion says what the interpreter would expand wrongly, or "". It makes of ${11} and, in a
// script that has associative arrays, of ${#a[@]} what is expanded right.
func wrongExpansion(n *syntax.ParamExp, counted bool) string {
	if n.Param == nil {
		return ""
	}
	name := n.Param.Value
	if _, err := strconv.Atoi(name); err == nil && len(name) > 1 && n.Slice == nil {
		if n.Exp != nil || n.Repl != nil || n.Length {
			return printNode(&syntax.Word{Parts: []syntax.WordPart{n}})
		}
		number := func(s string) syntax.ArithmExpr {
			return &syntax.Word{Parts: []syntax.WordPart{&syntax.Lit{Value: s}}}
		}
		n.Param.Value, n.Short = "@", false
		n.Slice = &syntax.Slice{Offset: number(name), Length: number("1")}
	}
	if n.Length && counted && n.Index != nil {
		return "the length of an array, in a script with associative ones"
	}
	if n.Exp != nil && n.Exp.Op == syntax.OtherParamOps {
		return printNode(&syntax.Word{Parts: []syntax.WordPart{n}})
	}
	if n.Repl != nil && n.Repl.Orig != nil && len(n.Repl.Orig.Parts) > 0 {
		if lit, ok := n.Repl.Orig.Parts[0].(*syntax.Lit); ok && !n.Repl.All && strings.HasPrefix(lit.Value, "#") || ok && strings.HasPrefix(lit.Value, "%") {
			return printNode(&syntax.Word{Parts: []syntax.WordPart{n}})
		}
	}
	if n.Exp != nil && n.Exp.Word != nil && slices.Contains([]syntax.ParExpOperator{
		syntax.RemSmallPrefix, syntax.RemLargePrefix, syntax.RemSmallSuffix, syntax.RemLargeSuffix,
	}, n.Exp.Op) {
		for _, p := range n.Exp.Word.Parts { // what is quoted is no pattern
			q, ok := p.(*syntax.DblQuoted)
			if ok && slices.ContainsFunc(q.Parts, func(p syntax.WordPart) bool { _, lit := p.(*syntax.Lit); return !lit }) {
				return "a quoted expansion as pattern"
			}
		}
	}
	return ""
}

var tilde = regexp.MustCompile(`^~([A-Za-z_][A-Za-z0-9._-]*)(/|$)`)

// rewriteTilde makes ~user "$(home user)", as the interpreter would look through the host's users.
func rewriteTilde(w *syntax.Word) {
	if len(w.Parts) == 0 {
		return
	}
	lit, ok := w.Parts[0].(*syntax.Lit)
	if !ok {
		return
	}
	m := tilde.FindStringSubmatch(lit.Value)
	if m == nil || m[2] == "" && len(w.Parts) > 1 {
		return
	}
	f, err := syntax.NewParser().Parse(strings.NewReader(fmt.Sprintf(`"$(%shome %s)"`, ourVars, m[1])), "")
	disk.Must(err)
	lit.Value = lit.Value[1+len(m[1]):]
	w.Parts = append(f.Stmts[0].Cmd.(*syntax.CallExpr).Args[0].Parts, w.Parts...)
}

// isProgram reports whether a statement runs a program, and so changes nothing in the shell.
// Whatever else ends a pipeline runs in a subshell in bash and dash, but not in the interpreter.
func (as dialect) isProgram(st *syntax.Stmt) bool {
	call, ok := st.Cmd.(*syntax.CallExpr)
	if !ok || len(call.Args) == 0 {
		return false
	}
	name := call.Args[0].Lit()
	return as.program(name) && !interp.IsBuiltin(name)
}

func checkRedirect(n *syntax.Redirect, refuse func(syntax.Pos, string)) {
	if n.N != nil && !slices.Contains([]string{"0", "1", "2"}, n.N.Value) {
		refuse(n.Pos(), "redirection of descriptor "+n.N.Value)
	}
	lit := ""
	if n.Word != nil {
		lit = n.Word.Lit()
	}
	switch n.Op {
	case syntax.RdrClob:
		n.Op = syntax.RdrOut // noclobber is never on
	case syntax.RdrInOut:
		refuse(n.Pos(), "redirection <>")
	case syntax.DplOut:
		if lit != "1" && lit != "2" && lit != "-" {
			refuse(n.Pos(), "redirection >&"+lit)
		}
	case syntax.DplIn:
		if lit != "-" {
			refuse(n.Pos(), "redirection <&"+lit)
		}
	}
}

// background makes "X &" a block that registers a job first and unregisters it after X:
//
//	{ fork O E; { job=$bg; ( X ) && end 0 || end $?; } </dev/null & forked $bg $!; }
//
// O and E say whether X keeps the shell's stdout and stderr.
func background(st *syntax.Stmt) {
	out, err := 1, 1
	for _, r := range st.Redirs {
		to2 := r.N != nil && r.N.Value == "2"
		dup := ""
		if r.Op == syntax.DplOut {
			dup = r.Word.Lit()
		}
		switch {
		case r.Op == syntax.RdrAll || r.Op == syntax.AppAll:
			out, err = 0, 0
		case r.Op == syntax.DplOut && to2 && dup == "1":
			err = out
		case r.Op == syntax.DplOut && !to2 && dup == "2":
			out = err
		case r.Op == syntax.RdrOut || r.Op == syntax.AppOut || dup == "-":
			if to2 {
				err = 0
			} else {
				out = 0
			}
		}
	}
	text := fmt.Sprintf("{ %[1]sfork %d %d; { %[1]sjob=$%[1]sbg; ( : ) && %[1]send 0 || %[1]send $?; } </dev/null & %[1]sforked $%[1]sbg $!; }", ourVars, out, err)
	f, perr := syntax.NewParser().Parse(strings.NewReader(text), "")
	disk.Must(perr)
	inner := *st
	inner.Background, inner.Semicolon = false, syntax.Pos{}
	inner.Comments = nil
	syntax.Walk(f, func(n syntax.Node) bool {
		if sub, ok := n.(*syntax.Subshell); ok {
			sub.Stmts = []*syntax.Stmt{&inner}
			return false
		}
		return true
	})
	st.Cmd, st.Background, st.Redirs, st.Negated = f.Stmts[0].Cmd, false, nil, false
}

// sourcedPrefix begins the path under which the shell opens a text of ours.
const sourcedPrefix = "/nonexistent-sshtest\x00"

// again rewrites a text that the interpreter would parse by itself.
func (s *shell) again(text string) (string, error) {
	if strings.Contains(text, "\r\n") {
		return "", &NotSimulated{What: crlfText}
	}
	f, err := syntax.NewParser(syntax.Variant(s.language())).Parse(strings.NewReader(text), "eval")
	if err != nil {
		return "", err
	}
	if err := rewrite(f, s.dialect); err != nil {
		return "", err
	}
	var buf bytes.Buffer
	if err := syntax.NewPrinter().Print(&buf, f); err != nil {
		return "", err
	}
	return buf.String(), nil
}
