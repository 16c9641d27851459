package userland

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

var cmdBase64 = parsed("-d -w: --decode --wrap=", func(ctx context.Context, p *machine.Proc, o *options) int {
	wrap, err := strconv.Atoi(cmp.Or(o.set["-w"], o.set["--wrap"], "76"))
	if err != nil {
		return p.Fail(1, "invalid wrap size")
	}
	if len(o.args) > 1 {
		return p.Fail(1, "extra operand '%s'", o.args[1])
	}
	return eachText(ctx, p, o.args, func(_, text string) error {
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
})

// sumName is how names that would break a line are shown, behind a line's own backslash.
var sumName = strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`)

func sumWith(algorithm func() hash.Hash) machine.Command {
	return func(ctx context.Context, p *machine.Proc) int {
		o, ok := parse(p, "-c -b -t -z --check --status --quiet")
		if !ok {
			return machine.ExitNotSimulated
		}
		sum := func(text string) string {
			h := algorithm()
			_, _ = io.WriteString(h, text)
			return hex.EncodeToString(h.Sum(nil))
		}
		if !o.has("-c", "--check") {
			return eachText(ctx, p, o.args, func(name, text string) error {
				end := "\n"
				if o.has("-z") {
					end = "\x00"
				}
				mark, escaped := " ", ""
				if o.has("-b") {
					mark = "*"
				}
				if shown := sumName.Replace(name); shown != name && !o.has("-z") {
					name, escaped = shown, `\`
				}
				fmt.Fprintf(p.Stdout, "%s%s %s%s%s", escaped, sum(text), mark, name, end)
				return nil
			})
		}
		bad, badLines, some := 0, 0, false
		code := eachText(ctx, p, o.args, func(_, text string) error {
			for _, l := range lines(text) {
				want, name, ok := strings.Cut(l, " ")
				if _, err := hex.DecodeString(want); !ok || len(name) == 0 || err != nil || len(want) != len(sum("")) {
					badLines++
					continue
				}
				some = true
				if len(name) > 1 && (name[0] == ' ' || name[0] == '*') {
					name = name[1:]
				}
				data, err := p.ReadFile(name)
				good := err == nil && sum(string(data)) == strings.ToLower(want)
				if err != nil {
					p.Fail(1, "%s: %s", name, disk.Reason(err))
				}
				if !good {
					bad++
				}
				switch {
				case o.has("--status") || good && o.has("--quiet"):
				case good:
					fmt.Fprintf(p.Stdout, "%s: OK\n", name)
				case err != nil:
					fmt.Fprintf(p.Stdout, "%s: FAILED open or read\n", name)
				default:
					fmt.Fprintf(p.Stdout, "%s: FAILED\n", name)
				}
			}
			if !some {
				return errors.New("no properly formatted checksum lines found")
			}
			return nil
		})
		if badLines > 0 && some {
			p.Fail(0, "WARNING: %d line is improperly formatted", badLines)
		}
		if bad > 0 {
			code = 1
		}
		return code
	}
}

var cmdCmp = parsed("-s -q -u --brief --quiet --silent", func(ctx context.Context, p *machine.Proc, o *options) int {
	switch diff := p.Name() == "diff"; {
	case diff && o.has("-s", "--quiet", "--silent"), !diff && o.has("-q", "-u", "--brief"):
		return p.NotSimulated(o.list[0][0])
	case len(o.args) != 2:
		return p.Fail(2, "missing operand")
	case diff:
		for _, name := range o.args {
			if i, err := p.View().Stat(p.Path(name)); err == nil && i.IsDir() {
				return p.NotSimulated("directories")
			}
		}
	}
	var all []string
	if code := eachText(ctx, p, o.args, func(_, text string) error { all = append(all, text); return nil }); code != 0 {
		return 2
	}
	switch {
	case all[0] == all[1]:
		return 0
	case p.Name() == "diff" && !o.has("-q", "--brief"):
		return p.NotSimulated("output of differences; use diff -q or cmp -s")
	case p.Name() == "diff":
		fmt.Fprintf(p.Stdout, "Files %s and %s differ\n", o.args[0], o.args[1])
	case !o.has("-s", "--quiet", "--silent"):
		n := 0
		for n < min(len(all[0]), len(all[1])) && all[0][n] == all[1][n] {
			n++
		}
		line := strings.Count(all[0][:n], "\n") + 1
		for i, text := range all {
			if n == len(text) {
				return p.Fail(1, "EOF on %s", cmp.Or(map[bool]string{true: o.args[i] + " which is empty"}[n == 0], fmt.Sprintf("%s after byte %d, in line %d", o.args[i], n, line)))
			}
		}
		fmt.Fprintf(p.Stdout, "%s %s differ: char %d, line %d\n", o.args[0], o.args[1], n+1, line)
	}
	return 1
})
