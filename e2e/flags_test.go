package e2e

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/poolready/poolready/pool"
)

var (
	topologyFlag = flag.String("topology", "", "YAML `file` that says what differs from the default topology")
	poolsFlag    = flag.String("pools", "", "the `pools` to use, such as 1-2,4")
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
	if err != nil {
		t.Fatalf("%v", err)
	}
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
	os.Exit(pool.Run(leakChecked{m}, func(t pool.T) {
		op := pool.Operation()
		if op == "" {
			return
		}
		if os.Getenv("GOVC_URL") == "" {
			t.Fatalf("%s needs a vCenter, and GOVC_URL is not set (examples/simlab serves a simulated one)", op)
		}
		pool.Ensure(t, SpecFromEnv(t, theTopology(t)))
	}))
}
