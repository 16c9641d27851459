package userland

import (
	"cmp"
	"context"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// A sortKey is one -k of sort: fields from to to, 1-based; to 0 is the end of the line.
type sortKey struct {
	from, to int
	how      sortOrder
}

type sortOrder struct{ numeric, reverse, fold, version, blanks bool }

func (h *sortOrder) add(letters string) bool {
	for _, c := range letters {
		switch c {
		case 'n':
			h.numeric = true
		case 'r':
			h.reverse = true
		case 'f':
			h.fold = true
		case 'V':
			h.version = true
		case 'b':
			h.blanks = true
		default:
			return false
		}
	}
	return true
}

// cmdSort orders by bytes, as in the C locale.
func cmdSort(ctx context.Context, p *machine.Proc) int {
	for i, a := range p.Args { // the obsolete +1 is -k 2
		if n, err := strconv.Atoi(strings.TrimPrefix(a, "+")); i == 1 && err == nil && a[0] == '+' {
			p.Args = slices.Concat(p.Args[:1], []string{"-k", strconv.Itoa(n + 1)}, p.Args[2:])
			if len(p.Args) > 3 && len(p.Args[3]) > 1 && p.Args[3][0] == '-' && strings.Trim(p.Args[3][1:], "0123456789.") == "" {
				return p.NotSimulated(a + " " + p.Args[3])
			}
		}
	}
	o, ok := parse(p, "-u -n -r -b -f -V -s -c -t: -k: -o: --unique --reverse")
	if !ok {
		return machine.ExitNotSimulated
	}
	var global sortOrder
	var keys []sortKey
	for _, x := range o.list {
		switch name := x[0]; name {
		case "-n", "-r", "-b", "-f", "-V":
			global.add(name[1:])
		case "--reverse":
			global.reverse = true
		case "-k":
			k, ok := parseKey(x[1])
			if !ok {
				return p.NotSimulated("-k " + x[1])
			}
			keys = append(keys, k)
		}
	}
	for i := range keys {
		if keys[i].how == (sortOrder{}) {
			keys[i].how = global
		}
	}
	if len(keys) == 0 {
		keys = []sortKey{{1, 0, global}}
	}
	sep := o.set["-t"]
	if sep == `\0` {
		sep = "\x00"
	}
	switch {
	case o.has("-t") && sep == "":
		return p.Fail(2, "empty tab")
	case len(sep) > 1:
		return p.Fail(2, "multi-character tab '%s'", sep)
	case o.has("-c") && len(o.args) > 1:
		return p.Fail(2, "extra operand '%s' not allowed with -c", o.args[1])
	}
	var all []string
	if eachText(ctx, p, o.args, func(_, text string) error { all = append(all, lines(text)...); return nil }) != 0 {
		return 2
	}
	compare := func(a, b string) int {
		for _, k := range keys {
			if c := k.compare(k.of(a, sep), k.of(b, sep)); c != 0 {
				return c
			}
		}
		return 0
	}
	full := func(a, b string) int {
		c := compare(a, b)
		if c == 0 && !o.has("-s", "-u", "--unique") {
			if c = strings.Compare(a, b); global.reverse {
				c = -c
			}
		}
		return c
	}
	if o.has("-c") {
		for i := 1; i < len(all); i++ {
			if c := full(all[i-1], all[i]); c > 0 || c == 0 && o.has("-u", "--unique") {
				name := "-"
				if len(o.args) > 0 {
					name = o.args[0]
				}
				return p.Fail(1, "%s:%d: disorder: %s", name, i+1, all[i])
			}
		}
		return 0
	}
	slices.SortStableFunc(all, full)
	if o.has("-u", "--unique") {
		all = slices.CompactFunc(all, func(a, b string) bool { return compare(a, b) == 0 })
	}
	text := strings.Join(all, "\n")
	if len(all) > 0 {
		text += "\n"
	}
	if name, ok := o.set["-o"]; ok {
		if err := p.WriteFile(name, []byte(text), 0o666); err != nil {
			return p.Fail(2, "open failed: %s: %s", name, disk.Reason(err))
		}
		return 0
	}
	_, _ = io.WriteString(p.Stdout, text)
	return 0
}

func parseKey(s string) (k sortKey, ok bool) {
	from, to, two := strings.Cut(s, ",")
	split := func(s string) (int, string, bool) {
		digits := strings.TrimRightFunc(s, unicode.IsLetter)
		n, err := strconv.Atoi(digits)
		return n, s[len(digits):], err == nil && n > 0
	}
	n, letters, ok := split(from)
	if !ok || !k.how.add(letters) {
		return k, false
	}
	k.from = n
	if two {
		if k.to, letters, ok = split(to); !ok || !k.how.add(letters) {
			return k, false
		}
	}
	return k, true
}

func (k sortKey) of(line, sep string) string {
	if k.from == 1 && k.to == 0 {
		return line
	}
	var f []string
	if sep == "" { // blanks belong to the field that they precede
		f = blankField.FindAllString(line, -1)
	} else {
		f = strings.Split(line, sep)
	}
	to := len(f)
	if k.to > 0 {
		to = min(to, k.to)
	}
	if k.from > to {
		return ""
	}
	return strings.Join(f[k.from-1:to], sep)
}

var blankField = regexp.MustCompile(`[ \t]*[^ \t]*`)

func (k sortKey) compare(a, b string) int {
	if k.how.blanks {
		a, b = strings.TrimLeft(a, " \t"), strings.TrimLeft(b, " \t")
	}
	if k.how.fold {
		a, b = strings.ToUpper(a), strings.ToUpper(b)
	}
	c := 0
	switch {
	case k.how.numeric:
		c = cmp.Compare(leadingNumber(a), leadingNumber(b))
	case k.how.version:
		c = compareVersions(a, b)
	default:
		c = strings.Compare(a, b)
	}
	if k.how.reverse {
		return -c
	}
	return c
}

func leadingNumber(s string) float64 {
	s = strings.TrimLeft(s, " \t")
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.' || end == 0 && s[end] == '-') {
		end++
	}
	n, _ := strconv.ParseFloat(s[:end], 64)
	return n
}

// compareVersions compares runs of digits as numbers and all else as text.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			x, y := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}
