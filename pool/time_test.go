package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLongWaitsSpeak(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var said []string
		p := &progress{start: time.Now(), logf: func(f string, a ...any) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, strings.TrimSpace(fmt.Sprintf(f, a...)))
		}}
		st := p.stage("ready con", 2)
		st.at("con1", "booting")
		st.at("con2", `step "dnsmasq"`)
		time.Sleep(45 * time.Second)
		st.finished("con1", "is pool-ready", 45*time.Second, nil)
		time.Sleep(11 * time.Second)
		st.finished("con2", "", 56*time.Second, errors.New("no route\nmore"))
		st.end()
		synctest.Wait()
		assert.Equal(t, []string{
			`[  10.0s] ready con 0/2: at work for 10s: con1: booting; con2: step "dnsmasq"`,
			`[  40.0s] ready con 0/2: at work for 40s: con1: booting; con2: step "dnsmasq"`,
			`[  45.0s] ready con 1/2: con1 is pool-ready in 45s`,
			`[  55.0s] ready con 1/2: at work for 55s: con2: step "dnsmasq"`,
			`[  56.0s] ready con 2/2: con2 FAILED after 56s: no route`,
			`[  56.0s] ready con: 1 of 2 failed, after 56s`,
		}, said)
	})
}

func TestPollReportsTheLastAnswerBesideTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		deadline := errors.New("no answer within its timeout (1m)")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, deadline)
		defer cancel()
		n := 0
		last := errors.New("SERVFAIL")
		err := poll(ctx, func(context.Context) error { n++; return last })
		assert.ErrorIs(t, err, deadline)
		assert.ErrorIs(t, err, last)
		assert.Equal(t, time.Minute, time.Since(start(t)))
		assert.Less(t, n, 30)
		require.NoError(t, poll(t.Context(), func(context.Context) error { return nil }))
	})
}

// start is when a bubble's clock begins.
func start(*testing.T) time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func TestLenderServesInTheOrderOfClaims(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLender()
		p := &Pool{Number: 1}
		l.add(p, true)
		got, clean, err := l.take(t.Context(), "TestA")
		require.NoError(t, err)
		assert.True(t, clean)
		assert.Same(t, p, got)
		var order []string
		var wg sync.WaitGroup
		for _, name := range []string{"TestB", "TestC", "TestD"} {
			wg.Go(func() {
				got, clean, err := l.take(t.Context(), name)
				assert.NoError(t, err)
				assert.False(t, clean, "a pool given back unclean")
				order = append(order, name)
				l.back(got)
				l.give(got, false)
			})
			synctest.Wait()
		}
		l.back(p)
		l.give(p, false)
		wg.Wait()
		assert.Equal(t, []string{"TestB", "TestC", "TestD"}, order)
	})
}

func TestLenderRefusesASecondClaimOfOneTest(t *testing.T) {
	t.Parallel()
	l := newLender()
	l.add(&Pool{Number: 1}, true)
	l.add(&Pool{Number: 2}, true)
	p, _, err := l.take(t.Context(), "TestA")
	require.NoError(t, err)
	_, _, err = l.take(t.Context(), "TestA/sub")
	assert.ErrorContains(t, err, "TestA holds one already")
	_, _, err = l.take(t.Context(), "TestAB")
	assert.NoError(t, err, "another test whose name begins alike")
	l.back(p)
	l.give(p, true)
	_, _, err = l.take(t.Context(), "TestA")
	assert.NoError(t, err, "a test that has given its pool back")
}

func TestLenderWaitsNoLongerThanTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLender()
		p := &Pool{Number: 7}
		l.add(p, true)
		_, _, err := l.take(t.Context(), "TestA")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err = l.take(ctx, "TestB")
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "pool 7 is held by TestA")
		l.back(p)
		_, _, err = l.take(ctx, "TestB")
		assert.ErrorContains(t, err, "pool 7 is being reset after TestA")
		l.give(p, true)
		_, clean, err := l.take(t.Context(), "TestC")
		assert.NoError(t, err, "a claim that was withdrawn is not served")
		assert.True(t, clean)
	})
}

func TestLenderSaysWhenNoPoolIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLender()
		p := &Pool{Number: 1}
		l.add(p, true)
		_, _, err := l.take(t.Context(), "TestA")
		require.NoError(t, err)
		failed := make(chan error)
		go func() {
			_, _, err := l.take(t.Context(), "TestB")
			failed <- err
		}()
		synctest.Wait()
		l.lose(p, errors.New("con1: reset: no answer"))
		assert.ErrorContains(t, <-failed, "no pool is left: con1: reset: no answer")
		_, _, err = l.take(t.Context(), "TestC")
		assert.ErrorContains(t, err, "no pool is left")
	})
}

func TestCleanPoolsAreLentFirst(t *testing.T) {
	t.Parallel()
	l := newLender()
	for n, clean := range []bool{false, true, false, true} {
		l.add(&Pool{Number: n + 1}, clean)
	}
	var order []int
	for i := range 4 {
		p, _, err := l.take(t.Context(), fmt.Sprint("Test", i))
		require.NoError(t, err)
		order = append(order, p.Number)
	}
	assert.Equal(t, []int{2, 4, 1, 3}, order)
}
