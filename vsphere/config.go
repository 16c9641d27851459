package vsphere

import (
	"bufio"
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	govc "github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25/soap"
)

// Config says which vCenter to use, whom to log in as, and where VMs go when a pool.VM does not
// say. It is data; printing it shows neither the user's name nor the password.
type Config struct {
	// URL is the vCenter: a host name, "host:port", or "https://host/sdk". A user name and
	// password in it count as Username and Password when those are empty.
	URL string
	// Username and Password log in.
	Username, Password string

	// Insecure accepts every certificate: anybody on the path can read the password.
	Insecure bool
	// CACerts lists PEM files of certificate authorities, separated as in PATH, which replace the
	// system's.
	CACerts string
	// KnownHosts lists files with lines "host:port thumbprint", separated as in PATH. A host in
	// one of them is trusted if its certificate has that thumbprint; files that do not exist are
	// ignored.
	KnownHosts string
	// Thumbprint is the SHA-256 or SHA-1 thumbprint of the vCenter's certificate ("AA:BB:..."),
	// trusted like an entry of KnownHosts.
	Thumbprint string

	// Datacenter is a name or an inventory path; "" is the only one there is.
	Datacenter string
	// Datastore, ResourcePool (or a cluster or host, meaning its root pool) and Network are the
	// defaults of pool.VM, as names or inventory paths; "" is the only one there is.
	Datastore, ResourcePool, Network string
	// Folder is the VM folder in which each set has its own; "" is the datacenter's. It must exist.
	Folder string

	// APIVersion is the version of the vSphere API to speak, such as "7.0.3.0"; "" is the newest that
	// both the vCenter and this program know.
	APIVersion string

	// TaskTimeout bounds each operation, from its first call to the end of its task, repetitions
	// included; 0 means 15 minutes.
	TaskTimeout time.Duration
	// CloneTimeout bounds a full clone; 0 means 2 hours.
	CloneTimeout time.Duration
}

func (c Config) taskTimeout() time.Duration { return cmp.Or(c.TaskTimeout, 15*time.Minute) }

func (c Config) cloneTimeout() time.Duration { return cmp.Or(c.CloneTimeout, 2*time.Hour) }

// FromEnv returns the Config that govc would use: GOVC_URL, GOVC_USERNAME, GOVC_PASSWORD (each of
// these two may name a file that holds it), GOVC_INSECURE, GOVC_TLS_CA_CERTS, GOVC_TLS_KNOWN_HOSTS,
// GOVC_DATACENTER, GOVC_DATASTORE, GOVC_FOLDER, GOVC_RESOURCE_POOL, GOVC_NETWORK and
// GOVC_VIM_VERSION. Logins by token or certificate (GOVC_LOGIN_TOKEN, GOVC_CERTIFICATE) are refused.
// The error names every variable that is missing or wrong.
func FromEnv() (Config, error) {
	var errs []error
	secret := func(name string) string {
		s, err := govc.Secret(os.Getenv(name))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s names a file that cannot be read; check its permissions", name))
		}
		return s
	}
	cfg := Config{
		URL:          os.Getenv("GOVC_URL"),
		Username:     secret("GOVC_USERNAME"),
		Password:     secret("GOVC_PASSWORD"),
		CACerts:      os.Getenv("GOVC_TLS_CA_CERTS"),
		KnownHosts:   os.Getenv("GOVC_TLS_KNOWN_HOSTS"),
		Datacenter:   os.Getenv("GOVC_DATACENTER"),
		Datastore:    os.Getenv("GOVC_DATASTORE"),
		Folder:       os.Getenv("GOVC_FOLDER"),
		ResourcePool: os.Getenv("GOVC_RESOURCE_POOL"),
		Network:      os.Getenv("GOVC_NETWORK"),
		APIVersion:   os.Getenv("GOVC_VIM_VERSION"),
	}
	for _, name := range []string{"GOVC_LOGIN_TOKEN", "GOVC_CERTIFICATE"} {
		if os.Getenv(name) != "" {
			errs = append(errs, fmt.Errorf("%s is set, but only logins with GOVC_USERNAME and GOVC_PASSWORD are supported; unset it", name))
		}
	}
	switch v := strings.ToLower(os.Getenv("GOVC_INSECURE")); v {
	case "1", "true":
		cfg.Insecure = true
	case "", "0", "false":
	default:
		errs = append(errs, fmt.Errorf("GOVC_INSECURE is %q; set it to 1 or 0", v))
	}
	_, err := cfg.parse(envNames)
	if err := errors.Join(append(errs, err)...); err != nil {
		return Config{}, fmt.Errorf("vsphere: configuration: %w", err)
	}
	return cfg, nil
}

// String describes the Config without naming the user or the password.
func (c Config) String() string {
	host := "no URL"
	if u, err := soap.ParseURL(c.URL); err == nil && u != nil {
		host = u.Host
	}
	return fmt.Sprintf("vCenter %s, datacenter %q, folder %q, datastore %q, resource pool %q, network %q",
		host, c.Datacenter, c.Folder, c.Datastore, c.ResourcePool, c.Network)
}

// GoString is String.
func (c Config) GoString() string { return "vsphere.Config{" + c.String() + "}" }

