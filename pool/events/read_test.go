package events_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool/events"
)

const lines = `{"time":"2026-01-01T10:00:00Z","kind":"process","process":{"version":1,"program":"e2e.test","directory":"/w","events":"/w/out/events","user":"u","machine":"m","pid":7}}
{"time":"2026-01-01T10:00:01Z","kind":"stage","id":1,"open":true,"start":"2026-01-01T10:00:01Z","set":"lab","stage":"golden","new field":[1]}
{"time":"2026-01-01T10:00:02Z","kind":"step","id":2,"open":true,"start":"2026-01-01T10:00:02Z","set":"lab","name":"base"}
{"time":"2026-01-01T10:00:04Z","kind":"news","set":"lab"}
{"time":"2026-01-01T10:00:05Z","kind":"step","id":2,"start":"2026-01-01T10:00:02Z","s":3,"set":"lab","name":"base"}
`

func TestACutLineIsLeftOut(t *testing.T) {
	t.Parallel()
	for n := range strings.LastIndex(strings.TrimSpace(lines), "\n") + 1 {
		log, err := events.Read(strings.NewReader(lines[:n]))
		whole := strings.Count(lines[:n], "\n")
		if strings.HasSuffix(lines[:n], "}") && lines[n] == '\n' {
			whole++ // only the end of the line is missing
		}
		if whole == 0 {
			require.Error(t, err, n)
			continue
		}
		require.NoError(t, err, n)
		require.Len(t, log.Events, whole, n)
	}
	log, err := events.Read(strings.NewReader(lines))
	require.NoError(t, err)
	require.Len(t, log.Events, 4, "kinds and fields of later versions are no fault")
	stage, step := log.Events[1], log.Events[2]
	assert.True(t, stage.Open)
	assert.Equal(t, 4.0, stage.Seconds, "it went on at the last line")
	assert.False(t, step.Open)
	assert.Equal(t, 3.0, step.Seconds)
}

func TestOtherFilesAreNoRecord(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty": "", "text": "hello\n", "JSON": "{}\n", "another version": strings.Replace(lines, `"version":1`, `"version":2`, 1),
		"without its first line": lines[len(lines)/2:],
	} {
		_, err := events.Read(strings.NewReader(text))
		assert.Error(t, err, name)
	}
	dir := t.TempDir()
	_, err := events.ReadDir(dir)
	require.ErrorContains(t, err, "POOLREADY_DIR")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.jsonl"), []byte("{}"), 0o600))
	_, err = events.ReadDir(dir)
	require.ErrorContains(t, err, "a.jsonl")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", "b.jsonl"), []byte(lines), 0o600))
	logs, err := events.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, logs, 1)
}

func TestEvidenceIsFoundWhereItWasMovedTo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, d := range []string{"moved/events", "moved/evidence/TestMirror"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	file := filepath.Join(dir, "moved", "events", "a.jsonl")
	require.NoError(t, os.WriteFile(file, []byte(lines), 0o600))
	log, err := events.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "moved/evidence/TestMirror"), log.Path("/w/out/evidence/TestMirror"))
	assert.Equal(t, "/elsewhere/x", log.Path("/elsewhere/x"))
	assert.Empty(t, log.Path(""))
}

func FuzzRead(f *testing.F) {
	f.Add(lines)
	f.Fuzz(func(t *testing.T, text string) {
		log, err := events.Read(strings.NewReader(text))
		if err == nil && (len(log.Events) == 0 || log.Events[0].Kind != events.Process) {
			t.Error("a record without its process")
		}
	})
}
