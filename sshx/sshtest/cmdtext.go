package sshtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"io"
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
			return nil //nolint:nilerr // the end of the input
		}
	}
	return ctx.Err()
}

func cmdTail(ctx context.Context, p *Proc) int {
	oldCount(p)
	o, ok := p.options("-n: -c: -f -F -q -s: --lines= --bytes=")
	if !ok {
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
