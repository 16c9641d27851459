package vsphere

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// Whatever an answer takes, vCenter's clock was neither earlier than Now nor later by more than
// Slack.
func TestTheClockIsNeverAheadOfVCenters(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	slow := l.Inject(vspheretest.Fault{Method: "CurrentTime", Effect: vspheretest.Stall(300 * time.Millisecond)})
	for _, stalled := range []bool{true, false} {
		began := len(l.Requests())
		asked := time.Now()
		read, err := l.p.Ledger(within(t, time.Minute), "set")
		require.NoError(t, err)
		answered := time.Now() // the simulated vCenter has this machine's clock
		assert.False(t, read.Now.After(answered), "ahead by %s", read.Now.Sub(answered))
		assert.False(t, read.Now.Add(read.Slack).Before(asked), "behind by more than %s", read.Slack)
		asks := 0
		for _, q := range l.Requests()[began:] {
			if q.Method == "CurrentTime" {
				asks++
			}
		}
		assert.Equal(t, 1, asks, "an answer that took long is good for the moment only")
		if stalled {
			assert.GreaterOrEqual(t, read.Slack, 300*time.Millisecond)
		}
	}
	assert.Equal(t, 1, slow.Hits())
}
