// Package skips has a test, and a setup that skips.
package skips

import (
	"testing"

	"github.com/poolready/poolready/pool"
)

func TestMain(m *testing.M) {
	pool.Main(m, func(t pool.T) { t.Skip("no vCenter") })
}

func TestNeverRuns(t *testing.T) { t.Error("it runs") }
