package lease

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestABuildOfManyPoolsWritesOneShardEachAndTwiceTheClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		var pools []int
		for n := range 50 {
			pools = append(pools, n+1)
		}
		x := mustClaim(t, f.process("builder"), pools...)
		assert.Equal(t, map[string]int{"build": 1}, f.writes)
		for _, n := range pools {
			_, _, err := f.process("bob").test(t, n)
			busy, ok := errors.AsType[*BusyError](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, Building, busy.State)
			assert.Equal(t, "builder", busy.Lease.Holder)
			require.NoError(t, x.Make(t.Context(), n, nil, Built("b1", &Proof{At: noon}, nil)))
			_, _, err = f.process("bob").test(t, n)
			require.ErrorAs(t, err, new(*BusyError), "the claim covers it until it is released")
		}
		require.NoError(t, x.ReleaseClaim(t.Context(), nil, pools, nil))
		for n := range 50 {
			assert.Equal(t, 1, f.written(poolShard(n+1)))
		}
		assert.Equal(t, 2, f.written("build"))
		y, was, err := f.process("bob").test(t, 7)
		require.NoError(t, err)
		assert.Equal(t, Clean, was.Stored)
		assert.Equal(t, "b1", was.Build)
		mustRelease(t, y)
	})
}

func TestABuilderThatDiesLeavesItsPoolsToTheNext(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		ended bool
		wait  time.Duration
	}{
		{"on another machine", false, 3 * time.Minute},
		{"on this machine", true, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				x := mustClaim(t, f.process("builder"), 1, 2)
				require.NoError(t, x.Make(t.Context(), 1, nil, Built("b1", nil, nil)))
				kill(x)
				next := f.process("next")
				next.ended = func(*Process) bool { return tt.ended }
				began := time.Now()
				var y *Held
				for y == nil {
					var err error
					if y, _, err = next.TakeClaim(t.Context(), ClaimRequest{Purpose: "building"}); err != nil {
						require.ErrorAs(t, err, new(*BusyError))
						time.Sleep(time.Second)
					}
				}
				assert.InDelta(t, tt.wait.Seconds(), time.Since(began).Seconds(), 2)
				s := f.read(t)
				assert.True(t, s.Made(1))
				assert.True(t, s.NeverHeld(2), "nobody has ever held it")
				require.NoError(t, y.ReleaseClaim(t.Context(), nil, []int{1}, nil))
				e, err := f.read(t).Pool(2)
				require.NoError(t, err)
				assert.Equal(t, Absent, e.State(f.read(t).Now))
				_, _, err = f.process("bob").test(t, 2)
				busy, ok := errors.AsType[*BusyError](err)
				require.True(t, ok)
				assert.Equal(t, Absent, busy.State, "whoever builds makes its shard")
				z, _ := mustAcquire(t, f.process("bob"), 1)
				mustRelease(t, z)
			})
		})
	}
}

// A builder wakes whose claim is over: what it makes late comes to nothing.
func TestALateBuilderMakesNoShard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		x := mustClaim(t, f.process("builder"), 1)
		kill(x)
		time.Sleep(4 * time.Minute)
		y := mustClaim(t, f.process("next"), 1)
		late := newHeld(x.l, 0)
		late.token, late.claim, late.ends = x.token, x.claim, time.Now().Add(time.Hour)
		require.ErrorIs(t, late.Make(t.Context(), 1, nil, Built("b1", nil, nil)), ErrLost)
		assert.Zero(t, f.written("pool-1"))
		require.NoError(t, y.ReleaseClaim(t.Context(), nil, nil, nil))
	})
}

