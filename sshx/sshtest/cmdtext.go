package sshtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// textCommands read text and print text:
//
//	grep, egrep, fgrep [-E -F -G -q -i -v -x -w -c -o -s -n -l -L -h -H -r -a] [-m N] [-e PATTERN] [-f FILE] [PATTERN] [FILE...]
//	sed: see sed.go
//	head, tail [-n [+]N | -N] [-c [+]N] [-q] [FILE...], tail [-f] [-F] [-s TIME]
//	wc [-l -w -c -m] [FILE...]
//	cut [-s] [-d CHAR] -f LIST | -c LIST | -b LIST [--output-delimiter=TEXT] [FILE...]
//	tr [-d -s -c] SET [SET]
//	sort [-u -n -r -b -f -V -h -s] [-t CHAR] [-k N[,M][nr]] [-o FILE] [FILE...]
//	uniq [-c -d -u -i] [FILE]
//	tee [-a] [FILE...], seq [-s TEXT] [-w] [FIRST [STEP]] LAST
//	base64 [-d -w N] [FILE], md5sum, sha1sum, sha256sum, sha512sum [-c --status --quiet -b] [FILE...]
//	cmp [-s] A B, diff [-q -u] A B (says only that files differ, except for -u, which is refused if they do)
//	paste [-s] [-d TEXT] FILE..., rev, tac, nl are not there: 127
var textCommands = map[string]Command{
	"grep": cmdGrep, "egrep": cmdGrep, "fgrep": cmdGrep, "sed": cmdSed,
	"head": cmdHead, "tail": cmdTail, "wc": cmdWc, "cut": cmdCut, "tr": cmdTr, "sort": cmdSort, "uniq": cmdUniq, "tee": cmdTee, "seq": cmdSeq,
	"base64": cmdBase64, "cmp": cmdCmp, "diff": cmdCmp,
	"md5sum": sumWith(md5.New), "sha1sum": sumWith(sha1.New), "sha256sum": sumWith(sha256.New), "sha512sum": sumWith(sha512.New),
}

// readAll reads to the end, or until memory would not suffice: devices have no end.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	err := copyTo(ctx, &b, io.LimitReader(r, maxText))
	if err == nil && b.Len() == maxText {
		err = syscall.ENOMEM
	}
	return b.Bytes(), err
}

const maxText = 256 << 20

// texts reads the operands, or stdin if there are none. f gets a name and all that is in it.
func (p *Proc) texts(ctx context.Context, names []string, f func(name, text string) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	code := 0
	for _, n := range names {
		r, err := p.input(n)
		var data []byte
		if err == nil {
			data, err = readAll(ctx, r)
			_ = r.Close()
		}
		if err != nil {
			code = p.Fail(1, "%s: %s", n, reason(err))
			continue
		}
		if err := f(n, string(data)); err != nil {
			return p.Fail(1, "%s", reason(err))
		}
	}
	return code
}

// lines splits a text; a last line without its newline counts.
func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// oldCount turns the obsolete -5 into -n 5.
func oldCount(p *Proc) {
	if len(p.Args) > 1 && len(p.Args[1]) > 1 && p.Args[1][0] == '-' && strings.Trim(p.Args[1][1:], "0123456789") == "" {
		p.Args = slices.Concat(p.Args[:1], []string{"-n", p.Args[1][1:]}, p.Args[2:])
	}
}

func cmdHead(ctx context.Context, p *Proc) int {
	oldCount(p)
	o, ok := p.options("-n: -c: -q --lines= --bytes=")
	if !ok {
		return exitNotSimulated
	}
	c, bytesMode := o.set["-c"]
	n, err := strconv.Atoi(cmp.Or(c, o.set["-n"], o.set["--lines"], "10"))
	if err != nil {
		return p.Fail(1, "invalid number: '%s'", cmp.Or(c, o.set["-n"]))
	}
	if n >= 0 { // stops early, so that an endless writer can end
		return p.headStream(ctx, o, n, bytesMode)
	}
	return p.texts(ctx, o.args, func(name, text string) error {
		if bytesMode {
			_, err := io.WriteString(p.Stdout, text[:max(0, len(text)+n)])
			return err
		}
		all := strings.SplitAfter(text, "\n")
		_, err := io.WriteString(p.Stdout, strings.Join(all[:max(0, len(lines(text))+n)], ""))
		return err
	})
}

