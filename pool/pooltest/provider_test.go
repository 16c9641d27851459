package pooltest_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/pooltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	p := pooltest.NewProvider(t, "template")
	pooltest.TestProvider(t, p, pooltest.Env{
		Template: "template", Timeout: 30 * time.Second, Instant: 500 * time.Millisecond, LeaseByMAC: true,
		BootedAt: func(_ pool.T, id string) time.Time { return p.BootedAt(id) },
	})
}