func TestALostAnswerOnTheWayToAShardMakesItOnce(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{true, false} {
		t.Run(fmt.Sprint("the write is done: ", done), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				x := mustClaim(t, f.process("builder"), 1)
				faults := 0
				f.fault = func(shard string) (bool, error) {
					if shard == "pool-1" && faults == 0 {
						faults++
						return done, errors.New("no answer")
					}
					return true, nil
				}
				require.NoError(t, x.Make(t.Context(), 1, nil, Built("b1", nil, nil)))
				assert.Equal(t, 1, f.written("pool-1"))
				require.NoError(t, x.ReleaseClaim(t.Context(), nil, []int{1}, nil))
			})
		})
	}
}

func TestTheClaimIsRemovedByHand(t *testing.T) {
	t.Parallel()
	lose := func(f *fakeStore) { f.set(func() { delete(f.shards, claimShard) }) }
	t.Run("while its holder builds", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore()
			x := mustClaim(t, f.process("builder"), 1, 2)
			time.Sleep(10 * time.Minute)
			lose(f)
			for range 1200 { // longer than any state lasts
				_, _, err := f.process("bob").test(t, 1)
				require.ErrorAs(t, err, new(*BusyError))
				time.Sleep(time.Second)
			}
			_, _, err := f.process("bob").TakeClaim(t.Context(), ClaimRequest{Purpose: "building"})
			require.ErrorContains(t, err, "held by builder")
			require.NoError(t, x.Check())
			lose(f)
			require.NoError(t, x.Make(t.Context(), 2, nil, Built("b1", nil, nil)), "written again first")
			require.NoError(t, x.ReleaseClaim(t.Context(), nil, []int{2}, nil))
			y, _ := mustAcquire(t, f.process("bob"), 2)
			mustRelease(t, y)
		})
	})
	t.Run("after its holder died", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore()
			x := mustClaim(t, f.process("builder"), 1)
			kill(x)
			lose(f)
			y, was, took := soon(t, f.process("bob"), 1)
			assert.InDelta(t, 180, took.Seconds(), 2, "somebody may have had it")
			assert.Equal(t, Recovering, was.Stored)
			mustRelease(t, y)
		})
	})
	t.Run("while another waits for it", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore()
			x := mustClaim(t, f.process("builder"), 1)
			time.Sleep(time.Minute + time.Second)
			lose(f)
			for range 3600 {
				_, _, err := f.process("late").TakeClaim(t.Context(), ClaimRequest{Purpose: "building"})
				require.ErrorAs(t, err, new(*BusyError), "two build")
				time.Sleep(time.Second)
			}
			require.NoError(t, x.ReleaseClaim(t.Context(), nil, nil, nil))
			y := mustClaim(t, f.process("late"))
			require.NoError(t, y.ReleaseClaim(t.Context(), nil, nil, nil))
		})
	})
}

// A signal comes while a lease is being written: it is not there when the process has gone.
func TestALeaseThatIsGivenUpWhileItIsTakenIsNotLeftBehind(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		take func(ctx context.Context, l *Ledger) error
	}{
		{"of a pool", func(ctx context.Context, l *Ledger) error {
			_, _, err := l.Acquire(ctx, Request{Pool: 1, Purpose: "TestA"})
			return err
		}},
		{"the claim, which exists", func(ctx context.Context, l *Ledger) error {
			_, _, err := l.TakeClaim(ctx, ClaimRequest{Purpose: "building"})
			return err
		}},
		{"the claim, for the first time", func(ctx context.Context, l *Ledger) error {
			_, _, err := l.TakeClaim(ctx, ClaimRequest{Purpose: "building", Fresh: true})
			return err
		}},
	} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, the write is done late: %v", tt.name, late), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					f := newFakeStore()
					f.make(t, in(Dirty), 1)
					if strings.Contains(tt.name, "exists") {
						require.NoError(t, mustClaim(t, f.process("before")).ReleaseClaim(t.Context(), nil, nil, nil))
					}
					ctx, cancel := context.WithCancelCause(t.Context())
					first := true
					f.stray = func(write func()) error {
						if !first {
							return nil
						}
						first = false
						cancel(errors.New("stopped by signal"))
						if late {
							time.AfterFunc(time.Second, write) // vCenter goes on with the task
						} else {
							write()
						}
						return context.Canceled
					}
					require.ErrorContains(t, tt.take(ctx, f.process("alice")), "stopped by signal")
					time.Sleep(2 * time.Second)
					s := f.read(t)
					e, err := s.Pool(1)
					require.NoError(t, err)
					assert.Equal(t, Dirty, e.State(s.Now))
					h, err := s.Claim()
					require.NoError(t, err)
					assert.Nil(t, h)
				})
			})
		}
	}
}

