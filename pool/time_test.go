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
			`[  10.0s] ready con 0/2: running for 10s: con1: booting; con2: step "dnsmasq"`,
			`[  40.0s] ready con 0/2: running for 40s: con1: booting; con2: step "dnsmasq"`,
			`[  45.0s] ready con 1/2: con1 is pool-ready in 45s`,
			`[  55.0s] ready con 1/2: running for 55s: con2: step "dnsmasq"`,
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
		assert.Less(t, n, 80)
		require.NoError(t, poll(t.Context(), func(context.Context) error { return nil }))
	})
}

// start is when a bubble's clock begins.
func start(*testing.T) time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func TestTheQueueServesInTheOrderOfArrival(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newQueue()
		first, err := d.next(t.Context(), false)
		require.NoError(t, err)
		var order []string
		var wg sync.WaitGroup
		for _, name := range []string{"TestB", "TestC", "TestD"} {
			wg.Go(func() {
				done, err := d.next(t.Context(), false)
				assert.NoError(t, err)
				order = append(order, name)
				done()
			})
			synctest.Wait()
		}
		wg.Go(func() {
			done, err := d.next(t.Context(), true)
			assert.NoError(t, err)
			order = append(order, "again")
			done()
		})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("too late"))
		defer cancel()
		_, err = d.next(ctx, false)
		require.ErrorContains(t, err, "too late")
		first()
		wg.Wait()
		assert.Equal(t, []string{"again", "TestB", "TestC", "TestD"}, order)
	})
}

func TestTheQueueRefusesASecondClaimOfOneTest(t *testing.T) {
	t.Parallel()
	d := newQueue()
	require.NoError(t, d.join("TestA"))
	require.ErrorContains(t, d.join("TestA"), "TestA waits for a pool already")
	d.hold("TestA", 2)
	require.ErrorContains(t, d.join("TestA/sub"), "TestA holds pool 2 already")
	require.NoError(t, d.join("TestAB"), "another test whose name begins alike")
	d.leave("TestA")
	require.NoError(t, d.join("TestA"), "a test that has released its pool")
}
