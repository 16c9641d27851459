package userland

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/shell"
)

// A grepper is one call of grep.
type grepper struct {
	p       *machine.Proc
	o       *options
	res     []*regexp.Regexp
	names   bool // print names of files
	matched bool
	most    int
}

func cmdGrep(ctx context.Context, p *machine.Proc) int {
	o, ok := parse(p, `-E -F -G -q -i -v -x -w -c -o -s -n -l -L -h -H -r -R -a -m: -e: -f: --quiet --silent --ignore-case --invert-match
		--line-regexp --word-regexp --count --only-matching --no-messages --extended-regexp --fixed-strings`)
	if !ok {
		return machine.ExitNotSimulated
	}
	g := &grepper{p: p, o: o, most: 1 << 30}
	var patterns []string
	for _, x := range o.list {
		switch x[0] {
		case "-e":
			patterns = append(patterns, strings.Split(x[1], "\n")...)
		case "-f":
			data, err := readNamed(p, x[1])
			if err != nil {
				return p.Fail(2, "%s: %s", x[1], disk.Reason(err))
			}
			patterns = append(patterns, lines(string(data))...)
		case "-m":
			n, err := strconv.Atoi(x[1])
			if err != nil {
				return p.Fail(2, "invalid max count")
			}
			g.most = n
		}
	}
	if !o.has("-e", "-f") {
		if len(o.args) == 0 {
			return p.Fail(2, "usage: grep [OPTION]... PATTERNS [FILE]...")
		}
		patterns, o.args = strings.Split(o.args[0], "\n"), o.args[1:]
	}
	if err := g.compile(patterns); err != nil {
		return regexpError(p, err)
	}
	tree := o.has("-r", "-R")
	if len(o.args) == 0 {
		o.args = []string{"-"}
		if tree {
			o.args = []string{""} // names without "./"
		}
	}
	g.names = (len(o.args) > 1 || o.has("-H")) && !o.has("-h")
	if i, err := p.View().Stat(cmp.Or(p.Path(o.args[0]), p.Dir)); tree && !o.has("-h") && err == nil && i.IsDir() {
		g.names = true
	}
	failed := false
	for _, name := range o.args {
		if !g.file(ctx, name, tree) {
			failed = true
		}
		if g.matched && g.quiet() {
			return 0
		}
	}
	switch {
	case failed:
		return 2
	case g.matched:
		return 0
	}
	return 1
}

func (g *grepper) quiet() bool { return g.o.has("-q", "--quiet", "--silent") }

func (g *grepper) compile(patterns []string) error {
	fixed := g.o.has("-F", "--fixed-strings") || g.p.Name() == "fgrep"
	extended := g.o.has("-E", "--extended-regexp") || g.p.Name() == "egrep"
	for _, s := range patterns {
		if fixed {
			s, extended = regexp.QuoteMeta(s), true
		} else if e := sedEscape.FindString(s); e != "" {
			return &shell.NotSimulated{What: e + " in a pattern, which is no control character to grep"}
		}
		re, err := compileRegexp(s, extended, g.o.has("-i", "--ignore-case"), g.o.has("-x", "--line-regexp"))
		if err != nil {
			return err
		}
		g.res = append(g.res, re)
	}
	return nil
}

var sedEscape = regexp.MustCompile(`^(?:[^\\]|\\[^ntrfv])*\\[ntrfv]`)

