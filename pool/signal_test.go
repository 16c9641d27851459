package pool

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// CountEverySignal makes the second signal kill however soon it comes.
func CountEverySignal() { signalBurst = 0 }

func TestCallsBeforeAKillRunTogetherAndNoLongerThanTheirTime(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		lasts  []time.Duration // of each call
		killed time.Duration   // when runCalls returns
		ended  int32
	}{
		{name: "none"},
		{name: "all at once", lasts: []time.Duration{time.Second, time.Second, 1500 * time.Millisecond}, killed: 1500 * time.Millisecond, ended: 3},
		{name: "one that hangs", lasts: []time.Duration{time.Second, time.Hour}, killed: killGrace, ended: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, begun, ended := newInterruption(), time.Now(), atomic.Int32{}
				for _, d := range tt.lasts {
					p.atKill(func(ctx context.Context) {
						end, ok := ctx.Deadline()
						assert.True(t, ok)
						assert.Equal(t, killGrace, end.Sub(begun))
						time.Sleep(d)
						ended.Add(1)
					})
				}
				p.atKill(func(context.Context) { t.Error("forgotten, but called") })()
				p.runCalls()
				assert.Equal(t, tt.killed, time.Since(begun))
				assert.Equal(t, tt.ended, ended.Load())
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestACallRegisteredDuringAKillIsRunToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, ran := newInterruption(), false
		p.atKill(func(context.Context) {
			p.atKill(func(ctx context.Context) {
				time.Sleep(time.Second)
				ran = ctx.Err() == nil
			})()
		})
		p.runCalls()
		assert.True(t, ran)
	})
}

func TestNothingIsInterruptedWithoutASignal(t *testing.T) {
	t.Parallel()
	assert.NoError(t, interrupted().Err())
	assert.NoError(t, newMainT().Context().Err())
}

func TestAnInterruptionServesEveryBubble(t *testing.T) {
	t.Parallel()
	p := newInterruption()
	for range 2 {
		synctest.Test(t, func(*testing.T) {
			_, cancel := context.WithCancel(p.ctx)
			cancel()
		})
	}
}
