package pool

import (
	"context"
	"testing"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
)

func init() {
	clockTime = time.Second // so that tests of clocks that stay wrong are short
	hashRounds = 10         // some have a thousand VMs
}

// AddChild makes main what TestMain is in child processes of that mode.
func AddChild(mode string, main func(m *testing.M)) { children[mode] = main }

// ChildEnv is the environment variable that holds the mode.
const ChildEnv = childEnv

// UnderLease reports whether what is done under ctx is done under a lease, and so refused when that
// is over.
func UnderLease(ctx context.Context) bool { return lease.Bound(ctx) }

// Idle returns when nothing is reset or rebuilt in the background any more.
func (s *Set) Idle() { s.background.Wait() }

// KeepIdle returns a copy of which n hosts keep idle connections.
func (s Spec) KeepIdle(n int) Spec {
	s = s.withDefaults()
	s.gates.connections.most = n
	return s
}

// Connected reports whether the host has a connection.
func (h *Host) Connected() bool { return h.alive() != nil }
