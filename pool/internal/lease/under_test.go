package lease

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// holdUnder leases pools under the claim, as who removes a set does.
func holdUnder(t *testing.T, claim *Held, pools ...int) (all []*Held) {
	t.Helper()
	for _, n := range pools {
		x, _, err := claim.l.Operate(t.Context(), Request{Pool: n, Purpose: "destroy", Under: claim})
		require.NoError(t, err)
		all = append(all, x)
	}
	return all
}

func TestLeasesUnderAClaimLastAsLongAsItWithoutBeingWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1, 2)
		claim := mustClaim(t, f.process("destroyer"))
		all := holdUnder(t, claim, 1, 2)
		for range 48 {
			time.Sleep(time.Hour)
			_, _, err := f.process("bob").test(t, 1)
			require.ErrorAs(t, err, new(*BusyError))
			e, err := f.read(t).Pool(2)
			require.NoError(t, err)
			s := f.read(t)
			assert.Less(t, e.Holder(s.Now).ExpiresAt.Sub(s.Now), 4*time.Minute, "what is told is when the claim expires")
			require.NoError(t, all[0].Check())
			require.NoError(t, all[1].Confirm(t.Context()))
		}
		assert.Equal(t, 1, f.written("pool-1"))
		assert.Equal(t, 1, f.written("pool-2"))
		for _, x := range all {
			mustRelease(t, x)
		}
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
		x, _ := mustAcquire(t, f.process("bob"), 1)
		mustRelease(t, x)
	})
}

func TestLeasesUnderAClaimAreOverWithIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, f *fakeStore, claim *Held)
		gone bool // bob sees that its holder has ended
		wait time.Duration
	}{
		{"its holder died on another machine", func(_ *testing.T, _ *fakeStore, claim *Held) { kill(claim) }, false, 3 * time.Minute},
		{"its holder died on this machine", func(_ *testing.T, _ *fakeStore, claim *Held) { kill(claim) }, true, 0},
		{"it was released", func(t *testing.T, _ *fakeStore, claim *Held) {
			require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
		}, false, 0},
		{"it was lost, and its holder died", func(t *testing.T, f *fakeStore, claim *Held) {
			kill(claim)
			f.set(func() { delete(f.shards, claimShard) })
			_, _, err := f.process("next").TakeClaim(t.Context(), ClaimRequest{})
			require.ErrorAs(t, err, new(*BusyError), "it may write it again for as long as a lease lasts")
		}, false, 3 * time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				f.make(t, in(Dirty), 1)
				l := f.process("destroyer")
				l.self = &Process{PID: 1}
				claim := mustClaim(t, l)
				x := holdUnder(t, claim, 1)[0]
				tt.end(t, f, claim)
				synctest.Wait()
				require.Error(t, x.Check())
				require.Error(t, x.Context().Err())
				bob := f.process("bob")
				bob.ended = func(p *Process) bool { return tt.gone && p != nil && p.PID == 1 }
				y, _, took := soon(t, bob, 1)
				assert.InDelta(t, tt.wait.Seconds(), took.Seconds(), 2)
				mustRelease(t, y)
			})
		})
	}
}

// What keeps a lease under a claim while the claim is not there to say so: its holder writes that again.
func TestALeaseUnderALostClaimIsTakenAwayByNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1)
		claim := mustClaim(t, f.process("destroyer"))
		x := holdUnder(t, claim, 1)[0]
		time.Sleep(10 * time.Minute)
		f.set(func() { delete(f.shards, claimShard) })
		for range 600 {
			_, _, err := f.process("bob").test(t, 1)
			require.ErrorAs(t, err, new(*BusyError))
			time.Sleep(time.Second)
		}
		require.NoError(t, x.Check())
		mustRelease(t, x)
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
	})
}

// A tornStore has the claim, in readings of several shards, as it was before.
type tornStore struct {
	*fakeStore

	claim Shard
}

func (s tornStore) Read(ctx context.Context, shards ...string) (*Contents, error) {
	c, err := s.fakeStore.Read(ctx, shards...)
	if err == nil && len(shards) != 1 {
		c.Shards[claimShard] = s.claim
	}
	return c, err
}

// Shards that are read together are read one after the other: the claim before it was taken, and the pool's
// after it was leased.
func TestALeaseUnderAClaimThatIsReadTooEarlyIsNotOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1)
		before := mustClaim(t, f.process("builder"))
		require.NoError(t, before.ReleaseClaim(t.Context(), nil, nil, nil))
		torn := tornStore{f, f.shards[claimShard]}
		claim := mustClaim(t, f.process("destroyer"))
		x := holdUnder(t, claim, 1)[0]

		bob := f.process("bob")
		bob.Store = torn
		_, _, err := bob.test(t, 1)
		busy, ok := errors.AsType[*BusyError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, "destroyer", busy.Lease.Holder)
		all, err := bob.Read(t.Context())
		require.NoError(t, err)
		e, err := all.Pool(1)
		require.NoError(t, err)
		assert.Equal(t, Leased, e.State(all.Now))

		mustRelease(t, x)
		require.NoError(t, claim.ReleaseClaim(t.Context(), nil, nil, nil))
	})
}
