package e2etest_test //nolint:testableexamples // it runs as TestExampleSite

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

// pageserver is a server of one's own, simulated.
func pageserver(ctx context.Context, p *sshtest.Proc) int {
	l, err := p.Listen(ctx, "tcp", ":80")
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	return p.Fail(0, "%v", http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { //nolint:gosec // a simulation
		fmt.Fprint(w, "a page of dis")
	})))
}

// askDis starts the server on dis and asks it from con, over the modelled network and its firewalls.
func askDis(t *testing.T) {
	topology := e2e.DefaultTopology()
	topology.Pools = 1
	srv := e2etest.NewServer(t, e2etest.Site{
		Reserved: topology.Reservations(), Commands: map[string]sshtest.Command{"pageserver": pageserver},
	})
	topology.RunnerKey = sshx.AuthorizedKey(srv.ClientKey.PublicKey())
	p := pool.Ensure(t, e2etest.On(t, srv, topology.Spec(nil, sshx.Config{}))).Acquire(t)
	con, dis := p.Host(e2e.Con), p.Host(e2e.Dis)

	dis.MustRun(t, "sh", "-ec", `printf '[Service]\nExecStart=/usr/bin/pageserver\n' >/etc/systemd/system/page.service
systemctl daemon-reload
systemctl start page
firewall-cmd -q --add-service=http`)
	c := &http.Client{Transport: &http.Transport{DialContext: con.DialContext}}
	require.Eventually(t, func() bool { // a started server may not listen yet
		resp, err := c.Get("http://" + dis.VM.Env["DIS_VLAN_ADDR"] + "/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return err == nil && string(body) == "a page of dis"
	}, 10*time.Second, 50*time.Millisecond)
}

// A server of one's own runs on dis, and a test asks it from con: askDis is called with the test's t.
func ExampleSite() {
	_ = askDis
}
