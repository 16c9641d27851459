package pool

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A commandLine is an operation as the arguments of a test binary ask for it.
type commandLine struct {
	kind *operationKind
	args []string // of ssh and exec, after the flags

	set       string
	pools     []int
	role      string
	json      bool
	out       string
	keepFor   time.Duration
	olderThan time.Duration
	since     time.Duration
	yes       bool
}

// An operationKind is one kind of operation.
type operationKind struct {
	name  string
	about string
	flags string // that it takes, beside -set
	needs string // "pools": its pools must be named; "args": it needs arguments
}

// operations are all kinds, in the order in which they are listed.
func operations() []operationKind {
	return []operationKind{
		{"plan", "print what a run would do, and why", "pools json o", ""},
		{"status", "print who uses which pool, and how each stands", "pools json o", ""},
		{"verify", "run all checks on all hosts; it fails if one does", "pools json o", ""},
		{"diff", "print what changed on each host since golden, and since it was ready", "pools json o", ""},
		{"keep", "leave the pools to a person", "pools json o for", "pools"},
		{"release", "free pools that are kept or quarantined", "pools json o", "pools"},
		{"reset", "put pools back to what they were when ready, and prove it", "pools json o", ""},
		{"rebuild", "rebuild what is ready: -role golden is all of the set; a role; or pools", "pools json o role", ""},
		{"sweep", "list what the Spec no longer has; with -yes remove it", "json o older-than yes", ""},
		{"destroy", "remove the set, after asking for its name unless -yes", "json o yes", ""},
		{"ssh", "log in to HOST with the real ssh, or run COMMAND there, or print how", "json o", "args"},
		{"exec", "run COMMAND on the hosts; their pools count as used", "pools json o role", "args"},
		{"logs", "print the journals of the hosts", "pools json o role since", ""},
	}
}

// A usageError is a fault of the command line, in one sentence.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// parseCommandLine reads the arguments after the flags of go test; nil without any.
func parseCommandLine(args []string) (*commandLine, error) {
	if len(args) == 0 {
		return nil, nil
	}
	kinds := operations()
	i := slices.IndexFunc(kinds, func(k operationKind) bool { return k.name == args[0] })
	if i < 0 {
		var text strings.Builder
		fmt.Fprintf(&text, "unknown operation %q; want one of", args[0])
		for _, k := range kinds {
			fmt.Fprintf(&text, "\n  %-8s %s", k.name, k.about)
		}
		return nil, &usageError{text.String()}
	}
	c := &commandLine{kind: &kinds[i]}
	f := flag.NewFlagSet(c.kind.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.set, "set", "", "the `name` of the set, if the tests have several")
	takes := strings.Fields(c.kind.flags)
	for _, name := range takes {
		switch name {
		case "pools":
			f.Func("pools", "the `pools`, such as 1-2,4", func(s string) (err error) { c.pools, err = ParsePools(s); return err })
		case "json":
			f.BoolVar(&c.json, "json", false, "write JSON")
		case "o":
			f.StringVar(&c.out, "o", "", "write to a `file`, not to standard output")
		case "role":
			f.StringVar(&c.role, "role", "", "the `role`")
		case "for":
			f.DurationVar(&c.keepFor, "for", 0, "how long (default 4h)")
		case "older-than":
			f.DurationVar(&c.olderThan, "older-than", 0, "spare what is younger")
		case "since":
			f.DurationVar(&c.since, "since", 10*time.Minute, "how far back")
		case "yes":
			f.BoolVar(&c.yes, "yes", false, "do not ask")
		}
	}
	fault := func(format string, args ...any) (*commandLine, error) {
		return nil, &usageError{c.kind.name + ": " + fmt.Sprintf(format, args...)}
	}
	if err := f.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			var text strings.Builder
			fmt.Fprintf(&text, "%s; its flags are:\n", c.kind.about)
			f.SetOutput(&text)
			f.PrintDefaults()
			return fault("%s", text.String())
		}
		return fault("%v", err)
	}
	c.args = f.Args()
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	switch {
	case c.kind.needs == "pools" && len(c.pools) == 0:
		return fault("it needs -pools, as it is about pools by number")
	case c.kind.needs == "args" && len(c.args) == 0:
		return fault("it needs %s", map[string]string{"ssh": "a host, such as con2", "exec": "a command"}[c.kind.name])
	case c.kind.needs != "args" && len(c.args) > 0:
		return fault("unknown argument %q", c.args[0])
	case c.kind.name == "rebuild" && c.role == "" && len(c.pools) == 0:
		return fault("it needs -role, -pools, or both")
	case c.kind.name == "rebuild" && c.role == "golden" && len(c.pools) > 0:
		return fault("a new golden rebuilds the whole set: leave -pools out")
	}
	for name, d := range map[string]time.Duration{"for": c.keepFor, "older-than": c.olderThan, "since": c.since} {
		if given[name] && d <= 0 {
			return fault("-%s is %s, must be more than 0", name, d)
		}
	}
	return c, c.testFlags()
}

// testFlags refuses flags that choose tests: none is run.
func (c *commandLine) testFlags() (err error) {
	flag.Visit(func(f *flag.Flag) {
		name, ok := strings.CutPrefix(f.Name, "test.")
		if ok && slices.Contains([]string{"run", "bench", "fuzz", "list", "skip"}, name) && f.Value.String() != "" && err == nil {
			err = &usageError{fmt.Sprintf("%s runs no tests: leave -%s out", c.kind.name, name)}
		}
	})
	return err
}

// spec returns spec with the pools that the command line names.
func (c *commandLine) spec(spec Spec) (Spec, error) {
	if len(c.pools) == 0 {
		return spec, nil
	}
	for _, n := range c.pools {
		if n > max(spec.Pools, 1) {
			return spec, &usageError{fmt.Sprintf("%s: -pools %d: set %q has the pools 1 to %d", c.kind.name, n, spec.Name, max(spec.Pools, 1))}
		}
	}
	spec.Only, spec.MinPools = c.pools, 0
	return spec, nil
}

// checkRole returns an error if the Spec has no such role.
func (c *commandLine) checkRole(s Spec) error {
	var names []string
	if c.kind.name == "rebuild" {
		names = append(names, "golden")
	}
	for _, r := range s.Roles {
		names = append(names, r.Name)
	}
	if c.role != "" && !slices.Contains(names, c.role) {
		return &usageError{fmt.Sprintf("%s: -role %s: want one of %s", c.kind.name, c.role, strings.Join(names, ", "))}
	}
	return nil
}

// output returns where the result goes.
func (c *commandLine) output() (io.WriteCloser, error) {
	if c.out == "" {
		return unclosed{os.Stdout}, nil
	}
	f, err := os.Create(c.out)
	if err != nil {
		return nil, fmt.Errorf("%s: nothing was done: -o: %w", c.kind.name, err)
	}
	return f, nil
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// ParsePools reads a choice of pools such as "1-2,4", and returns their numbers in order.
func ParsePools(s string) ([]int, error) {
	var list []int
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		a, err1 := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err1 != nil || err2 != nil || a < 1 || b < a || b > 1000 {
			return nil, fmt.Errorf("%q is no choice of pools such as 1-2,4", s)
		}
		for n := a; n <= b; n++ {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}
