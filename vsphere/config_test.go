package vsphere

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/simulator"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// clearEnv sets all GOVC variables to "".
func clearEnv(t *testing.T) {
	for _, name := range []string{
		"URL", "USERNAME", "PASSWORD", "INSECURE", "TLS_CA_CERTS", "TLS_KNOWN_HOSTS",
		"DATACENTER", "DATASTORE", "FOLDER", "RESOURCE_POOL", "NETWORK",
	} {
		t.Setenv("GOVC_"+name, "")
	}
}

func TestFromEnvReadsWhatGovcReads(t *testing.T) {
	clearEnv(t)
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("from a file\n"), 0o600))
	for name, value := range map[string]string{
		"GOVC_URL": "vc.example.com", "GOVC_USERNAME": "u", "GOVC_PASSWORD": secret, "GOVC_INSECURE": "true",
		"GOVC_DATACENTER": "dc", "GOVC_DATASTORE": "ds", "GOVC_FOLDER": "f", "GOVC_RESOURCE_POOL": "rp", "GOVC_NETWORK": "n",
	} {
		t.Setenv(name, value)
	}
	cfg, err := FromEnv()
	require.NoError(t, err)
	assert.Equal(t, Config{
		URL: "vc.example.com", Username: "u", Password: "from a file", Insecure: true,
		Datacenter: "dc", Datastore: "ds", Folder: "f", ResourcePool: "rp", Network: "n",
	}, cfg)
}

func TestFromEnvTakesTheUserFromTheURL(t *testing.T) {
	clearEnv(t)
	t.Setenv("GOVC_URL", "https://someone:pa%20ss@vc.example.com/sdk")
	cfg, err := FromEnv()
	require.NoError(t, err)
	end, err := cfg.parse(envNames)
	require.NoError(t, err)
	user, password := end.user()
	assert.Equal(t, []string{"someone", "pa ss", "https://vc.example.com/sdk"}, []string{user, password, end.url.String()})
}

func TestFromEnvReportsEveryWrongValueAtOnce(t *testing.T) {
	clearEnv(t)
	t.Setenv("GOVC_URL", "ftp://vc")
	t.Setenv("GOVC_INSECURE", "maybe")
	t.Setenv("GOVC_TLS_CA_CERTS", "/no/such/file")
	_, err := FromEnv()
	require.Error(t, err)
	for _, says := range []string{`scheme "ftp"`, `GOVC_INSECURE is "maybe"`, "GOVC_TLS_CA_CERTS: open /no/such/file"} {
		assert.ErrorContains(t, err, says)
	}

	clearEnv(t)
	_, err = FromEnv()
	assert.ErrorContains(t, err, "GOVC_URL is empty")
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := Config{URL: "vc.example.com", Username: "u", Password: "hush-hush"}
	thumb := strings.TrimSuffix(strings.Repeat("AB:", 32), ":")
	for _, c := range []struct {
		name   string
		change func(*Config)
		says   string
	}{
		{"no URL", func(c *Config) { c.URL = "" }, "Config.URL is empty"},
		{"no host", func(c *Config) { c.URL = "https:///sdk" }, "Config.URL is not a URL"},
		{"nonsense", func(c *Config) { c.URL = "https://u:hush-hush@vc:port/" }, "Config.URL is not a URL"},
		{"blanks", func(c *Config) { c.URL = "not a url" }, "Config.URL is not a URL"},
		{"no user", func(c *Config) { c.Username = "" }, "Config.Username is empty"},
		{"no password", func(c *Config) { c.Password = "" }, "Config.Password is empty"},
		{"a thumbprint of another form", func(c *Config) { c.Thumbprint = "12:34" }, "Config.Thumbprint"},
		{"a thumbprint that is not looked at", func(c *Config) { c.Thumbprint, c.Insecure = thumb, true }, "contradict"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			c.change(&cfg)
			_, err := New(cfg)
			require.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), "hush-hush")
		})
	}
	p, err := New(good)
	require.NoError(t, err)
	assert.NoError(t, p.Close(t.Context()), "of a provider that never connected")
	_, err = p.Inventory(t.Context(), "set")
	assert.ErrorIs(t, err, errClosed)
}

