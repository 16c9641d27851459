package sshx_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

// states records what WaitReady reports, and calls f with each.
type states struct {
	mu  sync.Mutex
	got []string
	f   func(string)
}

func (s *states) report(state string) {
	s.mu.Lock()
	s.got = append(s.got, state)
	s.mu.Unlock()
	if s.f != nil {
		s.f(state)
	}
}

func TestWaitReadyReportsChangesOnly(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.StopSSHD()
	var said states
	said.f = func(state string) {
		switch state {
		case "hangs up", "reset", "refused":
			m.SetFaults(sshtest.Faults{Booting: "System is booting up.\nWait for hunter2."})
			require.NoError(t, m.StartSSHD())
		case "sshd hangs up: System is booting up. Wait for ***.":
			m.SetFaults(sshtest.Faults{})
		}
	}
	cfg := m.config(t)
	cfg.Secrets = []string{"hunter2"}
	c, err := sshx.WaitReady(t.Context(), cfg, sshx.Hurried(sshx.Ready{Report: said.report}))
	require.NoError(t, err)
	c.Close()
	require.Len(t, said.got, 3)
	assert.Equal(t, []string{"sshd hangs up: System is booting up. Wait for ***.", "ready"}, said.got[1:])
}

func TestWaitReadyTellsWhatItSawWhenItGivesUp(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.SetFaults(sshtest.Faults{Booting: "System is booting up."})
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	_, err := sshx.WaitReady(ctx, m.config(t), sshx.Ready{Report: func(string) { cancel(errors.New("enough")) }})
	nr, ok := errors.AsType[*sshx.NotReadyError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, "m1", nr.Host)
	assert.Equal(t, 1, nr.Tries)
	assert.Equal(t, "System is booting up.", nr.Banner)
	require.Len(t, nr.States, 1)
	assert.ErrorContains(t, err, "enough")
	assert.ErrorContains(t, err, "booting up")
}

func TestWaitReadyEndsAtOnceWhereTryingIsPointless(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		other, _ := newKey(t)
		cfg := m.config(t)
		cfg.HostKeys = sshx.HostKeys{Pinned: []string{sshx.AuthorizedKey(other.PublicKey())}}
		_, err := sshx.WaitReady(t.Context(), cfg, sshx.Ready{})
		hk, ok := errors.AsType[*sshx.HostKeyError](err)
		require.True(t, ok, "%v", err)
		assert.True(t, hk.Changed())
		assert.Equal(t, 1, strings.Count(err.Error(), "does not match"), "%v", err)
		cfg.HostKeys = sshx.HostKeys{}
		_, err = sshx.WaitReady(t.Context(), cfg, sshx.Ready{FirstBoot: true})
		_, ok = errors.AsType[*sshx.HostKeyError](err)
		require.True(t, ok, "nothing can become right: %v", err)

		cfg = m.config(t)
		cfg.Keys = []ssh.Signer{other}
		_, err = sshx.WaitReady(t.Context(), cfg, sshx.Ready{AuthGrace: 1})
		_, ok = errors.AsType[*sshx.AuthError](err)
		require.True(t, ok, "%v", err)
		nr, ok := errors.AsType[*sshx.NotReadyError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, 1, nr.Tries)
	})
}

func TestWaitReadyEndsAtOnceWhereNoAlgorithmIsCommon(t *testing.T) {
	t.Parallel()
	m := newSSHD(t, "Ciphers 3des-cbc")
	_, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Ready{})
	nr, ok := errors.AsType[*sshx.NotReadyError](err)
	require.True(t, ok, "%v", err)
	assert.Equal(t, 1, nr.Tries)
	require.ErrorContains(t, err, "3des-cbc")
}

