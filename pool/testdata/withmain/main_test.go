// Package withmain is run by go test, which must not cache its result: see TestGoTestIsToldWhatItMustKnow.
package withmain

import (
	"testing"

	"github.com/poolready/poolready/pool"
)

func TestMain(m *testing.M) { pool.Main(m, func(pool.T) {}) }

func TestNothing(*testing.T) {}
