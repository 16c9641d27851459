package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/pool"
)

var (
	topologyFlag = flag.String("topology", "", "YAML `file` that says what differs from the default topology")
	poolsFlag    = flag.String("pools", "", "the `pools` to use, such as 1-2,4")
	opFlag       = flag.String("op", "", "`operation` to do instead of tests: plan, status, verify, diff, rebuild, reset, keep, release, sweep or destroy")
	roleFlag     = flag.String("role", "", "`role` that -op rebuild builds anew: golden, con or dis")
	forFlag      = flag.Duration("for", 0, "how long -op keep keeps (default 4h)")
	olderFlag    = flag.Duration("older-than", 0, "what -op sweep spares is younger")
	yesFlag      = flag.Bool("yes", false, "-op destroy does not ask, -op sweep removes")
	jsonFlag     = flag.String("json-to", "", "`file` for what -op status or -op verify finds, as JSON")
	printFlag    = flag.Bool("print-topology", false, "print the topology, and where each value is from, and exit")
	setFlags     = settingsFlag{}
)

func init() { flag.Var(setFlags, "set", "`key=value` of the topology; may be repeated") }

type settingsFlag map[string]string

func (f settingsFlag) String() string { return "" }

func (f settingsFlag) Set(s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("%q is not of the form key=value", s)
	}
	f[key] = value
	return nil
}

// loadTopology is what file, environment and flags make of the default.
func loadTopology() (Topology, Origins, error) {
	src := Source{File: *topologyFlag, Env: os.LookupEnv, Flags: setFlags}
	if *poolsFlag != "" {
		src.Flags["only"] = *poolsFlag
	}
	if src.File != "" {
		data, err := os.ReadFile(src.File)
		if err != nil {
			return Topology{}, nil, fmt.Errorf("-topology: %w", err)
		}
		src.YAML = data
	}
	return LoadTopology(src)
}

func theTopology(t pool.T) Topology {
	t.Helper()
	topology, _, err := loadTopology()
	require.NoError(t, err)
	for _, w := range topology.Warnings() {
		t.Logf("topology: %s", w)
	}
	return topology
}

// leakChecked fails a run that leaves goroutines behind.
type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	own := goleak.IgnoreCurrent()
	code := l.m.Run()
	if err := goleak.Find(own); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goleak:", err)
		code = 1
	}
	return code
}

// operationFlags says in one sentence what of the flags does not go together.
func operationFlags() (err error) {
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "role", "for", "older-than", "yes", "json-to":
			if *opFlag == "" && err == nil {
				err = fmt.Errorf("-%s is for -op", f.Name)
			}
		case "test.run", "test.bench", "test.list":
			if *opFlag != "" && err == nil && f.Value.String() != "" {
				err = fmt.Errorf("-op runs no tests: leave -%s out", strings.TrimPrefix(f.Name, "test."))
			}
		}
	})
	if *opFlag == "" || err != nil {
		return err
	}
	topology, _, err := loadTopology()
	if err != nil {
		return err
	}
	if err := operation().Validate(topology.Only); err != nil {
		return err
	}
	if os.Getenv("GOVC_URL") == "" {
		return errors.New("-op needs a vCenter, and GOVC_URL is not set (examples/simlab serves a simulated one)")
	}
	return nil
}

// operation is what the flags ask for.
func operation() Operation {
	o := Operation{Name: *opFlag, Role: *roleFlag, For: *forFlag, OlderThan: *olderFlag, Yes: *yesFlag, Ask: AskTerminal}
	if *jsonFlag != "" {
		o.JSON = jsonFile(*jsonFlag)
	}
	return o
}

// A jsonFile is one that is written as a whole, once.
type jsonFile string

func (f jsonFile) Write(data []byte) (int, error) {
	return len(data), os.WriteFile(string(f), data, 0o644)
}

// operate does what the flags ask for.
func operate(t pool.T) {
	spec := SpecFromEnv(t, theTopology(t))
	spec.Logf = t.Logf
	if err := operation().Run(t.Context(), spec, os.Stdout); err != nil {
		t.Fatalf("%s: %v", *opFlag, err)
	}
}

// noTests are run after an operation.
type noTests struct{}

func (noTests) Run() int { return 0 }

func TestMain(m *testing.M) {
	flag.Parse()
	if *printFlag {
		topology, from, err := loadTopology()
		fmt.Print(topology.YAML(from))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		os.Exit(0)
	}
	if err := operationFlags(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if *opFlag != "" {
		os.Exit(pool.Run(noTests{}, operate))
	}
	os.Exit(pool.Run(leakChecked{m}, func(pool.T) {}))
}
