package pool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestKillTime(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct{ timeout, want time.Duration }{
		{time.Second, 61 * time.Second},
		{5 * time.Minute, 6 * time.Minute},
		{10 * time.Minute, 11 * time.Minute},
		{20 * time.Minute, 22 * time.Minute},
		{10 * time.Hour, 11 * time.Hour},
	} {
		t.Run(tt.timeout.String(), func(t *testing.T) {
			t.Parallel()
			at, ok := killTime(start, tt.timeout)
			assert.True(t, ok)
			assert.Equal(t, tt.want, at.Sub(start))
		})
	}
	for _, none := range []time.Duration{0, -time.Second} {
		t.Run("never for "+none.String(), func(t *testing.T) {
			t.Parallel()
			_, ok := killTime(start, none)
			assert.False(t, ok)
		})
	}
}

// deadlineT is a T with the Deadline of a *testing.T; zero for none.
type deadlineT struct {
	T
	at time.Time
}

func (t deadlineT) Deadline() (time.Time, bool) { return t.at, !t.at.IsZero() }

func TestDeadlineIsTheEarlierOfAlarmAndKill(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	after := start.Add
	for _, tt := range []struct {
		name    string
		t       T
		timeout time.Duration
		want    time.Time // zero: never
	}{
		{"alarm first", deadlineT{at: after(10 * time.Minute)}, 10 * time.Minute, after(10 * time.Minute)},
		{"kill first, after a setup of 5 minutes", deadlineT{at: after(15 * time.Minute)}, 10 * time.Minute, after(11 * time.Minute)},
		{"alarm only, with benchmarks", deadlineT{at: after(10 * time.Minute)}, 0, after(10 * time.Minute)},
		{"kill only", deadlineT{}, 10 * time.Minute, after(11 * time.Minute)},
		{"no Deadline to ask", struct{ T }{}, 10 * time.Minute, after(11 * time.Minute)},
		{"neither", deadlineT{}, 0, time.Time{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			at, ok := deadlineIn(tt.t, start, tt.timeout)
			assert.Equal(t, tt.want, at)
			assert.Equal(t, !tt.want.IsZero(), ok)
		})
	}

	alarm, set := t.Deadline()
	for _, f := range []func(T) (time.Time, bool){deadline, setupDeadline} {
		at, ok := f(t)
		assert.Equal(t, set, ok)
		assert.Equal(t, alarm, at)
	}
}
