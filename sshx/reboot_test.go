package sshx_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

// A rebooter is a machine that can be restarted. No test can do that to the machine that it runs
// on, so a real sshd gets a boot id from a file, and a command "reboot" that says that it was
// called.
type rebooter struct {
	machine
	t      testing.TB
	bootID string // file; real machines only
	called string // file, made by the command
}

// onRebooters runs f against each machine that there is.
func onRebooters(t *testing.T, f func(t *testing.T, m *rebooter)) {
	t.Helper()
	t.Run("sshd", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		m := &rebooter{t: t, bootID: dir + "/boot_id", called: dir + "/called"}
		m.renew()
		text := "#!/bin/sh\n: >" + sshx.Quote(m.called) + "\nexec sleep 1000\n"
		require.NoError(t, os.WriteFile(dir+"/reboot", []byte(text), 0o755))
		sshd := newSSHD(t, "SetEnv HOME="+dir+" PATH="+dir+":/usr/bin:/bin")
		sshd.mount(t, map[string]string{"/proc/sys/kernel/random/boot_id": m.bootID})
		m.machine = sshd
		f(t, m)
	})
	t.Run("sshtest", func(t *testing.T) {
		t.Parallel()
		f(t, &rebooter{machine: newSim(t), t: t})
	})
}

// renew gives a real machine another boot id.
func (m *rebooter) renew() {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	id := fmt.Sprintf("%x-%x-%x-%x-%x\n", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	assert.NoError(m.t, os.WriteFile(m.bootID, []byte(id), 0o600))
}

// crash is a power cut, and a boot after it. job is one that dies of it, if any.
func (m *rebooter) crash(job *sshx.Job) {
	switch sim := m.machine.(type) {
	case *sim:
		sim.Halt()
		sim.Boot()
	default:
		if job != nil {
			b, err := os.ReadFile("/var/tmp/sshx." + job.ID() + "/pid")
			if assert.NoError(m.t, err) {
				group, _ := strconv.Atoi(strings.Fields(string(b))[0])
				assert.NoError(m.t, syscall.Kill(-group, syscall.SIGKILL))
			}
		}
		m.renew()
		drop(m.machine)
	}
}

func TestJobInterruptedByAReboot(t *testing.T) {
	t.Parallel()
	onRebooters(t, func(t *testing.T, m *rebooter) {
		c := dial(t, m)
		j, err := c.Detach(t.Context(), sshx.Cmd{Script: "echo up; sleep 1000"})
		require.NoError(t, err)
		if m.real() {
			t.Cleanup(func() { os.RemoveAll("/var/tmp/sshx." + j.ID()) })
		}
		var once sync.Once
		_, err = j.Follow(t.Context(), &lines{line: func(string) { once.Do(func() { m.crash(j) }) }})
		ie, ok := errors.AsType[*sshx.InterruptedError](err)
		require.True(t, ok, "%v", err)
		assert.Equal(t, j.ID(), ie.ID)
		assert.Equal(t, "up\n", string(ie.Output))
		assert.True(t, m.exists(t, "/var/tmp/sshx."+j.ID()+"/log"), "the log was removed")
	})
}

func TestRebootWaitsForANewBoot(t *testing.T) {
	t.Parallel()
	onRebooters(t, func(t *testing.T, m *rebooter) {
		c := dial(t, m, func(cfg *sshx.Config) {
			if !m.real() {
				cfg.User = "ops"
			}
		})
		before, err := c.BootID(t.Context())
		require.NoError(t, err)
		var said states
		said.f = func(state string) {
			// A real sshd that answers is still the old one, until its machine has restarted.
			if state == "not restarted yet" && m.real() {
				m.crash(nil)
			}
		}
		if m.real() { // the machine is going down
			done := make(chan struct{})
			go func() {
				defer close(done)
				assert.Eventually(t, func() bool { return m.exists(t, m.called) }, quick, quick/2000)
				drop(m.machine)
			}()
			defer func() { <-done }()
		}
		next, err := c.Reboot(t.Context(), sshx.Hurried(sshx.Ready{Report: said.report}))
		require.NoError(t, err)
		t.Cleanup(func() { next.Close() })
		<-c.Done()
		after, err := next.BootID(t.Context())
		require.NoError(t, err)
		assert.NotEqual(t, before, after)
		if m.real() {
			assert.Equal(t, []string{"not restarted yet", "ready"}, said.got)
		}
	})
}

func TestRebootThatIsRefusedIsAnError(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	require.NoError(t, m.Disk().Remove("/etc/sudoers.d/ops"))
	c := dial(t, m, func(cfg *sshx.Config) { cfg.User = "ops" })
	_, err := c.Reboot(t.Context(), sshx.Ready{})
	_, ok := errors.AsType[*sshx.SudoError](err)
	require.True(t, ok, "%v", err)
	require.NoError(t, c.Err(), "the connection is still of use")
}

func TestWaitReadyWantsOneBootToLast(t *testing.T) {
	t.Parallel()
	onRebooters(t, func(t *testing.T, m *rebooter) {
		var once sync.Once
		said := states{f: func(state string) {
			if state != "settling" {
				return
			}
			once.Do(func() {
				if m.real() {
					m.renew()
				} else {
					m.crash(nil)
				}
			})
		}}
		const settle = 100 * time.Millisecond
		begun := time.Now()
		c, err := sshx.WaitReady(t.Context(), m.config(t), sshx.Hurried(sshx.Ready{Settle: settle, Report: said.report}))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		assert.GreaterOrEqual(t, time.Since(begun), settle)
		again := "connection lost"
		if m.real() {
			again = "restarting"
		}
		assert.Equal(t, []string{"settling", again, "settling", "ready"}, said.got)
	})
}

func TestWaitReadyTakesNoTextForABootID(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := &rebooter{t: t, bootID: dir + "/boot_id"}
	require.NoError(t, os.WriteFile(m.bootID, []byte("Input/output error\n"), 0o600))
	sshd := newSSHD(t)
	sshd.mount(t, map[string]string{"/proc/sys/kernel/random/boot_id": m.bootID})
	said := states{f: func(state string) {
		if state == "no boot id" {
			m.renew()
		}
	}}
	ready := sshx.Ready{PreviousBootID: "00000000-0000-0000-0000-000000000000", Report: said.report}
	c, err := sshx.WaitReady(t.Context(), sshd.config(t), sshx.Hurried(ready))
	require.NoError(t, err)
	require.NoError(t, c.Close())
	assert.Equal(t, []string{"no boot id", "ready"}, said.got)
}
