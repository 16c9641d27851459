package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/pool"
)

func TestDebian(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology().On("debian12", "debian12")
	topology.Pools = 1
	public, private, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	require.NoError(t, err)
	topology.KeyPair = pem.EncodeToMemory(block)
	e := newEmbedded(t, topology, fast)
	spec := e.spec(t)
	set := pool.Ensure(t, spec)
	proved(t, spec, set)
	assert.Len(t, set.Checks(), len(checks[Golden])+len(checks[Con])+len(checks[Dis])+1, "all checks, and that of the cable")

	want, err := ssh.NewPublicKey(public)
	require.NoError(t, err)
	for _, h := range []*pool.Host{set.Pools()[0].Host(Con), set.Pools()[0].Host(Dis)} {
		got := h.MustRun(t, "cut", "-d ", "-f1,2", "/root/.ssh/id_ed25519.pub")
		assert.Equal(t, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(want))), got, "%s has the key that it was given", h.Name)
		_, err := h.Run(t.Context(), "test", "!", "-e", h.VM.Env["SECRETS_DIR"])
		assert.NoError(t, err)
	}
	t.Run("the cut done again changes nothing, and its undoing is noticed", func(t *testing.T) {
		dis := set.Acquire(t).Host(Dis)
		look := func() string {
			link, err := dis.NICState(t.Context(), extNIC)
			require.NoError(t, err)
			out, err := dis.Script(t.Context(), "#!/bin/sh\nip -br link\nip -br addr\nip route\ncat /etc/systemd/network/*.network\n")
			require.NoError(t, err)
			return link.String() + "\n" + out
		}
		before := look()
		_, err := dis.Script(t.Context(), script("steps", "cut"))
		require.NoError(t, err)
		require.NoError(t, dis.ConnectNIC(t.Context(), extNIC, false))
		assert.Equal(t, before, look())

		e.plugIn(t, dis.Name, dis.VM.NICs[extNIC].MAC)
		got, err := unplugged.Do(t.Context(), dis)
		require.NoError(t, err)
		assert.NotEqual(t, unplugged.Want, got, "the check notices a cable that somebody plugs in")
	})
}

func TestDebianWithNetworkManager(t *testing.T) {
	t.Parallel()
	topology := testTopology().On("debian12", "debian12")
	topology.Pools = 1
	r := newRig(t, topology)
	golden := topology.Host(Golden, 0)
	r.boot(golden, nil)
	out, code := r.guests[golden.Name].Host().Run(t.Context(), "until apt-get update; do sleep 0.1; done && apt-get -y install network-manager")
	require.Zero(t, code, out)
	r.configure(golden)
	assert.Empty(t, r.verify(golden))
	disk := r.off(golden)
	for _, role := range []string{Con, Dis} {
		h := topology.Host(role, 1)
		r.boot(h, disk.Clone())
		r.configure(h)
		restart(r, h)
		assert.Empty(t, r.verify(h), "%s after a boot", h.Name)
	}
}

func TestTwoSystems(t *testing.T) {
	t.Parallel()
	topology := DefaultTopology().On("debian12", "rhel9")
	topology.Pools = 1
	topology.Product = Product{
		Install: []pool.Step{pool.Script("mirror", "#!/bin/sh\nset -eu\nmkdir -p \"$PRODUCT_DIR\"\necho 1.2.3 >\"$PRODUCT_DIR/version\"\n")},
		Checks:  []pool.Check{pool.ScriptCheck("mirror version", "1.2.3", "#!/bin/sh\ncat \"$PRODUCT_DIR/version\"\n")},
	}
	e := newEmbedded(t, topology, fast)
	spec := e.spec(t)
	set := pool.Ensure(t, spec)
	proved(t, spec, set)
	p := set.Pools()[0]
	assert.Equal(t, "debian12", p.Host(Con).MustRun(t, "sh", "-c", `. /etc/os-release; echo "$ID${VERSION_ID%%.*}"`))
	assert.Equal(t, "rhel9", p.Host(Dis).MustRun(t, "sh", "-c", `. /etc/os-release; echo "$ID${VERSION_ID%%.*}"`))
	assert.True(t, slices.ContainsFunc(set.Checks(), func(c pool.CheckResult) bool { return c.Name == "mirror version" }), "the product's own check ran")
	h := e.history(t)
	for _, golden := range []string{topology.GoldenName, topology.DisGolden} {
		assert.Contains(t, h, "snapshot "+golden)
		assert.Less(t, last(h, "snapshot "+golden), first(h, "cloned con"), h)
	}
	again := e.during(t, func() { e.open(t, e.spec(t)) })
	assert.Empty(t, again, "what is ready is reused")
}

func TestSystemsOfATopology(t *testing.T) {
	t.Parallel()
	topology, _, err := LoadTopology(Source{Flags: map[string]string{"os": "debian12"}})
	require.NoError(t, err)
	assert.Equal(t, "e2e-template-debian12", topology.Template)
	assert.Equal(t, "e2e-golden-debian12", topology.Hosts()[0].Name)
	env := topology.env(topology.Host(Dis, 1))
	assert.Equal(t, "tmux git make podman rsync dnsmasq chrony firewalld bind9-dnsutils curl cloud-guest-utils", env["PACKAGES"])
	assert.Equal(t, "git make jq python3-jinja2 python3-yaml", env["PACKAGES_REMOVED"])

	topology, _, err = LoadTopology(Source{File: "t.yaml", YAML: []byte("os: rocky9\ndis-os: ubuntu24\ndis-golden: mine\n")})
	require.NoError(t, err)
	assert.Equal(t, "e2e-template-rocky9", topology.Template)
	assert.Equal(t, "e2e-template-ubuntu24", topology.DisTemplate)
	assert.Equal(t, "mine", topology.DisGolden)
	assert.Contains(t, topology.env(topology.Host(Con, 1))["PACKAGES"], "bind-utils")
	assert.Contains(t, topology.env(topology.Host(Dis, 1))["PACKAGES"], "bind9-dnsutils")
	assert.Len(t, topology.Hosts(), 2+2*topology.Pools)

	for yaml, want := range map[string]string{
		"os: windows11": `t.yaml:1: os: "windows11" is no system such as`,
		"os: debian":    `os: "debian" is no system`,
		"dis-os: beos5": `t.yaml:1: dis-os: "beos5" is no system`,
		"dis-os: rhel9": "is that of con: leave it empty",
		"dis-golden: x": "dis-os: is empty, but dis-template or dis-golden is set",
		"dis-os: debian12\ndis-golden: e2e-golden-rhel9": "t.yaml:2: dis-golden: is that of con",
		"dis-os: debian12\ndis-template: ''":             "dis-template: is required",
		"packages: [git, suse:tmux]":                     `"suse:tmux" is for neither rhel nor debian`,
	} {
		_, _, err := LoadTopology(Source{File: "t.yaml", YAML: []byte(yaml)})
		assert.ErrorContains(t, err, want, yaml)
	}
}