func TestConfigIsPrintedWithoutUserAndPassword(t *testing.T) {
	t.Parallel()
	cfg := Config{URL: "https://url-user:url-secret@vc.example.com", Username: "the-user", Password: "the-secret"}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		text := fmt.Sprintf(verb, cfg) + fmt.Sprintf(verb, &cfg)
		assert.Contains(t, text, "vc.example.com")
		for _, secret := range []string{"url-user", "url-secret", "the-user", "the-secret"} {
			assert.NotContains(t, text, secret, verb)
		}
	}
}

func TestProviderIsPrintedWithoutUserAndPassword(t *testing.T) {
	t.Parallel()
	made := func(folder string) *Provider {
		p, err := New(Config{URL: "https://url-user:url-secret@vc.example.com", Password: "the-secret", Folder: folder})
		require.NoError(t, err)
		return p
	}
	a, b := made("a"), made("b")
	r := &recorder{t: t, ctx: t.Context()}
	assert.Equal(r, pool.Spec{Provider: a}, pool.Spec{Provider: b}) // testify shows fields that are not exported, too
	require.NotEmpty(t, r.failures)
	text := fmt.Sprintf("%v %+v %#v", a, a, a) + strings.Join(r.failures, "")
	for _, secret := range []string{"url-user", "url-secret", "the-secret"} {
		assert.NotContains(t, text, secret)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	l := newLab(t, vspheretest.Fast())
	known := filepath.Join(t.TempDir(), "known_hosts")
	require.NoError(t, os.WriteFile(known, []byte(l.URL.Host+" "+l.Thumbprint+"\n"), 0o600))
	wrong := strings.TrimSuffix(strings.Repeat("AB:", 20), ":")
	for _, c := range []struct {
		name string
		set  func(*Config)
		says string // "" is trusted
	}{
		{name: "its authority is trusted", set: func(c *Config) { c.CACerts = l.CAFile }},
		{name: "everything is trusted", set: func(c *Config) { c.Insecure = true }},
		{name: "its thumbprint is known", set: func(c *Config) { c.KnownHosts = known }},
		{name: "its thumbprint is given", set: func(c *Config) { c.Thumbprint = strings.ToLower(l.Thumbprint) }},
		{name: "nothing is said", set: func(*Config) {}, says: "GOVC_TLS_CA_CERTS"},
		{name: "it has another thumbprint", set: func(c *Config) { c.Thumbprint = wrong }, says: "thumbprint is none of those configured"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := l.cfg
			cfg.CACerts = ""
			c.set(&cfg)
			p := closing(t, cfg)
			_, err := p.Inventory(within(t, 30*time.Second), "set")
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
			assert.Equal(t, permanent, classify(err))
		})
	}
}

// It is not parallel: stock vcsim writes package variables when it starts.
func TestWhatIsNoVCenterIsSaidSo(t *testing.T) {
	page := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(page.Close)
	model := simulator.ESX()
	require.NoError(t, model.Create())
	t.Cleanup(model.Remove)
	esx := model.Service.NewServer()
	t.Cleanup(esx.Close)
	closed := httptest.NewServer(nil)
	closed.Close()
	for name, c := range map[string]struct{ url, says string }{
		"a web site":             {page.URL, "no vCenter API at that address"},
		"a standalone ESXi host": {esx.URL.Scheme + "://" + esx.URL.Host, "not a vCenter"},
		"nobody":                 {closed.URL, "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			p := closing(t, Config{URL: c.url, Username: "u", Password: "p", Insecure: true})
			_, err := p.Inventory(within(t, 30*time.Second), "set")
			require.ErrorContains(t, err, c.says)
			assert.False(t, errors.Is(err, context.DeadlineExceeded))
		})
	}
}
