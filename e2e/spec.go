package e2e

import (
	"context"
	"fmt"
	"time"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/sshx"
)

// Spec returns the set that t describes, for a provider and a way to log in as root.
// ssh.HostKeys must prove the templates on the first connection to golden.
func (t Topology) Spec(provider pool.Provider, ssh sshx.Config) pool.Spec {
	spec := pool.Spec{
		Name:     t.Set,
		Provider: provider,
		Pools:    t.Pools,
		Only:     t.Only,
		Facts:    embeddedText("scripts/facts.sh"),
		Golden:   t.golden(t.Host(Golden, 0), t.Template),
		Roles: []pool.Role{
			{
				Name: Con, VM: func(n int) pool.VM { return t.VM(t.Host(Con, n)) },
				Steps: t.steps(Con), Checks: t.checks(Con),
			},
			{
				Name: Dis, VM: func(n int) pool.VM { return t.VM(t.Host(Dis, n)) },
				Needs: []pool.Need{{
					Name: "name server", Role: Con, Timeout: 5 * time.Minute, Do: answersNames,
				}},
				Steps: t.steps(Dis), Checks: t.checks(Dis), AfterReset: t.airGap(),
			},
		},
		SSH: ssh,
	}
	if t.Mixed() {
		golden := t.golden(t.disGolden(), t.DisTemplate)
		spec.Roles[1].Golden = &golden
	}
	return spec
}

func (t Topology) golden(h Host, template string) pool.Golden {
	return pool.Golden{
		VM: t.VM(h), Template: template, Steps: t.steps(Golden), Checks: t.checks(Golden), Expect: 30 * time.Minute,
	}
}

// answersNames asks con's dnsmasq, over the lab's network, for a name of its pool.
func answersNames(ctx context.Context, h, _ *pool.Host) error {
	env := h.VM.Env
	name, want := "registry."+env["DOMAIN"], env["CON_LAB_ADDR"]
	got, err := h.Run(ctx, "dig", "+short", "+time=2", "+tries=1", "@"+want, name)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("dig %s @%s: got %q, want %q", name, want, got, want)
	}
	return nil
}
