// Package service is a suite about services: one on con, which only dis reaches, and what a reboot
// leaves of a host.
package service

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/examples/suites/lab"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

func TestMain(m *testing.M) { lab.Main(m) }

func TestMirrorOnConServesDis(t *testing.T) {
	t.Parallel()
	con, dis := lab.Acquire(t)
	serve(t, con, "/srv/mirror", con.VM.Env["REGISTRY_PORT"])

	// The test's own HTTP client, on dis's network: through the jump hosts, if there are any, and
	// dis.
	mirror := "http://" + net.JoinHostPort(con.VM.Env["CON_VLAN_ADDR"], con.VM.Env["REGISTRY_PORT"])
	through := &http.Transport{DialContext: dis.DialContext}
	defer through.CloseIdleConnections()
	code, body := get(t, &http.Client{Transport: through}, mirror+"/index")
	assert.Equal(t, http.StatusOK, code)
	assert.Equal(t, "3 images\n", body)
	code, _ = get(t, &http.Client{Transport: through}, mirror+"/nothing")
	assert.Equal(t, http.StatusNotFound, code)

	// And dis's own, by the name that con's name server has for it.
	name := "registry." + dis.VM.Env["DOMAIN"]
	assert.Equal(t, "3 images", dis.MustRun(t, "curl", "-sSf", "http://"+net.JoinHostPort(name, con.VM.Env["REGISTRY_PORT"])+"/index"))
	_, err := dis.Run(t.Context(), "curl", "-sSf", "-m", "5", dis.VM.Env["INTERNET_URL"])
	require.ErrorAs(t, err, new(*sshx.ExitError), "dis has no way out")
}

// serve serves a directory with an index over HTTP, until the pool is given back, and waits until
// it answers.
func serve(t *testing.T, h *pool.Host, dir, port string) {
	t.Helper()
	h.MustRun(t, "sh", "-c", `mkdir -p "$0" && echo "3 images" >"$0/index"`, dir)
	h.MustRun(t, "firewall-cmd", "-q", "--add-port="+port+"/tcp")
	c, err := h.SSH(t.Context())
	require.NoError(t, err)
	_, err = c.Detach(t.Context(), sshx.Cmd{Args: []string{"python3", "-m", "http.server", port, "--directory", dir}})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		conn, err := h.DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 30*time.Second, 20*time.Millisecond, "the server on %s", h.Name)
}

func get(t *testing.T, client *http.Client, url string) (code int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(data)
}