func (g *grepper) file(ctx context.Context, name string, tree bool) bool {
	complain := func(err error) bool {
		if !g.o.has("-s", "--no-messages") {
			g.p.Fail(2, "%s: %s", name, disk.Reason(err))
		}
		return false
	}
	if tree && name != "-" {
		full := cmp.Or(g.p.Path(name), g.p.Dir)
		i, err := g.p.View().Stat(full)
		if err != nil {
			return complain(err)
		}
		if i.IsDir() {
			list, err := g.p.View().ReadDir(full)
			if err != nil {
				return complain(err)
			}
			ok := true
			for _, e := range disk.Unsorted(list) {
				if e.Type()&fs.ModeSymlink == 0 || g.o.has("-R") {
					below := e.Name()
					if name != "" {
						below = strings.TrimSuffix(name, "/") + "/" + below
					}
					ok = g.file(ctx, below, true) && ok
				}
			}
			return ok
		}
	}
	r, err := openInput(g.p, name)
	if err != nil {
		return complain(err)
	}
	defer r.Close()
	if err := g.search(ctx, name, r); err != nil {
		return complain(err)
	}
	return true
}

func (g *grepper) search(ctx context.Context, name string, r io.Reader) error {
	shown := name
	if name == "-" {
		shown = "(standard input)"
	}
	prefix := ""
	if g.names {
		prefix = shown + ":"
	}
	count, no, binary := 0, 0, false
	in := bufio.NewReader(r)
	for count < g.most && ctx.Err() == nil {
		line, err := in.ReadString('\n')
		if line == "" && err != nil {
			if err != io.EOF {
				return err
			}
			break
		}
		no++
		line = strings.TrimSuffix(line, "\n")
		binary = binary || strings.Contains(line, "\x00") && !g.o.has("-a")
		if g.match(line) == g.o.has("-v", "--invert-match") {
			continue
		}
		count++
		g.matched = true
		switch {
		case g.quiet() || g.o.has("-l"):
			if g.o.has("-l") && !g.quiet() {
				fmt.Fprintln(g.p.Stdout, shown)
			}
			return nil
		case g.o.has("-c", "--count", "-L"):
			continue
		}
		if binary {
			g.p.Fail(0, "%s: binary file matches", shown)
			return nil
		}
		at := prefix
		if g.o.has("-n") {
			at += strconv.Itoa(no) + ":"
		}
		if err := g.print(at, line); err != nil {
			return nil //nolint:nilerr // there is no reader
		}
	}
	switch {
	case g.o.has("-L") && count == 0:
		fmt.Fprintln(g.p.Stdout, shown)
	case g.o.has("-c", "--count") && !g.quiet():
		fmt.Fprintf(g.p.Stdout, "%s%d\n", prefix, count)
	}
	return nil
}

func (g *grepper) print(at, line string) error {
	if !g.o.has("-o", "--only-matching") {
		_, err := fmt.Fprintln(g.p.Stdout, at+line)
		return err
	}
	if g.o.has("-v", "--invert-match") {
		return nil
	}
	for from := 0; from < len(line); {
		lo, hi := -1, -1
		for _, re := range g.res {
			for _, m := range g.matches(re, line) {
				if m[0] >= from && m[1] > m[0] {
					if lo < 0 || m[0] < lo || m[0] == lo && m[1] > hi {
						lo, hi = m[0], m[1]
					}
					break
				}
			}
		}
		if lo < 0 {
			break
		}
		if _, err := fmt.Fprintln(g.p.Stdout, at+line[lo:hi]); err != nil {
			return err
		}
		from = hi
	}
	return nil
}

func (g *grepper) match(line string) bool {
	return slices.ContainsFunc(g.res, func(re *regexp.Regexp) bool {
		if !g.o.has("-w", "--word-regexp") {
			return re.MatchString(line)
		}
		return len(g.matches(re, line)) > 0
	})
}

// matches returns where re matches; with -w, only where no letter, digit or underscore is beside
// it.
func (g *grepper) matches(re *regexp.Regexp, line string) [][]int {
	all := re.FindAllStringIndex(line, -1)
	if !g.o.has("-w", "--word-regexp") {
		return all
	}
	word := func(i int) bool { return i >= 0 && i < len(line) && (line[i] == '_' || isAlnum(line[i])) }
	return slices.DeleteFunc(all, func(m []int) bool { return word(m[0]-1) || word(m[1]) })
}

func isAlnum(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' }