func TestALeaseThatExpiresBeforeItIsConfirmedIsTakenAgainOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Dirty), 1)
		slow := 1
		f.fault = func(string) (bool, error) {
			if slow > 0 {
				slow--
				time.Sleep(170 * time.Second)
			}
			return true, nil
		}
		x, _ := mustAcquire(t, f.process("alice"), 1)
		require.NoError(t, x.Check())
		mustRelease(t, x)
		f.set(func() { slow = 5 })
		_, _, err := f.process("alice").test(t, 1)
		require.ErrorIs(t, err, ErrLost)
		assert.NotErrorAs(t, err, new(*BusyError), "to wait makes no sense")
	})
}

func TestALedgerThatCannotBeWrittenSaysSinceWhen(t *testing.T) {
	t.Parallel()
	t.Run("when a lease is asked for", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore()
			f.make(t, in(Dirty), 1)
			f.deaf = true
			began := time.Now()
			_, _, err := f.process("alice").test(t, 1)
			outage, ok := errors.AsType[*OutageError](err)
			require.True(t, ok, "%v", err)
			assert.Equal(t, "pool-1", outage.What)
			assert.WithinDuration(t, began, outage.Since, time.Second)
			assert.LessOrEqual(t, time.Since(began), 4*time.Minute, "no longer than a lease lasts, and the undoing of it")
		})
	})
	t.Run("when a lease is lost", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			f := newFakeStore()
			f.make(t, in(Dirty), 1)
			x, _ := mustAcquire(t, f.process("alice"), 1)
			f.set(func() { f.down = true })
			<-x.Context().Done()
			require.ErrorIs(t, x.Check(), ErrLost)
			require.ErrorContains(t, x.Check(), "no answer")
			<-x.gone
		})
	})
}

func TestABrokenPoolIsLeasedToOperationsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeStore()
		f.make(t, in(Broken), 1)
		_, _, err := f.process("alice").test(t, 1)
		busy, ok := errors.AsType[*BusyError](err)
		require.True(t, ok)
		assert.Equal(t, Broken, busy.State)
		for _, how := range []func(*Ledger, context.Context, Request) (*Held, Entry, error){(*Ledger).Operate, (*Ledger).Build} {
			x, was, err := how(f.process("alice"), t.Context(), Request{Pool: 1, Purpose: "reset"})
			require.NoError(t, err)
			assert.Equal(t, "no disk", was.Broken)
			mustRelease(t, x)
			assert.Equal(t, Broken, f.entry(t, 1).Stored, "as long as nobody has rebuilt it")
		}
	})
}

func TestLedgersOfOtherFormatsAreLeftAlone(t *testing.T) {
	t.Parallel()
	for _, shard := range []string{"pool-1", claimShard} {
		t.Run(shard, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				f.make(t, in(Dirty), 1)
				f.shards[shard] = Shard{Revision: "x", Values: map[string]string{entryKey: `{"poolready":1}`}}
				_, _, err := f.process("bob").test(t, 1)
				require.ErrorIs(t, err, ErrFormat)
				_, err = f.read(t).Pool(1)
				require.ErrorIs(t, err, ErrFormat)
				assert.Empty(t, f.writes)
			})
		})
	}
}

