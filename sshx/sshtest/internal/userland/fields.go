package userland

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/shell"
)

// parseRanges parses cut's lists: 1,3-5,7-.
func parseRanges(s string) (in func(int) bool, err error) {
	type span struct{ lo, hi int }
	var spans []span
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, dash := strings.Cut(part, "-")
		sp := span{1, 1 << 30}
		if lo != "" {
			if sp.lo, err = strconv.Atoi(lo); err != nil {
				return nil, fmt.Errorf("invalid field value '%s'", lo)
			}
		}
		if !dash {
			sp.hi = sp.lo
		} else if hi != "" {
			if sp.hi, err = strconv.Atoi(hi); err != nil {
				return nil, fmt.Errorf("invalid field value '%s'", hi)
			}
		}
		if sp.lo < 1 || part == "-" {
			return nil, errors.New("fields are numbered from 1")
		}
		if sp.hi < sp.lo {
			return nil, errors.New("invalid decreasing range")
		}
		spans = append(spans, sp)
	}
	return func(n int) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return s.lo <= n && n <= s.hi })
	}, nil
}

var cmdCut = parsed("-f: -d: -c: -b: -s --output-delimiter= --fields= --delimiter= --only-delimited", func(ctx context.Context, p *machine.Proc, o *options) int {
	var lists []string
	for _, x := range o.list {
		if slices.Contains([]string{"-f", "--fields", "-c", "-b"}, x[0]) {
			lists = append(lists, x[1])
		}
	}
	byChar := o.has("-c", "-b")
	switch {
	case len(lists) == 0:
		return p.Fail(1, "you must specify a list of bytes, characters, or fields")
	case len(lists) > 1:
		return p.Fail(1, "only one list may be specified")
	case byChar && o.has("-d", "--delimiter"):
		return p.Fail(1, "an input delimiter may be specified only when operating on fields")
	case byChar && o.has("-s", "--only-delimited"):
		return p.Fail(1, "suppressing non-delimited lines makes sense\n\tonly when operating on fields")
	}
	in, err := parseRanges(lists[0])
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	sep := cmp.Or(o.set["-d"], o.set["--delimiter"], "\t")
	if len(sep) != 1 {
		return p.Fail(1, "the delimiter must be a single character")
	}
	join, ok := o.set["--output-delimiter"]
	if !ok {
		join = sep
	}
	return eachText(ctx, p, o.args, func(_, text string) error {
		var b strings.Builder
		for _, l := range lines(text) {
			var parts []string
			if byChar {
				for i := range len(l) { // of bytes, -c too
					parts = append(parts, l[i:i+1])
				}
				join = o.set["--output-delimiter"]
			} else if parts = strings.Split(l, sep); len(parts) == 1 {
				if !o.has("-s", "--only-delimited") {
					b.WriteString(l + "\n")
				}
				continue
			}
			var keep []string
			for i, x := range parts {
				if in(i + 1) {
					keep = append(keep, x)
				}
			}
			b.WriteString(strings.Join(keep, join) + "\n")
		}
		_, err := io.WriteString(p.Stdout, b.String())
		return err
	})
})

var trEscape = regexp.MustCompile(`(?s)\\([0-7]{1,3}|.)|.`)

