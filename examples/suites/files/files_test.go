// Package files is a suite about what a disconnected host is given: files, and trees of them.
package files

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/examples/suites/lab"
	"github.com/poolready/poolready/sshx"
)

func TestMain(m *testing.M) { lab.Main(m) }

func TestFileArrivesAndComesBack(t *testing.T) {
	t.Parallel()
	_, dis := lab.Acquire(t)
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	require.NoError(t, dis.Put(t.Context(), "/root/image", bytes.NewReader(sent), 0o640))

	assert.Equal(t, fmt.Sprintf("%x  /root/image", sha256.Sum256(sent)), dis.MustRun(t, "sha256sum", "/root/image"))
	assert.Equal(t, "640", dis.MustRun(t, "stat", "-c", "%a", "/root/image"))
	var back bytes.Buffer
	require.NoError(t, dis.Get(t.Context(), "/root/image", &back))
	assert.True(t, bytes.Equal(sent, back.Bytes()))
}

func TestTreeArrivesAndComesBack(t *testing.T) {
	t.Parallel()
	sent, back := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"index": "3 images\n", "images/one": "1", "images/two": "2", "bin/load": "#!/bin/sh\ncat \"$@\"\n"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(sent, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(sent, name), []byte(text), 0o755))
	}
	_, dis := lab.Acquire(t)
	c, err := dis.SSH(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.PutTree(t.Context(), "/opt/bundle", os.DirFS(sent), sshx.PutOptions{}))
	assert.Equal(t, "12", dis.MustRun(t, "/opt/bundle/bin/load", "/opt/bundle/images/one", "/opt/bundle/images/two"))

	require.NoError(t, c.GetTree(t.Context(), "/opt/bundle", back, sshx.GetOptions{}))
	assert.Equal(t, tree(t, sent), tree(t, back))
}

// A connected host has what the disconnected one needs: it goes through the test, as over a
// courier's disk.
func TestFileGoesFromConToDis(t *testing.T) {
	t.Parallel()
	con, dis := lab.Acquire(t)
	con.MustRun(t, "sh", "-c", "echo from con >/root/bundle")
	r, w := io.Pipe()
	go func() { w.CloseWithError(con.Get(t.Context(), "/root/bundle", w)) }()
	require.NoError(t, dis.Put(t.Context(), "/root/bundle", r, 0))
	assert.Equal(t, "from con", dis.MustRun(t, "cat", "/root/bundle"))
}

// tree is the files below dir, by name.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		all[name] = string(data)
		return err
	}))
	return all
}