func TestTheLeaseOfAProcessThatHasEndedOnThisMachineIsTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, x := heldByAlice(t)
		kill(x)
		bob := f.process("bob")
		ended := false
		bob.ended = func(*Process) bool { return ended }
		_, _, err := bob.test(t, 1)
		require.ErrorAs(t, err, new(*BusyError))
		ended = true
		gone, err := bob.Free(t.Context(), 1)
		require.NoError(t, err)
		require.NotNil(t, gone)
		assert.Equal(t, "alice", gone.Holder)
		y, _ := mustAcquire(t, bob, 1)
		mustRelease(t, y)
	})
}

func TestNeverTwoBuildersNorABuilderAndATest(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			f := newFakeStore()
			var mu sync.Mutex
			roll := func(n int) int { mu.Lock(); defer mu.Unlock(); return rnd.IntN(n) }
			f.fault = unreliable(roll, 4*time.Second, 8)
			var holding *Held
			hold := func(x *Held, d time.Duration) {
				mu.Lock()
				if holding != nil {
					assert.Error(t, holding.Check(), "two have pool 1")
				}
				holding = x
				mu.Unlock()
				time.Sleep(d)
				mu.Lock()
				if holding == x {
					holding = nil
				}
				mu.Unlock()
			}
			var wg sync.WaitGroup
			for who := range 3 {
				l := f.process(fmt.Sprint("builder ", who))
				wg.Go(func() {
					for range 10 {
						x, _, err := l.TakeClaim(t.Context(), ClaimRequest{Purpose: "building", Fresh: true, Covers: func(s *Snapshot) []int {
							if s.Made(1) {
								return nil
							}
							return []int{1}
						}})
						if err != nil {
							time.Sleep(time.Duration(roll(60)) * time.Second)
							continue
						}
						s, err := l.Read(t.Context())
						if err != nil || s.Made(1) || len(s.Covered()) == 0 {
							_ = x.ReleaseClaim(t.Context(), nil, nil, nil)
							continue
						}
						hold(x, time.Duration(roll(400))*time.Second)
						if roll(3) == 0 {
							kill(x)
							continue
						}
						if x.Make(t.Context(), 1, nil, Built("b1", nil, nil)) == nil {
							_ = x.ReleaseClaim(t.Context(), nil, []int{1}, nil)
						} else {
							_ = x.ReleaseClaim(t.Context(), nil, nil, nil)
						}
					}
				})
				m := f.process(fmt.Sprint("test ", who))
				wg.Go(func() {
					for range 20 {
						x, _, err := m.test(t, 1)
						if err != nil {
							time.Sleep(time.Duration(roll(60)) * time.Second)
							continue
						}
						hold(x, time.Duration(roll(200))*time.Second)
						_ = x.Release(t.Context(), Released())
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestAProcessThatSleptWhileItLeasesTriesOnceMore(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]func(*Ledger) error{
		"a pool": func(l *Ledger) error {
			x, _, err := l.Acquire(context.Background(), Request{Pool: 1, Purpose: "test"})
			if err == nil {
				defer kill(x)
			}
			return err
		},
		"the claim": func(l *Ledger) error {
			x, _, err := l.TakeClaim(context.Background(), ClaimRequest{Purpose: "building", Fresh: true})
			if err == nil {
				defer kill(x)
			}
			return err
		},
	} {
		t.Run(name+", stopped", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				f.make(t, Entry{Stored: Clean}, 1)
				slept := false
				f.fault = func(string) (bool, error) {
					if slept {
						return true, nil
					}
					slept = true
					time.Sleep(f.process("").Term * 5 / 4) // nothing ends it: nothing runs
					return false, errors.New("the answer was lost")
				}
				require.NoError(t, take(f.process("a")))
			})
		})
		t.Run(name+", without an answer", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFakeStore()
				f.make(t, Entry{Stored: Clean}, 1)
				f.deaf = true
				began, l := time.Now(), f.process("a")
				require.ErrorIs(t, take(l), context.DeadlineExceeded)
				assert.GreaterOrEqual(t, time.Since(began), l.Term)
				assert.Less(t, time.Since(began), 2*l.Term)
			})
		})
	}
}