// trSet expands a set of tr: ranges, classes, escapes.
func trSet(s string) ([]byte, error) {
	var plain []bool // bytes that an escape keeps from being special
	s = trEscape.ReplaceAllStringFunc(s, func(e string) string {
		c := e
		if len(e) > 1 {
			c = e[1:]
			if n, err := strconv.ParseUint(c, 8, 8); err == nil {
				c = string([]byte{byte(n)})
			} else if i := strings.IndexByte("abfnrtv", c[0]); i >= 0 {
				c = "\a\b\f\n\r\t\v"[i : i+1]
			}
		}
		for range len(c) {
			plain = append(plain, len(e) > 1)
		}
		return c
	})
	var out []byte
	for i := 0; i < len(s); i++ {
		if plain[i] {
			out = append(out, s[i])
			continue
		}
		if n := strings.Index(s[i:], "*"); s[i] == '[' && n == 2 && strings.Contains(s[i+n:], "]") || strings.HasPrefix(s[i:], "[=") {
			return nil, &shell.NotSimulated{What: s[i:]}
		}
		if strings.HasPrefix(s[i:], "[:") {
			end := strings.Index(s[i:], ":]")
			if end < 0 {
				return nil, errors.New("unterminated class")
			}
			re, err := compileRegexp("["+s[i:i+end+2]+"]", true, false, false)
			if err != nil {
				return nil, err
			}
			for c := range 128 {
				if re.MatchString(string(rune(c))) {
					out = append(out, byte(c))
				}
			}
			i += end + 1
			continue
		}
		if i+2 < len(s) && s[i+1] == '-' && !plain[i+1] {
			if s[i] > s[i+2] {
				return nil, fmt.Errorf("range-endpoints of '%s' are in reverse collating sequence order", s[i:i+3])
			}
			for c := int(s[i]); c <= int(s[i+2]); c++ {
				out = append(out, byte(c))
			}
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return out, nil
}

var cmdTr = parsed("+ -d -s -c -C --delete --squeeze-repeats --complement", func(ctx context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		return missing(p)
	}
	most := 2
	if o.has("-d", "--delete") && !o.has("-s", "--squeeze-repeats") {
		most = 1
	}
	if len(o.args) > most {
		return p.Fail(1, "extra operand '%s'", o.args[most])
	}
	var sets [2][]byte
	for i, a := range o.args {
		var err error
		if sets[i], err = trSet(a); err != nil {
			if ns, ok := errors.AsType[*shell.NotSimulated](err); ok {
				return p.NotSimulated(ns.What)
			}
			return p.Fail(1, "%v", err)
		}
	}
	from, to := sets[0], sets[1]
	if o.has("-c", "-C", "--complement") {
		var rest []byte
		for c := range 256 {
			if !bytes.Contains(from, []byte{byte(c)}) {
				rest = append(rest, byte(c))
			}
		}
		from = rest
	}
	del, squeeze := o.has("-d", "--delete"), o.has("-s", "--squeeze-repeats")
	if !del && !squeeze && len(to) == 0 {
		return p.Fail(1, "missing operand after '%s'", o.args[0])
	}
	squeezed := to
	if len(to) == 0 {
		squeezed = from
	}
	data, err := readAll(ctx, p.Stdin)
	if err != nil {
		return 1
	}
	out := make([]byte, 0, len(data))
	for _, c := range data {
		if i := bytes.IndexByte(from, c); i >= 0 {
			if del {
				continue
			}
			if len(to) > 0 {
				c = to[min(i, len(to)-1)]
			}
		}
		if squeeze && len(out) > 0 && out[len(out)-1] == c && bytes.IndexByte(squeezed, c) >= 0 {
			continue
		}
		out = append(out, c)
	}
	_, _ = p.Stdout.Write(out)
	return 0
})

var cmdUniq = parsed("-c -d -u -i", func(ctx context.Context, p *machine.Proc, o *options) int {
	if len(o.args) > 1 {
		return p.NotSimulated("an output file")
	}
	return eachText(ctx, p, o.args, func(_, text string) error {
		all := lines(text)
		for i := 0; i < len(all); {
			j := i + 1
			for j < len(all) && (all[j] == all[i] || o.has("-i") && strings.EqualFold(all[j], all[i])) {
				j++
			}
			if !(o.has("-d") && j-i == 1 || o.has("-u") && j-i > 1) {
				if o.has("-c") {
					fmt.Fprintf(p.Stdout, "%7d ", j-i)
				}
				fmt.Fprintln(p.Stdout, all[i])
			}
			i = j
		}
		return nil
	})
})

var cmdTee = parsed("-a --append", func(ctx context.Context, p *machine.Proc, o *options) int {
	flag := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if o.has("-a", "--append") {
		flag = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	code := 0
	w := []io.Writer{p.Stdout}
	for _, name := range o.args {
		f, err := p.View().Open(p.Path(name), flag, 0o666)
		if err != nil {
			code = p.Fail(1, "%s: %s", name, disk.Reason(err))
			continue
		}
		defer f.Close()
		w = append(w, f)
	}
	if err := copyTo(ctx, io.MultiWriter(w...), p.Stdin); err != nil {
		return p.Fail(1, "%s", disk.Reason(err))
	}
	return code
})

func cmdSeq(ctx context.Context, p *machine.Proc) int {
	sep, n := "\n", []int{}
	args := p.Args[1:]
	for len(args) > 0 {
		switch {
		case args[0] == "-w" || args[0] == "-f":
			return p.NotSimulated(args[0])
		case args[0] == "-s" && len(args) > 1:
			sep, args = args[1], args[1:]
		case strings.HasPrefix(args[0], "-s"):
			sep = args[0][2:]
		default:
			v, err := strconv.Atoi(args[0])
			if err != nil {
				return p.NotSimulated(args[0])
			}
			n = append(n, v)
		}
		args = args[1:]
	}
	first, step, last := 1, 1, 0
	switch len(n) {
	case 1:
		last = n[0]
	case 2:
		first, last = n[0], n[1]
	case 3:
		first, step, last = n[0], n[1], n[2]
	case 0:
		return missing(p)
	default:
		return p.Fail(1, "extra operand '%d'", n[3])
	}
	if step == 0 {
		return p.Fail(1, "invalid Zero increment value: '0'")
	}
	some := false
	for i := first; (step > 0 && i <= last || step < 0 && i >= last) && ctx.Err() == nil; i += step {
		if some {
			_, _ = io.WriteString(p.Stdout, sep)
		}
		some = true
		if _, err := io.WriteString(p.Stdout, strconv.Itoa(i)); err != nil {
			return 1
		}
	}
	if some {
		fmt.Fprintln(p.Stdout)
	}
	return 0
}