func TestWaitReadyThroughAJumpHost(t *testing.T) {
	t.Parallel()
	hop, inner := newSim(t), newSim(t)
	connect(hop, nil)
	cfg := inner.config(t)
	cfg.Jump = []sshx.Config{hop.config(t)}
	cfg.Jump[0].Name = "hop"
	wrong, _ := newKey(t)
	hop.SetFaults(sshtest.Faults{RefuseAuth: true})
	here := "127.0.0.1:1"
	said := states{f: func(state string) {
		switch state {
		case "jump host hop: login refused":
			hop.SetFaults(sshtest.Faults{})
		case "not reached: connect failed (Connection refused)":
			here = inner.addr
		}
	}}
	address := func(context.Context) (string, error) { return here, nil }
	c, err := sshx.WaitReady(t.Context(), cfg, sshx.Hurried(sshx.Ready{Address: address, Report: said.report}))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	assert.Equal(t, []string{"jump host hop: login refused", "not reached: connect failed (Connection refused)", "ready"}, said.got)

	cfg.Jump[0].HostKeys = sshx.HostKeys{Pinned: []string{sshx.AuthorizedKey(wrong.PublicKey())}}
	_, err = sshx.WaitReady(t.Context(), cfg, sshx.Ready{FirstBoot: true})
	hk, ok := errors.AsType[*sshx.HostKeyError](err)
	require.True(t, ok, "it is not the jump host's first boot: %v", err)
	assert.Equal(t, "hop", hk.Host)
}

func TestWaitReadyBearsARefusedLoginForAWhile(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	m.SetFaults(sshtest.Faults{RefuseAuth: true})
	said := states{f: func(state string) {
		if state == "login refused" {
			m.SetFaults(sshtest.Faults{})
		}
	}}
	begun := time.Now()
	c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(sshx.Ready{Report: said.report}))
	require.NoError(t, err)
	c.Close()
	assert.Equal(t, []string{"login refused", "ready"}, said.got)
	assert.Equal(t, 2, m.connections(), "no knocking in between, no bare probes")
	assert.GreaterOrEqual(t, time.Since(begun), 5*time.Second/50, "OpenSSH counts refused logins for 5 s")
}

func TestWaitReadyOnFirstBootWaitsForTheRightKey(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	right := m.config(t)
	right.HostKeys.Pinned = slices.DeleteFunc(right.HostKeys.Pinned, func(k string) bool { return !strings.HasPrefix(k, "ssh-ed25519 ") })
	final, err := m.Disk().ReadFile("/etc/ssh/ssh_host_ed25519_key")
	require.NoError(t, err)
	finalPub := m.read(t, "/etc/ssh/ssh_host_ed25519_key.pub")
	require.NoError(t, m.Disk().RemoveHostKeys())
	m.Boot()
	said := states{f: func(state string) {
		if state == "host key not yet right" {
			assert.NoError(t, m.Disk().WriteFile("/etc/ssh/ssh_host_ed25519_key", final, 0o600))
			assert.NoError(t, m.Disk().WriteFile("/etc/ssh/ssh_host_ed25519_key.pub", []byte(finalPub), 0o644))
			m.Boot()
		}
	}}
	c, err := sshx.WaitReady(t.Context(), right, sshx.Hurried(sshx.Ready{FirstBoot: true, Settle: 10 * time.Millisecond, Report: said.report}))
	require.NoError(t, err)
	c.Close()
	assert.Equal(t, []string{"host key not yet right", "settling", "ready"}, said.got)
}

func TestWaitReadyWantsANewBoot(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	old := m.BootID()
	said := states{f: func(state string) {
		if state == "not restarted yet" {
			m.Halt()
			m.Boot()
		}
	}}
	c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(sshx.Ready{PreviousBootID: old, Report: said.report}))
	require.NoError(t, err)
	defer c.Close()
	id, err := c.BootID(t.Context())
	require.NoError(t, err)
	assert.NotEqual(t, old, id)
	assert.Equal(t, []string{"not restarted yet", "ready"}, said.got)
}

