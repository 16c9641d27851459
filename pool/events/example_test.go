package events_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/poolready/poolready/pool/events"
)

// What took longest, of a run with POOLREADY_DIR=out.
func Example() {
	dir, err := os.MkdirTemp("", "out-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "e2e.jsonl"), []byte(lines), 0o600); err != nil {
		panic(err)
	}

	logs, err := events.ReadDir(dir)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, log := range logs {
		slices.SortFunc(log.Events, func(a, b events.Event) int { return int(b.Seconds - a.Seconds) })
		for _, e := range log.Events[:2] {
			fmt.Printf("%s pid %d: %s %s%s: %.0f s\n", log.About.Program, log.About.PID, e.Kind, e.Stage, e.Name, e.Seconds)
		}
	}
	// Output:
	// e2e.test pid 7: stage golden: 4 s
	// e2e.test pid 7: step base: 3 s
}
