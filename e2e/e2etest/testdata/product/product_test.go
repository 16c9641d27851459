// Package product tests a product of its own on con and dis, without a machine.
package product

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
	"github.com/poolready/poolready/sshx/sshtest"
)

var lab *pool.Set

// shopd is the product's server, simulated.
func shopd(ctx context.Context, p *sshtest.Proc) int {
	l, err := p.Listen(ctx, "tcp", ":7070")
	if err != nil {
		return p.Fail(1, "%v", err)
	}
	return p.Fail(0, "%v", http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "open")
	})))
}

func TestMain(m *testing.M) {
	pool.Main(m, func(t pool.T) {
		topology := e2e.DefaultTopology()
		topology.Pools = 1
		unit := "[Service]\nExecStart=/usr/bin/shopd\n[Install]\nWantedBy=multi-user.target\n"
		vcenter := e2etest.NewServer(t, e2etest.Site{
			Reserved: topology.Reservations(),
			Commands: map[string]sshtest.Command{"shopd": shopd},
			Packages: map[string]e2etest.Package{"shop": {
				Commands: []string{"shopd"}, Files: map[string]string{"/usr/lib/systemd/system/shop.service": unit},
			}},
		})
		topology.RunnerKey = sshx.AuthorizedKey(vcenter.ClientKey.PublicKey())
		topology.Product = e2e.Product{
			Install: []pool.Step{pool.Script("shop", "set -e; dnf -y install shop; mkdir -p $PRODUCT_DIR; systemctl enable --now shop; "+
				"firewall-cmd -q --permanent --add-port=7070/tcp; firewall-cmd -q --reload")},
			Checks: []pool.Check{pool.ScriptCheck("shop", "active", "systemctl is-active shop")},
			Ports:  []string{"7070/tcp"},
		}
		lab = pool.Ensure(t, e2etest.On(t, vcenter, topology.Spec(nil, sshx.Config{})))
	})
}

func TestTheShopIsOpenToDis(t *testing.T) {
	dis := lab.Acquire(t).Host(e2e.Dis)
	c := &http.Client{Transport: &http.Transport{DialContext: dis.DialContext}}
	if resp, err := c.Get("http://registry.p1.example.com:7070/"); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
}