// names are what the fields of a Config are called where the user wrote them.
type names struct{ url, username, password, caCerts, knownHosts, thumbprint, apiVersion string }

// special says which characters of a URL's user and password must be encoded, or is "". It shows no
// other part of them.
func (n names) special(raw string) string {
	_, rest, ok := strings.Cut(raw, "://")
	if !ok {
		rest = raw
	}
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return ""
	}
	var found []string
	for _, c := range []struct{ char, code string }{{"#", "%23"}, {"/", "%2F"}, {"?", "%3F"}, {"\\", "%5C"}, {"%", "%25"}, {" ", "%20"}} {
		if strings.Contains(rest[:at], c.char) {
			found = append(found, fmt.Sprintf("%q as %s", c.char, c.code))
		}
	}
	if len(found) == 0 {
		return ""
	}
	return fmt.Sprintf("; in its user or password write %s, or set %s and %s instead", strings.Join(found, ", "), n.username, n.password)
}

var (
	envNames   = names{"GOVC_URL", "GOVC_USERNAME", "GOVC_PASSWORD", "GOVC_TLS_CA_CERTS", "GOVC_TLS_KNOWN_HOSTS", "thumbprint", "GOVC_VIM_VERSION"}
	fieldNames = names{"Config.URL", "Config.Username", "Config.Password", "Config.CACerts", "Config.KnownHosts", "Config.Thumbprint", "Config.APIVersion"}
)

// endpoint is a Config that was understood.
type endpoint struct {
	url         *url.URL                       // without user
	user        func() (name, password string) // a function, so that nothing prints them
	insecure    bool
	roots       *x509.CertPool  // nil: the system's
	thumbprints map[string]bool // upper case, of this host
	version     string          // of the API; "" is negotiated
}

var versionForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*(u[0-9]+)?$`)

var thumbprintForm = regexp.MustCompile(`^([0-9A-F]{2}:){19}[0-9A-F]{2}$|^([0-9A-F]{2}:){31}[0-9A-F]{2}$`)

// parse reads what the Config refers to on this machine, and reports all that is wrong with it.
func (c Config) parse(n names) (endpoint, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	e := endpoint{insecure: c.Insecure, thumbprints: map[string]bool{}, version: c.APIVersion}
	if e.version != "" && !versionForm.MatchString(e.version) {
		bad("%s is %q; it should be a version such as 7.0.3.0", n.apiVersion, e.version)
	}
	u, err := soap.ParseURL(c.URL)
	switch {
	case c.URL == "":
		bad("%s is empty; set it to the vCenter's host name or to https://host/sdk", n.url)
	// The text that does not parse is not shown: it may hold a password.
	case err != nil || u.Hostname() == "" || strings.ContainsAny(u.Hostname(), " \t"):
		bad("%s is not a URL; it should look like vcenter.example.com or https://vcenter.example.com/sdk%s", n.url, n.special(c.URL))
	case u.Scheme != "https" && u.Scheme != "http":
		bad("%s has the scheme %q; use https", n.url, u.Scheme)
	default:
		name, password := c.Username, c.Password
		if name == "" {
			name = u.User.Username()
		}
		if password == "" {
			password, _ = u.User.Password()
		}
		if name == "" {
			bad("%s is empty; set it to the user to log in as", n.username)
		}
		if password == "" {
			bad("%s is empty; set it to the user's password", n.password)
		}
		e.user = func() (string, string) { return name, password }
		u.User = nil
		e.url = u
	}

	if c.CACerts != "" {
		e.roots = x509.NewCertPool()
		for _, name := range filepath.SplitList(c.CACerts) {
			pem, err := os.ReadFile(name)
			if err != nil {
				bad("%s: %w", n.caCerts, err)
			} else if !e.roots.AppendCertsFromPEM(pem) {
				bad("%s: %s holds no PEM certificate", n.caCerts, name)
			}
		}
	}
	if c.Thumbprint != "" {
		tp := strings.ToUpper(c.Thumbprint)
		if !thumbprintForm.MatchString(tp) {
			bad("%s is %q; it should be 20 (SHA-1) or 32 (SHA-256) bytes in hexadecimal, separated by colons", n.thumbprint, c.Thumbprint)
		}
		if c.Insecure {
			bad("%s and Insecure contradict each other: Insecure accepts every certificate", n.thumbprint)
		}
		e.thumbprints[tp] = true
	}
	for _, name := range filepath.SplitList(c.KnownHosts) {
		if err := e.loadKnownHosts(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			bad("%s: %w", n.knownHosts, err)
		}
	}
	return e, errors.Join(errs...)
}

// loadKnownHosts takes the thumbprints of this endpoint's host from a file.
func (e *endpoint) loadKnownHosts(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		host, tp, ok := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if ok && e.url != nil && hostPort(host, "443") == hostPort(e.url.Host, "443") {
			e.thumbprints[strings.ToUpper(strings.TrimSpace(tp))] = true
		}
	}
	return lines.Err()
}

// hostPort is the address in one form, with the default port if it names none.
func hostPort(host, port string) string {
	u := url.URL{Host: host}
	if u.Port() != "" {
		port = u.Port()
	}
	return strings.ToLower(u.Hostname()) + ":" + port
}