func TestWaitReadyCountsRefusedLoginsFromTheNewBoot(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	const grace = 300 * time.Millisecond
	said := states{f: func(state string) {
		switch state {
		case "not restarted yet":
			time.Sleep(grace) // it takes its time over going down
			m.Halt()
			m.SetFaults(sshtest.Faults{RefuseAuth: true})
			m.Boot()
		case "login refused":
			m.SetFaults(sshtest.Faults{})
		}
	}}
	ready := sshx.Ready{PreviousBootID: m.BootID(), AuthGrace: grace, Report: said.report}
	c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(ready))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	assert.Equal(t, []string{"not restarted yet", "login refused", "ready"}, said.got)
}

// gated returns a machine whose systemctl and cloud-init say one answer after the other.
func gated(t *testing.T, system, cloud []string) *sim {
	t.Helper()
	m := newSim(t)
	m.Halt()
	var mu sync.Mutex
	say := func(answers *[]string) sshtest.Command {
		return func(_ context.Context, p *sshtest.Proc) int {
			mu.Lock()
			defer mu.Unlock()
			if p.Args[1] == "list-jobs" {
				fmt.Fprintln(p.Stdout, "12 slow.service start running")
				return 0
			}
			a := (*answers)[0]
			if len(*answers) > 1 {
				*answers = (*answers)[1:]
			}
			fmt.Fprintln(p.Stdout, a)
			return 1 // as systemctl does for all but running
		}
	}
	m.Commands = map[string]sshtest.Command{"systemctl": say(&system), "cloud-init": say(&cloud)}
	m.Boot()
	require.NoError(t, m.Disk().MkdirAll("/run/systemd/system", 0o755))
	return m
}

func TestWaitReadyWaitsForTheSystem(t *testing.T) {
	t.Parallel()
	m := gated(t, []string{"initializing", "starting", "starting", "degraded"}, []string{
		"status: running", "status: running", "status: running", "status: running", "status: done\ndetail: x",
	})
	var said states
	c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(sshx.Ready{SystemState: true, CloudInit: true, Report: said.report}))
	require.NoError(t, err)
	c.Close()
	assert.Equal(t, []string{"system initializing", "system starting", "cloud-init running", "ready"}, said.got)
	assert.Equal(t, 1, m.connections(), "gates are looked through over one connection")

	m = gated(t, []string{"maintenance"}, []string{"x"})
	_, err = sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(sshx.Ready{SystemState: true}))
	require.ErrorContains(t, err, "maintenance mode")
	m = gated(t, []string{"running"}, []string{"status: error"})
	_, err = sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(sshx.Ready{CloudInit: true}))
	require.ErrorContains(t, err, "cloud-init failed")
	m = gated(t, []string{"starting"}, []string{"x"})
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	_, err = sshx.WaitReady(ctx, m.config(t), sshx.Hurried(sshx.Ready{SystemState: true, Report: func(string) { cancel(enough) }}))
	require.ErrorIs(t, err, enough)
	require.ErrorContains(t, err, "waiting for: 12 slow.service start running")
}

func TestWaitReadyOnARealMachine(t *testing.T) {
	t.Parallel()
	m := newSSHD(t)
	c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Ready{})
	require.NoError(t, err)
	c.Close()
}

func TestWaitReadyKnocksGently(t *testing.T) {
	t.Parallel()
	key, _ := newKey(t)
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var at []time.Duration
		cfg := sshx.Config{Name: "m1", Keys: []ssh.Signer{key}, HostKeys: sshx.HostKeys{InsecureIgnore: true}}
		cfg.Dialer = dialerFunc(func(context.Context, string, string) (net.Conn, error) {
			at = append(at, time.Since(begun))
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		})
		asked := 0
		var said states
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		_, err := sshx.WaitReady(ctx, cfg, sshx.Ready{Report: said.report, Address: func(context.Context) (string, error) {
			if asked++; asked == 1 {
				return "", nil
			}
			return "10.0.0.1", nil
		}})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		nr, ok := errors.AsType[*sshx.NotReadyError](err)
		require.True(t, ok)
		assert.Equal(t, []string{"no address", "refused"}, said.got)
		assert.Equal(t, 5*time.Minute, nr.Took)
		assert.Equal(t, nr.Tries, len(at)+1)
		assert.Less(t, at[0], 1200*time.Millisecond, "the address came with the second attempt")
		var gaps []time.Duration
		for i := 1; i < len(at); i++ {
			gaps = append(gaps, at[i]-at[i-1])
		}
		assert.GreaterOrEqual(t, slices.Min(gaps), 180*time.Millisecond)
		assert.LessOrEqual(t, slices.Max(gaps), 1100*time.Millisecond)
		assert.InDelta(t, 300, len(at), 30)
	})
}

