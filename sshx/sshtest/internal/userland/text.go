package userland

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// textCommands read text and print text:
//
//	grep, egrep, fgrep [-E -F -G -q -i -v -x -w -c -o -s -n -l -L -h -H -r -a] [-m N] [-e PATTERN] [-f FILE] [PATTERN] [FILE...]
//	sed: see sed.go
//	head, tail [-n [+]N | -N] [-c [+]N] [-q] [FILE...], tail [-f] [-F] [-s TIME]
//	wc [-l -w -c -m] [FILE...]
//	cut [-s] [-d CHAR] -f LIST | -c LIST | -b LIST [--output-delimiter=TEXT] [FILE...]
//	tr [-d -s -c] SET [SET]
//	sort [-u -n -r -b -f -V -s -c] [-t CHAR] [-k N[,M][nrbfV]] [-o FILE] [FILE...]
//	uniq [-c -d -u -i] [FILE]
//	tee [-a] [FILE...], seq [-s TEXT] [FIRST [STEP]] LAST
//	base64 [-d -w N] [FILE], md5sum, sha1sum, sha256sum, sha512sum [-c --status --quiet -b] [FILE...]
//	cmp [-s] A B, diff [-q -u] A B (says only that files differ, except for -u, which is refused if they do)
//	paste [-s] [-d TEXT] FILE..., rev, tac, nl are not there: 127
var textCommands = map[string]machine.Command{
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

// eachText reads the operands, or stdin if there are none. f gets a name and all that is in it.
func eachText(ctx context.Context, p *machine.Proc, names []string, f func(name, text string) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	code := 0
	for _, n := range names {
		r, err := openInput(p, n)
		var data []byte
		if err == nil {
			data, err = readAll(ctx, r)
			_ = r.Close()
		}
		if err != nil {
			code = p.Fail(1, unreadable(p, err), n, disk.Reason(err))
			continue
		}
		if err := f(n, string(data)); err != nil {
			return p.Fail(1, "%s", disk.Reason(err))
		}
	}
	return code
}

// unreadable is how the command says that it cannot read a file.
func unreadable(p *machine.Proc, err error) string {
	dir := errors.Is(err, syscall.EISDIR)
	switch name := p.Name(); {
	case name == "tail" && dir:
		return "error reading '%s': %s"
	case name == "tail":
		return "cannot open '%s' for reading: %s"
	case name == "sort" && dir:
		return "read failed: %s: %s"
	case name == "sort":
		return "cannot read: %s: %s"
	case name == "sed" && dir:
		return "couldn't read %s: %s"
	case name == "sed":
		return "can't read %s: %s"
	}
	return "%s: %s"
}

// lines splits a text; a last line without its newline counts.
func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// oldCount turns the obsolete -5 into -n 5.
func oldCount(p *machine.Proc) {
	if len(p.Args) > 1 && len(p.Args[1]) > 1 && p.Args[1][0] == '-' && strings.Trim(p.Args[1][1:], "0123456789") == "" {
		p.Args = slices.Concat(p.Args[:1], []string{"-n", p.Args[1][1:]}, p.Args[2:])
	}
}

// countOf is how much head and tail print: a number, perhaps with a sign and a unit, and what of.
// code is not 0 if it is none.
func countOf(p *machine.Proc, o *options) (arg string, n int, bytesMode bool, code int) {
	arg = "10"
	for _, x := range o.list {
		switch x[0] {
		case "-n", "--lines":
			arg, bytesMode = x[1], false
		case "-c", "--bytes":
			arg, bytesMode = x[1], true
		}
	}
	size, err := parseSize(strings.TrimLeft(arg, "+-"))
	if err != nil || size < 0 {
		return "", 0, false, p.Fail(1, "invalid number of %s: '%s'", map[bool]string{true: "bytes", false: "lines"}[bytesMode], arg)
	}
	return arg, int(size), bytesMode, 0
}

func cmdHead(ctx context.Context, p *machine.Proc) int {
	oldCount(p)
	o, ok := parse(p, "-n: -c: -q --lines= --bytes= --quiet")
	if !ok {
		return machine.ExitNotSimulated
	}
	arg, n, bytesMode, code := countOf(p, o)
	if code != 0 {
		return code
	}
	names, some := o.args, false
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, name := range names {
		r, err := openInput(p, name)
		if errors.Is(err, syscall.EISDIR) {
			code = p.Fail(1, "error reading '%s': %s", name, disk.Reason(err))
			continue
		}
		if err != nil {
			code = p.Fail(1, "cannot open '%s' for reading: %s", name, disk.Reason(err))
			continue
		}
		if len(names) > 1 && !o.has("-q", "--quiet") {
			if some {
				fmt.Fprintln(p.Stdout)
			}
			fmt.Fprintf(p.Stdout, "==> %s <==\n", name)
			some = true
		}
		switch {
		case strings.HasPrefix(arg, "-"): // all but so many
			var data []byte
			if data, err = readAll(ctx, r); err == nil {
				units := strings.SplitAfter(string(data), "\n")
				if bytesMode {
					_, err = p.Stdout.Write(data[:max(0, len(data)-n)])
				} else {
					_, err = io.WriteString(p.Stdout, strings.Join(units[:max(0, len(lines(string(data)))-n)], ""))
				}
			}
		case bytesMode: // it stops early, so that an endless writer can end
			err = copyTo(ctx, p.Stdout, io.LimitReader(r, int64(n)))
		default:
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
			return nil //nolint:nilerr // the end of the input
		}
	}
	return ctx.Err()
}

func cmdTail(ctx context.Context, p *machine.Proc) int {
	old := len(p.Args)
	oldCount(p)
	old = len(p.Args) - old
	o, ok := parse(p, "-n: -c: -f -F -q -s: --lines= --bytes= --quiet")
	if !ok {
		return machine.ExitNotSimulated
	}
	if old > 0 && len(o.args) > 1 {
		return p.Fail(1, "option used in invalid context -- %s", p.Args[2])
	}
	if len(o.args) > 0 && len(o.args[0]) > 1 && o.args[0][0] == '+' {
		return p.NotSimulated(o.args[0])
	}
	arg, n, bytesMode, code := countOf(p, o)
	if code != 0 {
		return code
	}
	fromStart := strings.HasPrefix(arg, "+")
	end := 0
	first := true
	code = eachText(ctx, p, o.args, func(name, text string) error {
		if len(o.args) > 1 && !o.has("-q", "--quiet") {
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
	if code != 0 && !o.has("-F") {
		return p.Fail(1, "no files remaining")
	}
	for machine.Sleep(ctx, 20*time.Millisecond) {
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

var cmdWc = parsed("-l -w -c -m --lines --words --bytes", func(ctx context.Context, p *machine.Proc, o *options) int {
	if o.has("-m") && o.has("-c", "--bytes") {
		return p.NotSimulated("-c with -m")
	}
	var total [3]int
	width, sum, irregular := 1, int64(0), false
	for _, name := range o.args {
		if i, err := p.View().Stat(p.Path(name)); err == nil {
			switch {
			case i.IsDir():
				irregular = true
			default:
				sum += i.Size()
				width = len(strconv.FormatInt(sum, 10))
			}
		}
	}
	switch columns := len(o.list); {
	case columns == 1 && len(o.args) < 2:
		width = 1
	case len(o.args) == 0 || irregular:
		width = 7
	}
	print := func(n [3]int, name string) {
		var f []string
		for i, want := range []bool{o.has("-l", "--lines"), o.has("-w", "--words"), o.has("-c", "-m", "--bytes")} {
			if want || len(o.list) == 0 {
				f = append(f, fmt.Sprintf("%*d", width, n[i]))
			}
		}
		if name != "" {
			f = append(f, name)
		}
		fmt.Fprintln(p.Stdout, strings.Join(f, " "))
	}
	count := func(name, text string) error {
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
	}
	code := 0
	if len(o.args) == 0 {
		code = eachText(ctx, p, nil, count)
	}
	for _, name := range o.args {
		code = max(code, eachText(ctx, p, []string{name}, count))
		if i, err := p.View().Stat(p.Path(name)); err == nil && i.IsDir() {
			print([3]int{}, name)
		}
	}
	if len(o.args) > 1 {
		print(total, "total")
	}
	return code
})
