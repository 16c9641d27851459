package shell

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
)

// What the interpreter does otherwise than bash and dash, and without a word: scripts are rewritten
// so that it comes out right, or is refused.

func parseStmts(text string) []*syntax.Stmt {
	f, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(strings.NewReader(text), "")
	disk.Must(err)
	return f.Stmts
}

func printNode(n syntax.Node) string {
	var b bytes.Buffer
	if err := syntax.NewPrinter().Print(&b, n); err != nil {
		return ""
	}
	return b.String()
}

// direct calls f for the nodes of a statement that belong to no statement inside of it.
func direct(st *syntax.Stmt, f func(syntax.Node)) {
	syntax.Walk(st, func(n syntax.Node) bool {
		if inner, ok := n.(*syntax.Stmt); ok && inner != st {
			return false
		}
		if n != nil {
			f(n)
		}
		return true
	})
}

// checkArithmetic has the operands of arithmetic looked at before it is done: the interpreter takes
// what is no number, and a division by zero, for 0.
func checkArithmetic(st *syntax.Stmt, dash bool) {
	var checks []string
	skip := false
	var expr func(e syntax.ArithmExpr)
	expr = func(e syntax.ArithmExpr) {
		switch e := e.(type) {
		case *syntax.BinaryArithm:
			expr(e.X)
			expr(e.Y)
			if slices.Contains([]syntax.BinAritOperator{syntax.Quo, syntax.Rem, syntax.QuoAssgn, syntax.RemAssgn}, e.Op) {
				checks = append(checks, `"div:$((`+printNode(e.Y)+`))"`)
			}
			if dash && (e.Op == syntax.Pow || e.Op == syntax.Comma) {
				checks = append(checks, "bad:"+QuoteAll(e.Op.String()))
			}
		case *syntax.UnaryArithm:
			expr(e.X)
			if e.Op == syntax.Inc || e.Op == syntax.Dec {
				if dash {
					checks = append(checks, "bad:"+QuoteAll(e.Op.String()))
				}
			}
		case *syntax.ParenArithm:
			expr(e.X)
		case *syntax.Word:
			switch lit := e.Lit(); {
			case lit != "" && syntax.ValidName(lit):
				checks = append(checks, `"val:${`+lit+`-}"`)
			case lit != "":
				checks = append(checks, QuoteAll("val:"+lit))
			default:
				for _, p := range e.Parts {
					if pe, ok := p.(*syntax.ParamExp); ok && len(e.Parts) == 1 {
						checks = append(checks, `"val:`+printNode(&syntax.Word{Parts: []syntax.WordPart{pe}})+`"`)
					}
				}
			}
		}
	}
	direct(st, func(n syntax.Node) {
		switch n := n.(type) {
		case *syntax.ArithmExp:
			expr(n.X)
		case *syntax.ArithmCmd:
			expr(n.X)
		case *syntax.FuncDecl, *syntax.CmdSubst:
			_, decl := n.(*syntax.FuncDecl)
			skip = skip || decl
		case *syntax.ParamExp:
			skip = skip || n.Param != nil && n.Param.Value == "?"
		}
	})
	// Checks that have effects of their own would have them twice.
	for _, c := range checks {
		if strings.HasPrefix(c, `"div:`) && (strings.Contains(c, "++") || strings.Contains(c, "--") || strings.Contains(c, "$(") && strings.Count(c, "$(") != strings.Count(c, "$((")) {
			skip = true
		}
	}
	if skip || len(checks) == 0 {
		return
	}
	code := 1
	if dash {
		code = 2
	}
	wrapped := &syntax.Stmt{Cmd: st.Cmd, Position: st.Position}
	checked := parseStmts(fmt.Sprintf("%[1]sarith %[2]s || %[1]sraw exit %[3]d", ourVars, strings.Join(checks, " "), code))
	st.Cmd = &syntax.Block{Stmts: append(checked, wrapped)}
}

// arithmetic is the helper that checkArithmetic puts before a statement.
func (s *shell) arithmetic(hc interp.HandlerContext, checks []string) error {
	for _, c := range checks {
		kind, text, _ := strings.Cut(c, ":")
		text = strings.TrimSpace(text)
		digits := strings.TrimLeft(text, "+-")
		octal := len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "0123456789") == ""
		message := ""
		switch {
		case kind == "bad":
			message = "arithmetic expression: expecting primary: " + text
		case kind == "div" && text == "0":
			message = "division by 0"
		case kind == "div" || text == "":
		case octal && strings.ContainsAny(digits, "89"):
			message = text + ": value too great for base"
		case octal:
		case strings.Trim(digits, "0123456789") == "":
		case strings.HasPrefix(digits, "0x"), strings.HasPrefix(digits, "0X"):
		default: // an expression, which bash evaluates, and the interpreter does not
			return s.refuse(hc, "shell", "arithmetic on "+strconv.Quote(text))
		}
		if message != "" {
			fmt.Fprintf(hc.Stderr, "bash: %s\n", message)
			return interp.ExitStatus(1)
		}
	}
	return nil
}

