package lab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPythonServesFilesUntilItIsKilled(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	a, b := boot(t, l, 1, nil), boot(t, l, 2, nil)
	addr := a.Info().NICs[0].Addrs[0].Addr().String()
	a.run(`mkdir -p /srv/www/sub && echo hello >/srv/www/sub/page && firewall-cmd --add-port=8080/tcp
cd /srv; python3 -m http.server 8080 --directory www >/tmp/log 2>&1 & echo $! >/run/pid
until grep -q Serving /tmp/log; do sleep 0.01; done`)
	assert.Equal(t, "hello", b.run("curl -sSf http://"+addr+":8080/sub/page"))
	assert.Equal(t, "hello", b.run("curl -sSf http://"+addr+":8080/../sub/page"))
	assert.Contains(t, b.run("curl -sS http://"+addr+":8080/none"), "File not found")
	assert.Contains(t, b.fails(22, "curl -sSf http://"+addr+":8080/none"), "The requested URL returned error: 404")
	assert.Contains(t, a.fails(1, "python3 -m http.server 8080"), "Address already in use")
	assert.Contains(t, a.run("cat /tmp/log"), `"GET /sub/page" 200`)
	a.run("kill $(cat /run/pid)")
	require.Eventually(t, func() bool {
		_, code := b.host.Run(t.Context(), "curl -sSf http://"+addr+":8080/sub/page")
		return code == 7
	}, 10*time.Second, time.Millisecond)
}
