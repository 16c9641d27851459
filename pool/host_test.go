package pool_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

func TestHostsRunAndCopy(t *testing.T) {
	t.Parallel()
	r := newMemory(t)
	spec := r.spec(1)
	spec.Roles[0].Steps = append(spec.Roles[0].Steps, pool.Files("site", "/srv/site", fstest.MapFS{
		"index.html":    {Data: []byte("hello"), Mode: 0o644},
		"bin/refresh":   {Data: []byte("#!/bin/sh\necho fresh\n"), Mode: 0o755},
		"empty/.keep":   {Mode: 0o600},
		"with blank.md": {Data: []byte("x"), Mode: 0o644},
	}))
	spec.Roles[1].Steps = append(spec.Roles[1].Steps, pool.Step{Name: "peer", Version: "1", Do: func(ctx context.Context, h *pool.Host) error {
		page, err := h.Peer("con").Run(ctx, "cat", "/srv/site/index.html")
		if err != nil {
			return err
		}
		return h.Put(ctx, "/etc/peer", strings.NewReader(h.Peer("con").Name+" says "+page), 0o600)
	}})
	p := r.open(spec).Pools()[0]
	con, dis := p.Host("con"), p.Host("dis")

	assert.Equal(t, "fresh", con.MustRun(t, "/srv/site/bin/refresh"), "modes are kept")
	assert.Equal(t, "x", con.MustRun(t, "cat", "/srv/site/with blank.md"), "arguments arrive as they are")
	assert.Equal(t, "con1 says hello", dis.MustRun(t, "cat", "/etc/peer"))
	assert.Equal(t, "600", dis.MustRun(t, "stat", "-c", "%a", "/etc/peer"))

	var got bytes.Buffer
	require.NoError(t, dis.Get(t.Context(), "/etc/peer", &got))
	assert.Equal(t, "con1 says hello", got.String())
	assert.Error(t, dis.Get(t.Context(), "/etc/nothing", &got))

	out, err := con.Script(t.Context(), `echo "I am $NAME"; echo to stderr >&2; cat`)
	require.NoError(t, err, "a script's input is empty")
	assert.Equal(t, "I am con1\nto stderr", out)
	_, err = con.Run(t.Context(), "sh", "-c", "exit 7")
	var exit *sshx.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 7, exit.Code)

	assert.PanicsWithValue(t, `pool: unknown role "cno" in set "lab"; want one of "con", "dis"`, func() { p.Host("cno") })
	assert.Panics(t, func() { con.Peer("dis") }, "a later role")
	assert.Regexp(t, `^ssh -F '?/.*/config'? con1$`, con.Look())
	assert.Equal(t, []*pool.Host{con, dis}, p.Hosts())
}
