package eventlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/pool/events"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	require.NoError(t, err)
	return l
}

func read(t *testing.T, dir string) events.Log {
	t.Helper()
	logs, err := events.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, logs, 1)
	return logs[0]
}

func TestWhatTakesTimeIsOneEvent(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	calls := map[string]int{"Login": 1}
	l := open(t, dir, Options{Set: "lab", Calls: func() map[string]int { return calls }})
	stage := l.Begin(events.Event{Kind: events.Stage, Stage: "golden", Count: 1})
	calls["CloneVM_Task"] = 2
	l.Write(events.Event{Kind: events.Note, Text: "meanwhile"})
	step := l.Begin(events.Event{Kind: events.Step, Name: "base"})
	never := l.Begin(events.Event{Kind: events.Step, Name: "endless"})
	step.End(errors.New("it broke"))
	stage.Set(func(e *events.Event) { e.Failed = 1 })
	stage.End(nil)
	stage.End(errors.New("too late"))
	l.WriteCalls()
	l.Close()

	log := read(t, dir)
	require.Len(t, log.Events, 6)
	assert.Equal(t, events.Version, log.About.Version)
	assert.Equal(t, dir, log.About.Events)
	got := map[string]events.Event{}
	for _, e := range log.Events[1:] {
		assert.Equal(t, "lab", e.Set)
		got[string(e.Kind)+e.Name] = e
	}
	s := got["stage"]
	assert.False(t, s.Open)
	assert.False(t, s.OK())
	assert.Equal(t, 1, s.Failed)
	assert.Empty(t, s.Error, "it ends once")
	assert.Equal(t, map[string]int{"CloneVM_Task": 2}, s.Calls)
	assert.Equal(t, "it broke", got["stepbase"].Error)
	assert.True(t, got["stependless"].Open, "the process ended before")
	assert.Positive(t, got["stependless"].Seconds)
	assert.Equal(t, map[string]int{"CloneVM_Task": 2, "Login": 1}, got["calls"].Calls)
	never.End(nil)
}

func TestAProcessHasOneFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			l := open(t, dir, Options{Set: fmt.Sprint(i)})
			defer l.Close()
			for range 20 {
				l.Begin(events.Event{Kind: events.Step, Name: "x"}).End(nil)
			}
		})
	}
	g.Wait()
	mu.Lock()
	f := files[dir]
	mu.Unlock()
	assert.Nil(t, f.f, "it is closed")
	late := open(t, dir, Options{Set: "late"})
	late.Write(events.Event{Kind: events.Note, Text: "later"})
	late.Close()
	log := read(t, dir)
	assert.Zero(t, log.Bad)
	require.Len(t, log.Events, 1+8*20+1)
	ids := map[int]bool{}
	for _, e := range log.Events[1:161] {
		assert.False(t, e.Open)
		ids[e.ID] = true
	}
	assert.Len(t, ids, 160)
	assert.Equal(t, "later", log.Events[161].Text)
}

func TestTextsAreShortAndWithoutSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{Redact: func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") }})
	text := "hunter2 " + strings.Repeat("ü", events.MaxText)
	want, got := "hunter2", text
	l.Write(events.Event{Kind: events.Check, Name: "hunter2", Text: text, Test: text, Error: text, Want: &want, Got: &got, Items: []events.Item{{Reason: text}}})
	l.Begin(events.Event{Kind: events.Step, Text: "hunter2"}).End(errors.New("hunter2 \xff"))
	l.Close()
	raw, err := os.ReadFile(read(t, dir).File)
	require.NoError(t, err)
	assert.NotContains(t, string(raw), "hunter2")
	e := read(t, dir).Events[1]
	assert.Equal(t, "***", *e.Want)
	for _, s := range []string{e.Text, e.Test, e.Error, *e.Got, e.Items[0].Reason} {
		assert.LessOrEqual(t, len(s), events.MaxText)
		assert.True(t, strings.HasPrefix(s, "*** ü") && strings.HasSuffix(s, "ü ..."), s[len(s)-10:])
		assert.True(t, utf8.ValidString(s))
	}
	assert.Equal(t, "*** \uFFFD", read(t, dir).Events[2].Error)
}

func TestAFileIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, Options{})
	l.file.size = events.MaxFile - 1<<20
	for range 10 {
		l.Write(events.Event{Kind: events.Note, Text: strings.Repeat("x", events.MaxText)})
	}
	l.Close()
	log := read(t, dir)
	assert.Equal(t, events.Cut, log.Events[len(log.Events)-1].Kind)
	assert.Less(t, len(log.Events), 6)
}

func TestADirectoryThatCannotBeMadeIsAnError(t *testing.T) {
	t.Parallel()
	_, err := Open("/dev/null/events", Options{})
	require.Error(t, err)
	var nobody *Log
	nobody.Write(events.Event{})
	nobody.Begin(events.Event{}).End(nil)
	nobody.WriteCalls()
	nobody.Close()
	assert.NoError(t, nobody.Err())
}

// BenchmarkSpan is what a step costs. The main job writes some 1000 lines.
func BenchmarkSpan(b *testing.B) {
	dir := b.TempDir()
	l := open(b, dir, Options{Set: "lab", Redact: func(s string) string { return s }})
	defer l.Close()
	for b.Loop() {
		if l.file.mu.Lock(); l.file.size > events.MaxFile/2 {
			l.file.size = 0
		}
		l.file.mu.Unlock()
		l.Begin(events.Event{Kind: events.Step, Stage: "ready con", Host: "con1", Role: "con", Pool: 1, Name: "dnsmasq"}).End(nil)
	}
}
