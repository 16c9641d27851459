package pool

import (
	"context"
	"testing"
	"time"
)

func init() { clockTime = time.Second } // so that tests of clocks that stay wrong are short

// AddChild makes main what TestMain is in child processes of that mode.
func AddChild(mode string, main func(m *testing.M)) { children[mode] = main }

// ChildEnv is the environment variable that holds the mode.
const ChildEnv = childEnv

// UnderLease tells whether what is done under ctx is done under a lease, and so refused when that
// is over.
func UnderLease(ctx context.Context) bool { return ctx.Value(heldKey{}) != nil }

// Idle returns when nothing is reset or built in the background any more.
func (s *Set) Idle() { s.resets.Wait() }
