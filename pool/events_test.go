package pool_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/sshx"
)

// recorded are the events of the one file in a directory.
func recorded(t *testing.T, dir string) events.Log {
	t.Helper()
	logs, err := events.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, logs, 1, "one file of one process")
	assert.Zero(t, logs[0].Bad)
	return logs[0]
}

// told are the events of a kind, by format's verbs for stage, host, pool, test, name and how it ended.
func told(log events.Log, kind events.Kind) (all []string) {
	for _, e := range log.Events {
		if e.Kind == kind {
			how := "ok"
			switch {
			case e.Open:
				how = "open"
			case !e.OK():
				how = "failed"
			}
			all = append(all, strings.Join(strings.Fields(fmt.Sprint(e.Stage, " ", e.Host, " ", e.Test, " ", e.Name, " ", how)), " "))
		}
	}
	return all
}

func TestARunIsRecorded(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	spec := r.spec(2)
	spec.Events = t.TempDir()
	spec.SSH.Secrets = []string{"hunter2hunter2"}
	spec.Golden.Checks = append(spec.Golden.Checks, pool.Check{Name: "own", Version: "1", Do: func(context.Context, *pool.Host) (string, error) {
		return "hunter2hunter2", nil // not from SSH, which takes it out
	}})
	set := r.open(spec)
	first, second := testOf(t, "TestMirror"), testOf(t, "TestOther")
	p := set.Acquire(first)
	set.Acquire(second)
	_, _ = p.Host("con").Run(t.Context(), "sh", "-c", "echo it is broken; exit 9")
	first.failed = true
	waits := make(chan struct{})
	go func() { // it waits until the reset is over
		defer close(waits)
		third := testOf(t, "TestThird")
		third.acquire(set)
		third.end()
	}()
	require.Eventually(t, func() bool { return slices.Contains(told(recorded(t, spec.Events), events.Acquire), "TestThird open") }, 10*time.Second, 10*time.Millisecond)
	first.end()
	<-waits
	second.end()
	require.NoError(t, set.Close())

	log := recorded(t, spec.Events)
	assert.Equal(t, os.Getpid(), log.About.PID)
	assert.Equal(t, spec.Events, log.About.Events)
	for kind, want := range map[events.Kind][]string{
		events.Setup: {"set up ok"},
		events.Stage: {"golden ok", "clone con ok", "clone dis ok", "ready con ok", "ready dis ok"},
		events.Step: {
			"golden golden base ok", "ready con con1 serve ok", "ready con con2 serve ok",
			"ready dis dis1 use ok", "ready dis dis2 use ok",
		},
		events.Need: {"ready dis dis1 service ok", "ready dis dis2 service ok"},
		events.Host: {
			"golden golden ok", "clone con con1 ok", "clone con con2 ok", "clone dis dis1 ok", "clone dis dis2 ok",
			"ready con con1 ok", "ready con con2 ok", "ready dis dis1 ok", "ready dis dis2 ok",
		},
		events.Check: {
			"golden golden base ok", "golden golden own ok", "ready con con1 base ok", "ready con con1 served ok", "ready con con2 base ok",
			"ready con con2 served ok", "ready dis dis1 used ok", "ready dis dis2 used ok",
		},
		events.Acquire: {"TestMirror ok", "TestOther ok", "TestThird ok"},
		events.Test:    {"TestMirror failed", "TestOther ok", "TestThird ok"},
		events.Calls:   {"ok"},
	} {
		got := told(log, kind)
		slices.Sort(got)
		slices.Sort(want)
		var some []string // resets run the roles' needs again
		for _, line := range got {
			if kind != events.Need || !strings.HasPrefix(line, "reset") {
				some = append(some, line)
			}
		}
		assert.Equal(t, want, some, kind)
	}
	assert.Contains(t, told(log, events.Wait), "TestThird TestThird: waiting for a pool ok")
	assert.Contains(t, told(log, events.Reset), "TestMirror ok")
	assert.Contains(t, told(log, events.Lease), "building ok")
	assert.Contains(t, told(log, events.Lease), "TestOther ok")
	assert.Contains(t, told(log, events.Phase), "golden golden boot ok")
	assert.Contains(t, told(log, events.Phase), "reset con1 TestMirror revert ok")
	for _, e := range log.Events {
		assert.False(t, e.Open, "%+v", e)
		assert.NotContains(t, fmt.Sprintf("%+v", e), "hunter2", "it is a secret")
		switch {
		case e.Kind == events.Plan:
			require.Len(t, e.Items, 5)
			assert.Equal(t, events.Item{VM: "con1", Role: "con", Pool: 1, Action: "clone", Reason: "does not exist"}, e.Items[1])
			assert.NotZero(t, e.Expect)
		case e.Kind == events.Wait && e.Test == "TestThird":
			assert.Contains(t, e.Text, "TestMirror", "for whom it waits")
		case e.Kind == events.Test && e.Test == "TestMirror":
			assert.Contains(t, e.Error, "exit 9")
			assert.FileExists(t, filepath.Join(e.Evidence, "con1", "journal.txt"))
			assert.Equal(t, "reset", e.Text)
		case e.Kind == events.Check && e.Name == "served" && e.Host == "con2":
			assert.Equal(t, "served by con2", *e.Want)
			assert.Equal(t, "served by con2", *e.Got)
		case e.Kind == events.Check && e.Name == "own":
			assert.Equal(t, "***", *e.Got)
		case e.Kind == events.Stage && e.Stage == "clone con":
			assert.Equal(t, 2, e.Count)
			assert.Equal(t, 2, e.Calls["CloneVM_Task"])
		case e.Kind == events.Calls:
			assert.Equal(t, 5, e.Calls["CloneVM_Task"])
		}
	}
}