func (p *Proc) headStream(ctx context.Context, o *options, n int, bytesMode bool) int {
	names, code := o.args, 0
	if len(names) == 0 {
		names = []string{"-"}
	}
	for k, name := range names {
		r, err := p.input(name)
		if err != nil {
			code = p.Fail(1, "cannot open '%s' for reading: %s", name, reason(err))
			continue
		}
		if len(names) > 1 && !o.has("-q") {
			if k > 0 {
				fmt.Fprintln(p.Stdout)
			}
			fmt.Fprintf(p.Stdout, "==> %s <==\n", name)
		}
		if bytesMode {
			err = copyTo(ctx, p.Stdout, io.LimitReader(r, int64(n)))
		} else {
			err = copyLines(ctx, p.Stdout, r, n)
		}
		_ = r.Close()
		if err != nil {
			return 1
		}
	}
	return code
}

// copyLines copies n lines, and reads no further.
func copyLines(ctx context.Context, w io.Writer, r io.Reader, n int) error {
	for ; n > 0 && ctx.Err() == nil; n-- {
		line, err := readLine(r)
		if err == nil {
			line += "\n"
		}
		if _, werr := io.WriteString(w, line); werr != nil {
			return werr
		}
		if err != nil {
			return nil
		}
	}
	return ctx.Err()
}

func cmdTail(ctx context.Context, p *Proc) int {
	oldCount(p)
	o, ok := p.options("-n: -c: -f -F -q -s: --lines= --bytes= --pid= --follow=")
	if !ok || o.has("--pid", "--follow") {
		if ok {
			return p.NotSimulated("--pid or --follow")
		}
		return exitNotSimulated
	}
	c, bytesMode := o.set["-c"]
	arg := cmp.Or(c, o.set["-n"], o.set["--lines"], "10")
	fromStart := strings.HasPrefix(arg, "+")
	n, err := strconv.Atoi(strings.TrimLeft(arg, "+-"))
	if err != nil {
		return p.Fail(1, "invalid number: '%s'", arg)
	}
	end := 0
	first := true
	code := p.texts(ctx, o.args, func(name, text string) error {
		if len(o.args) > 1 && !o.has("-q") {
			if !first {
				fmt.Fprintln(p.Stdout)
			}
			first = false
			fmt.Fprintf(p.Stdout, "==> %s <==\n", name)
		}
		end = len(text)
		units := strings.SplitAfter(text, "\n")
		if units[len(units)-1] == "" {
			units = units[:len(units)-1]
		}
		switch {
		case bytesMode && fromStart:
			text = text[min(max(0, n-1), len(text)):]
		case bytesMode:
			text = text[max(0, len(text)-n):]
		case fromStart:
			text = strings.Join(units[min(max(0, n-1), len(units)):], "")
		default:
			text = strings.Join(units[max(0, len(units)-n):], "")
		}
		_, err := io.WriteString(p.Stdout, text)
		return err
	})
	if !o.has("-f", "-F") || len(o.args) == 0 {
		return code
	}
	if len(o.args) > 1 {
		return p.NotSimulated("-f of several files")
	}
	for sleep(ctx, 20*time.Millisecond) {
		data, err := p.ReadFile(o.args[0])
		if err != nil {
			continue
		}
		if len(data) < end {
			end = 0
		}
		if _, err := p.Stdout.Write(data[end:]); err != nil {
			return 1
		}
		end = len(data)
	}
	return 0
}