// emptyField stands for an empty field where the interpreter, which drops those, splits words.
const emptyField = "\ue000"

// setsIFS reports whether a script sets IFS for more than one command.
func setsIFS(f *syntax.File) bool {
	found := false
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CallExpr:
			if len(n.Args) > 0 {
				return true
			}
			for _, a := range n.Assigns {
				found = found || a.Name != nil && a.Name.Value == "IFS"
			}
		case *syntax.DeclClause:
			for _, a := range n.Args {
				found = found || a.Name != nil && a.Name.Value == "IFS" && a.Value != nil
			}
		}
		return !found
	})
	return found
}

// splitByIFS has the words of a script that sets IFS split as POSIX says.
func splitByIFS(f *syntax.File) {
	fix := func(words []*syntax.Word) {
		for _, w := range words {
			for i, part := range w.Parts {
				switch part := part.(type) {
				case *syntax.ParamExp:
					if part.Param == nil || part.Exp != nil || part.Repl != nil || part.Slice != nil || part.Length || part.Excl || part.Index != nil ||
						strings.ContainsAny(part.Param.Value, "@*#?$!-") {
						continue
					}
				case *syntax.CmdSubst:
				default:
					continue
				}
				quoted := &syntax.Word{Parts: []syntax.WordPart{&syntax.DblQuoted{Parts: []syntax.WordPart{part}}}}
				name := &syntax.Word{Parts: []syntax.WordPart{&syntax.Lit{Value: ourVars + "ifs"}}}
				w.Parts[i] = &syntax.CmdSubst{Stmts: []*syntax.Stmt{{Cmd: &syntax.CallExpr{Args: []*syntax.Word{name, quoted}}}}}
			}
		}
	}
	syntax.Walk(f, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.CallExpr:
			if len(n.Args) > 0 && strings.HasPrefix(n.Args[0].Lit(), ourVars) {
				return false
			}
			fix(n.Args)
		case *syntax.ForClause:
			if it, ok := n.Loop.(*syntax.WordIter); ok {
				fix(it.Items)
				n.Do = append(parseStmts(fmt.Sprintf("%[1]s=${%[1]s#%[2]s}", it.Name.Value, emptyField)), n.Do...)
			}
		}
		return true
	})
}

// ifsFields is the helper of splitByIFS: a text that the interpreter splits into the right fields.
func ifsFields(hc interp.HandlerContext, text string) string {
	ifs := ifsOf(hc)
	sep := strings.Trim(ifs, blanks)
	if sep == "" {
		return text
	}
	fields := splitFields([]byte(text), nil, ifs, 0)
	for i, f := range fields {
		if f == "" {
			fields[i] = emptyField
		}
	}
	return strings.Join(fields, sep[:1])
}

// trapsOf are the functions of a script that set traps.
func trapsOf(f *syntax.File) map[string]bool {
	set := map[string]bool{"trap": true}
	syntax.Walk(f, func(n syntax.Node) bool {
		if d, ok := n.(*syntax.FuncDecl); ok && callsAny(d.Body, set) {
			set[d.Name.Value] = true
		}
		return true
	})
	return set
}

// callsAny reports whether a command of those names is called somewhere in n, other than to reset a
// trap.
func callsAny(n syntax.Node, names map[string]bool) bool {
	found := false
	syntax.Walk(n, func(n syntax.Node) bool {
		if c, ok := n.(*syntax.CallExpr); ok && len(c.Args) > 0 && names[c.Args[0].Lit()] {
			found = found || c.Args[0].Lit() != "trap" || len(c.Args) > 2 && c.Args[1].Lit() != "-"
		}
		return !found
	})
	return found
}

// beforeError runs what comes before the line of a syntax error: shells read line by line.
func beforeError(parser *syntax.Parser, text string, at uint) *syntax.File {
	f := &syntax.File{}
	for st, err := range parser.StmtsSeq(strings.NewReader(text)) {
		if err != nil || st.End().Line() >= at {
			break
		}
		f.Stmts = append(f.Stmts, st)
	}
	return f
}
