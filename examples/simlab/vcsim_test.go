package main

import (
	"context"
	"flag"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// ofVcsim are the flags of vcsim v0.56.0 with their defaults, in the order of its -h.
var ofVcsim = [][2]string{
	{"E", "-"},
	{"api-version", simulator.VPX().ServiceContent.About.ApiVersion},
	{"app", "0"},
	{"autostart", "true"},
	{"cluster", "1"},
	{"dc", "1"},
	{"delay", "0"},
	{"delay-jitter", "0"},
	{"ds", "1"},
	{"esx", "false"},
	{"folder", "0"},
	{"host", "3"},
	{"l", "127.0.0.1:8989"},
	{"load", ""},
	{"method-delay", ""},
	{"nsx", "0"},
	{"password", ""},
	{"pg", "1"},
	{"pg-nsx", "0"},
	{"pod", "0"},
	{"pool", "0"},
	{"standalone-host", "1"},
	{"stdinexit", "false"},
	{"tls", "true"},
	{"tlscert", ""},
	{"tlskey", ""},
	{"trace", "false"},
	{"trace-file", ""},
	{"tunnel", "-1"},
	{"username", ""},
	{"vm", "2"},
}

func TestFlagsOfVcsim(t *testing.T) {
	t.Parallel()
	f := flag.NewFlagSet("simlab", flag.ContinueOnError)
	var v vcsimFlags
	srv := vspheretest.NewUnstartedServer(t)
	srv.Addr = "127.0.0.1:8989"
	f.StringVar(&srv.Password, "password", "", "")
	v.define(f, srv)
	known := map[string]bool{"password": true}
	for _, c := range ofVcsim {
		known[c[0]] = true
		is := f.Lookup(c[0])
		if !assert.NotNil(t, is, "-%s", c[0]) {
			continue
		}
		if c[0] == "E" { // "" is the same
			continue
		}
		assert.Equal(t, c[1], is.DefValue, "-%s", c[0])
	}
	f.VisitAll(func(f *flag.Flag) { assert.True(t, known[f.Name], "-%s is not one of vcsim's", f.Name) })
}

// asVcsim starts the program with vcsim's flags and returns a client, and what stops it.
func asVcsim(t *testing.T, user *url.Userinfo, args ...string) *govmomi.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, done := new(output), make(chan error, 1)
	go func() { done <- run(ctx, append(args, "-l", "127.0.0.1:0"), out) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	var at []string
	require.Eventually(t, func() bool {
		at = regexp.MustCompile(`export GOVC_URL=(\S+) GOVC_SIM_PID=\d+\n`).FindStringSubmatch(out.String())
		return at != nil
	}, 20*time.Second, time.Millisecond)
	u, err := url.Parse(at[1])
	require.NoError(t, err)
	if user != nil {
		u.User = user
	}
	c, err := govmomi.NewClient(t.Context(), u, true)
	require.NoError(t, err)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// The same counts as vcsim's own inventory has, whatever the flags.
func TestInventoryIsVcsims(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args  []string
		model func() *simulator.Model
	}{
		"a vCenter": {[]string{"-vm", "2"}, simulator.VPX},
		"an ESXi host": {[]string{"-esx", "-vm", "3", "-ds", "2"}, func() *simulator.Model {
			m := simulator.ESX()
			m.Machine, m.Datastore = 3, 2
			return m
		}},
		"all counts": {
			strings.Fields("-dc 2 -cluster 2 -host 2 -standalone-host 0 -ds 2 -vm 1 -pool 1 -app 1 -pod 1 -pg 2 -pg-nsx 1 -nsx 1 -folder 1 -autostart=false"),
			func() *simulator.Model {
				m := simulator.VPX()
				m.Datacenter, m.Cluster, m.ClusterHost, m.Host, m.Datastore, m.Machine, m.Pool, m.App = 2, 2, 2, 0, 2, 1, 1, 1
				m.Pod, m.Portgroup, m.PortgroupNSX, m.OpaqueNetwork, m.Folder, m.Autostart = 1, 2, 1, 1, 1, false
				return m
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := find.NewFinder(asVcsim(t, nil, c.args...).Client)
			stock := find.NewFinder(stockClient(t, c.model()).Client)
			assert.Equal(t, inventory(t, stock), inventory(t, f))
		})
	}
}

// stockClient starts vcsim with a model.
func stockClient(t *testing.T, m *simulator.Model) *govmomi.Client {
	t.Helper()
	require.NoError(t, m.Create())
	t.Cleanup(m.Remove)
	srv := m.Service.NewServer()
	t.Cleanup(srv.Close)
	c, err := govmomi.NewClient(t.Context(), srv.URL, true)
	require.NoError(t, err)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

var uplinks = regexp.MustCompile(`DVUplinks-\d+$`) // by the number of an object

// inventory lists what there is, by type; on which host a VM is does not count, as that is at random.
func inventory(t *testing.T, f *find.Finder) (all []string) {
	t.Helper()
	list, err := f.ManagedObjectListChildren(t.Context(), "/...")
	require.NoError(t, err)
	for _, e := range list {
		all = append(all, e.Object.Reference().Type+" "+uplinks.ReplaceAllString(path.Base(e.Path), "DVUplinks"))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestVcsimsOtherFlags(t *testing.T) {
	t.Parallel()
	t.Run("a user and a password", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "secret")
		require.NoError(t, os.WriteFile(file, []byte("s3cret\n"), 0o600))
		c := asVcsim(t, url.UserPassword("me", "s3cret"), "-username", "me", "-password", file)
		wrong := *c.URL()
		wrong.User = url.UserPassword("me", "wrong")
		_, err := govmomi.NewClient(t.Context(), &wrong, true)
		assert.Error(t, err)
	})
	t.Run("a version and delays", func(t *testing.T) {
		t.Parallel()
		c := asVcsim(t, nil, "-api-version", "6.5", "-method-delay", "CurrentTime:60", "-delay", "1")
		assert.Equal(t, "6.5", c.ServiceContent.About.ApiVersion)
		began := time.Now()
		_, err := methods.GetCurrentTime(t.Context(), c)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, time.Since(began), 60*time.Millisecond)
	})
	t.Run("a file for the variables", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "env")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- run(ctx, []string{"-l", "127.0.0.1:0", "-E", file}, new(output)) }()
		require.Eventually(t, func() bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.HasPrefix(string(text), "export GOVC_URL=https://")
		}, 20*time.Second, time.Millisecond)
		cancel()
		assert.NoError(t, <-done)
	})
}

func TestWhatIsNotVcsimsIsRefused(t *testing.T) {
	t.Parallel()
	err := run(t.Context(), strings.Fields("-l 127.0.0.1:0 -trace -tlscert x -tlskey y -trace-file z -hosts 2 -method-delay soon -username u"), new(output))
	for _, name := range []string{"-trace: ", "-tlscert: ", "-tlskey: ", "-trace-file: ", "-hosts ", "-method-delay ", "-username "} {
		assert.ErrorContains(t, err, name, "all at once")
	}
}
