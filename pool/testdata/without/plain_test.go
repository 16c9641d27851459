// Package without is like withmain, without pool.Main: go test caches its result.
package without

import (
	"testing"

	"github.com/poolready/poolready/pool"
)

func TestNothing(t *testing.T) { var _ pool.T = t }
