package e2e

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
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

func theTopology(t testing.TB) Topology {
	t.Helper()
	topology, _, err := loadTopology()
	require.NoError(t, err)
	for _, w := range topology.Warnings() {
		t.Logf("topology: %s", w)
	}
	return topology
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
	goleak.VerifyTestMain(m)
}