func cmdWc(ctx context.Context, p *Proc) int {
	o, ok := p.options("-l -w -c -m --lines --words --bytes")
	if !ok {
		return exitNotSimulated
	}
	var total [3]int
	width := 1
	for _, name := range o.args {
		if i, err := p.view().stat(p.Path(name)); err == nil {
			width = max(width, len(strconv.FormatInt(i.size, 10)))
		}
	}
	switch columns := len(o.list); {
	case columns == 1 && len(o.args) < 2:
		width = 1
	case len(o.args) == 0:
		width = 7
	}
	print := func(n [3]int, name string) {
		var f []string
		for i, want := range []bool{o.has("-l", "--lines"), o.has("-w", "--words"), o.has("-c", "-m", "--bytes")} {
			if want || len(o.list) == 0 {
				f = append(f, fmt.Sprintf("%*d", width, n[i]))
			}
		}
		if name != "" && name != "-" {
			f = append(f, name)
		}
		fmt.Fprintln(p.Stdout, strings.Join(f, " "))
	}
	code := p.texts(ctx, o.args, func(name, text string) error {
		size := len(text)
		if o.has("-m") {
			size = len([]rune(text))
		}
		n := [3]int{strings.Count(text, "\n"), len(strings.Fields(text)), size}
		for i := range n {
			total[i] += n[i]
		}
		if len(o.args) == 0 {
			name = ""
		}
		print(n, name)
		return nil
	})
	if len(o.args) > 1 {
		print(total, "total")
	}
	return code
}

// parseRanges parses cut's lists: 1,3-5,7-.
func parseRanges(s string) (in func(int) bool, err error) {
	type span struct{ lo, hi int }
	var spans []span
	for part := range strings.SplitSeq(s, ",") {
		lo, hi, dash := strings.Cut(part, "-")
		sp := span{1, 1 << 30}
		if lo != "" {
			if sp.lo, err = strconv.Atoi(lo); err != nil {
				return nil, err
			}
		}
		if !dash {
			sp.hi = sp.lo
		} else if hi != "" {
			if sp.hi, err = strconv.Atoi(hi); err != nil {
				return nil, err
			}
		}
		if sp.lo < 1 || part == "-" {
			return nil, strconv.ErrRange
		}
		spans = append(spans, sp)
	}
	return func(n int) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return s.lo <= n && n <= s.hi })
	}, nil
}