func TestAFailureIsRecorded(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.spec(2)
	spec.Events, spec.MinPools = t.TempDir(), 1
	spec.Evidence.Dir = t.TempDir()
	spec.Roles[0].Checks = append(spec.Roles[0].Checks, pool.ScriptCheck("whole", "con1", `echo "$NAME"`))
	r.open(spec).Close()
	log := recorded(t, spec.Events)
	assert.Contains(t, told(log, events.Check), "ready con con2 whole failed")
	assert.Contains(t, told(log, events.Host), "ready con con2 failed")
	assert.NotContains(t, told(log, events.Host), "ready dis dis2 ok", "it is not begun")
	require.Equal(t, []string{"ready con con2 failed"}, told(log, events.Failure))
	i := slices.IndexFunc(log.Events, func(e events.Event) bool { return e.Kind == events.Failure })
	e := log.Events[i]
	assert.True(t, e.Infrastructure)
	assert.Equal(t, 2, e.Pool)
	assert.Contains(t, e.Error, `want "con1", got "con2"`)
	assert.DirExists(t, e.Evidence)
}

// TestRecordingCostsNoCall compares what a build, a test and a reset ask the provider and the hosts for,
// with and without a record.
func TestRecordingCostsNoCall(t *testing.T) {
	t.Parallel()
	var calls, commands [2][]string
	for i := range 2 {
		r := newMemory(t)
		spec := r.spec(1)
		if i == 1 {
			spec.Events = t.TempDir()
		} else {
			spec.Events = os.DevNull + "/none" // else that of the tests' POOLREADY_DIR
		}
		var mu sync.Mutex
		spec.SSH.Observe = func(o sshx.Observation) {
			mu.Lock()
			defer mu.Unlock()
			commands[i] = append(commands[i], o.Host+": "+o.What)
		}
		set := r.open(spec)
		test := testOf(t, "TestMirror")
		set.Acquire(test)
		test.end()
		require.Eventually(t, func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return strings.Contains(r.said[len(r.said)-1], "reset in")
		}, 10*time.Second, 10*time.Millisecond)
		require.NoError(t, set.Close())
		for _, c := range r.mem.Calls() {
			if c.Method != "Address" || !slices.Contains(calls[i], c.String()) { // it is called until the machine answers
				calls[i] = append(calls[i], c.String())
			}
		}
		slices.Sort(calls[i])
		slices.Sort(commands[i])
	}
	assert.NotEmpty(t, calls[0])
	assert.Equal(t, calls[0], calls[1])
	assert.Equal(t, commands[0], commands[1])
}