func TestWaitReadyBearsPamNologin(t *testing.T) {
	t.Parallel()
	const text = "System is booting up. Unprivileged users are not permitted to log in yet."
	m := newBooting(t, text+"\n")
	cfg := m.config(t)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	_, err := sshx.WaitReady(ctx, cfg, sshx.Ready{Report: func(string) { cancel(enough) }})
	nr, ok := errors.AsType[*sshx.NotReadyError](err)
	require.True(t, ok, "%v", err)
	require.ErrorIs(t, err, enough)
	require.ErrorContains(t, err, text)
	assert.Equal(t, text, nr.Banner)
	de, ok := errors.AsType[*sshx.DialError](err)
	require.True(t, ok, "no key was refused: %v", err)
	assert.True(t, de.Reached)

	asRoot := cfg
	asRoot.User = "root" // who is let in, whatever state the machine is in
	c, err := sshx.WaitReady(t.Context(), asRoot, sshx.Ready{})
	require.NoError(t, err)
	require.NoError(t, c.Close())

	said := states{f: func(state string) {
		if state != "ready" {
			assert.NoError(t, os.Remove(m.nologin))
		}
	}}
	c, err = sshx.WaitReady(t.Context(), cfg, sshx.Hurried(sshx.Ready{AuthGrace: 1, Report: said.report}))
	require.NoError(t, err)
	assert.Equal(t, []string{"sshd hangs up: " + text, "ready"}, said.got)
	require.NoError(t, c.Close())
}

func TestWaitReadyFollowsAMachineThatMoves(t *testing.T) {
	t.Parallel()
	key, _ := newKey(t)
	for name, c := range map[string]struct {
		silent bool // dials wait for an answer that does not come, else they are refused
		moves  bool // to another address, else it may answer now
	}{
		"a silent address":          {silent: true, moves: true},
		"a pause":                   {moves: true},
		"a silent one that answers": {silent: true},
		"a pause, and it answers":   {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				moved := make(chan struct{}, 1)
				var mu sync.Mutex // guards what follows
				at, up := "10.0.0.1:22", false
				var once sync.Once
				begun := time.Now()
				cfg := sshx.Config{Name: "m1", Keys: []ssh.Signer{key}, HostKeys: sshx.HostKeys{InsecureIgnore: true}}
				cfg.Dialer = dialerFunc(func(ctx context.Context, _, address string) (net.Conn, error) {
					mu.Lock()
					now, where := up, at
					mu.Unlock()
					if now {
						assert.Equal(t, where, address)
						cancel(errors.New("enough"))
						return nil, net.ErrClosed
					}
					once.Do(func() {
						time.AfterFunc(100*time.Millisecond, func() {
							mu.Lock()
							if up = true; c.moves {
								at = "10.0.0.2:22"
							}
							mu.Unlock()
							moved <- struct{}{}
						})
					})
					if c.silent {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
				})
				_, err := sshx.WaitReady(ctx, cfg, sshx.Ready{
					Moved: moved, Address: func(context.Context) (string, error) {
						mu.Lock()
						defer mu.Unlock()
						return at, nil
					},
				})
				require.ErrorContains(t, err, "enough")
				assert.Equal(t, 100*time.Millisecond, time.Since(begun))
			})
		})
	}
}