func cmdCut(ctx context.Context, p *Proc) int {
	o, ok := p.options("-f: -d: -c: -b: -s --output-delimiter= --fields= --delimiter= --only-delimited")
	if !ok {
		return exitNotSimulated
	}
	list := cmp.Or(o.set["-f"], o.set["--fields"], o.set["-c"], o.set["-b"])
	in, err := parseRanges(list)
	if err != nil {
		return p.Fail(1, "invalid field value '%s'", list)
	}
	sep := cmp.Or(o.set["-d"], o.set["--delimiter"], "\t")
	if len([]rune(sep)) != 1 {
		return p.Fail(1, "the delimiter must be a single character")
	}
	join, ok := o.set["--output-delimiter"]
	if !ok {
		join = sep
	}
	byChar := o.has("-c", "-b")
	return p.texts(ctx, o.args, func(_, text string) error {
		var b strings.Builder
		for _, l := range lines(text) {
			var parts []string
			if byChar {
				parts = strings.Split(l, "")
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
}

// trSet expands a set of tr: ranges, classes, escapes.
func trSet(s string) ([]byte, error) {
	s = strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\r`, "\r", `\0`, "\x00", `\\`, `\`).Replace(s)
	var out []byte
	for i := 0; i < len(s); i++ {
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
		if i+2 < len(s) && s[i+1] == '-' && s[i] <= s[i+2] {
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

func cmdTr(ctx context.Context, p *Proc) int {
	o, ok := p.options("+ -d -s -c -C --delete --squeeze-repeats --complement")
	if !ok {
		return exitNotSimulated
	}
	if len(o.args) == 0 || len(o.args) > 2 {
		return p.missing()
	}
	from, err := trSet(o.args[0])
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	var to []byte
	if len(o.args) == 2 {
		if to, err = trSet(o.args[1]); err != nil {
			return p.Fail(1, "%v", err)
		}
	}
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
}

func cmdUniq(ctx context.Context, p *Proc) int {
	o, ok := p.options("-c -d -u -i")
	if !ok || len(o.args) > 1 {
		return exitNotSimulated
	}
	return p.texts(ctx, o.args, func(_, text string) error {
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
}

func cmdTee(ctx context.Context, p *Proc) int {
	o, ok := p.options("-a --append")
	if !ok {
		return exitNotSimulated
	}
	flag := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if o.has("-a", "--append") {
		flag = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	code := 0
	w := []io.Writer{p.Stdout}
	for _, name := range o.args {
		f, err := p.view().open(p.Path(name), flag, 0o666)
		if err != nil {
			code = p.Fail(1, "%s: %s", name, reason(err))
			continue
		}
		defer f.Close()
		w = append(w, f)
	}
	if err := copyTo(ctx, io.MultiWriter(w...), p.Stdin); err != nil {
		return p.Fail(1, "%s", reason(err))
	}
	return code
}

func cmdSeq(ctx context.Context, p *Proc) int {
	sep, n := "\n", []int{}
	args := p.Args[1:]
	for len(args) > 0 {
		switch {
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
	default:
		return p.missing()
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

func cmdBase64(ctx context.Context, p *Proc) int {
	o, ok := p.options("-d -w: -i --decode --wrap=")
	if !ok {
		return exitNotSimulated
	}
	wrap, err := strconv.Atoi(cmp.Or(o.set["-w"], o.set["--wrap"], "76"))
	if err != nil {
		return p.Fail(1, "invalid wrap size")
	}
	return p.texts(ctx, o.args, func(_, text string) error {
		if o.has("-d", "--decode") {
			data, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text, "\n", ""))
			_, _ = p.Stdout.Write(data)
			if err != nil {
				return errors.New("invalid input")
			}
			return nil
		}
		s := base64.StdEncoding.EncodeToString([]byte(text))
		for wrap > 0 && len(s) > wrap {
			fmt.Fprintln(p.Stdout, s[:wrap])
			s = s[wrap:]
		}
		_, _ = io.WriteString(p.Stdout, s)
		if wrap > 0 && s != "" {
			fmt.Fprintln(p.Stdout)
		}
		return nil
	})
}

func sumWith(algorithm func() hash.Hash) Command {
	return func(ctx context.Context, p *Proc) int {
		o, ok := p.options("-c -b -t -z --check --status --quiet")
		if !ok {
			return exitNotSimulated
		}
		sum := func(text string) string {
			h := algorithm()
			_, _ = io.WriteString(h, text)
			return hex.EncodeToString(h.Sum(nil))
		}
		if !o.has("-c", "--check") {
			return p.texts(ctx, o.args, func(name, text string) error {
				end := "\n"
				if o.has("-z") {
					end = "\x00"
				}
				fmt.Fprintf(p.Stdout, "%s  %s%s", sum(text), name, end)
				return nil
			})
		}
		bad := 0
		code := p.texts(ctx, o.args, func(_, text string) error {
			for _, l := range lines(text) {
				want, name, ok := strings.Cut(l, " ")
				if !ok || len(name) < 2 {
					return errors.New("no properly formatted checksum lines found")
				}
				name = name[1:]
				data, err := p.ReadFile(name)
				good := err == nil && sum(string(data)) == want
				if !good {
					bad++
				}
				switch {
				case o.has("--status") || good && o.has("--quiet"):
				case good:
					fmt.Fprintf(p.Stdout, "%s: OK\n", name)
				default:
					fmt.Fprintf(p.Stdout, "%s: FAILED\n", name)
				}
			}
			return nil
		})
		if bad > 0 {
			code = 1
		}
		return code
	}
}

func cmdCmp(ctx context.Context, p *Proc) int {
	o, ok := p.options("-s -q -u --brief --quiet --silent")
	if !ok {
		return exitNotSimulated
	}
	if len(o.args) != 2 {
		return p.Fail(2, "missing operand")
	}
	var all []string
	if code := p.texts(ctx, o.args, func(_, text string) error { all = append(all, text); return nil }); code != 0 {
		return 2
	}
	switch {
	case all[0] == all[1]:
		return 0
	case p.name() == "diff" && !o.has("-q", "--brief"):
		return p.NotSimulated("output of differences; use diff -q or cmp -s")
	case p.name() == "diff":
		fmt.Fprintf(p.Stdout, "Files %s and %s differ\n", o.args[0], o.args[1])
	case !o.has("-s", "--quiet", "--silent"):
		fmt.Fprintf(p.Stdout, "%s %s differ\n", o.args[0], o.args[1])
	}
	return 1
}
