package sshd

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// A Config is sshd as it was configured when it was started: as with the real one, a change of its
// files means nothing to it until it is started again.
type Config struct {
	lines []configLine
	keys  []ssh.Signer
}

// configLine is one directive, with the Match block that it is in.
type configLine struct {
	key   string // lower case
	value string
	match []string // "user", "admin", "group", "wheel", ...; nil outside of blocks
}

// sshdDefaults are the defaults of what the simulation acts on.
var sshdDefaults = map[string]string{
	"permitrootlogin": "prohibit-password", "pubkeyauthentication": "yes", "passwordauthentication": "yes",
	"kbdinteractiveauthentication": "yes", "usepam": "no", "strictmodes": "yes", "maxsessions": "10", "maxauthtries": "6",
	"maxstartups": "10:30:100", "logingracetime": "120", "clientaliveinterval": "0", "clientalivecountmax": "3",
	"authorizedkeysfile": ".ssh/authorized_keys .ssh/authorized_keys2", "allowtcpforwarding": "yes", "disableforwarding": "no",
	"banner": "none", "permittty": "yes", "forcecommand": "none",
	"allowusers": "", "denyusers": "", "allowgroups": "", "denygroups": "", "acceptenv": "", "subsystem": "", "hostkey": "", "hostcertificate": "", "include": "",
}

// sshdIgnored are directives that the simulation takes and that change nothing in it.
var sshdIgnored = strings.Fields(`port addressfamily listenaddress syslogfacility loglevel ignorerhosts hostbasedauthentication
	permitemptypasswords gssapiauthentication gssapicleanupcredentials x11forwarding x11displayoffset x11uselocalhost printmotd printlastlog
	tcpkeepalive permituserenvironment compression usedns pidfile permittunnel versionaddendum allowagentforwarding gatewayports
	ciphers macs kexalgorithms hostkeyalgorithms pubkeyacceptedalgorithms pubkeyacceptedkeytypes casignaturealgorithms rekeylimit
	persourcepenalties persourcepenaltyexemptlist persourcemaxstartups ipqos challengeresponseauthentication requiredrsasize
	kerberosauthentication protocol`)

// sshdLacking are directives that matter and that the simulation does not know.
var sshdLacking = strings.Fields(`trustedusercakeys authorizedkeyscommand authorizedkeyscommanduser authorizedprincipalsfile
	authorizedprincipalscommand chrootdirectory permitopen permitlisten authenticationmethods setenv revokedkeys permituserrc exposeauthinfo
	allowstreamlocalforwarding streamlocalbindunlink hostkeyagent`)

// several are directives whose lines add up; of all others the first counts.
var several = []string{"allowusers", "denyusers", "allowgroups", "denygroups", "acceptenv", "subsystem", "hostkey", "hostcertificate"}

// ReadConfig reads sshd's configuration and host keys, and says what sshd -t would.
func ReadConfig(d *disk.Disk) (*Config, error) {
	s := &Config{}
	if err := s.read(d, "/etc/ssh/sshd_config", 0); err != nil {
		return nil, err
	}
	for _, l := range s.lines {
		if err := l.check(); err != nil {
			return nil, err
		}
	}
	files := strings.Fields(s.get("hostkey", nil))
	if len(files) == 0 {
		for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
			files = append(files, "/etc/ssh/ssh_host_"+kind+"_key")
		}
	}
	for _, f := range files {
		data, err := d.ReadFile(f)
		if disk.IsNotExist(err) {
			continue
		}
		if i, err := d.Stat(f); err == nil && i.Mode().Perm()&0o077 != 0 && i.Mode().Perm() != 0o640 {
			continue // "UNPROTECTED PRIVATE KEY FILE"
		}
		if key, err := ssh.ParsePrivateKey(data); err == nil {
			s.keys = append(s.keys, key)
		}
	}
	for f := range strings.FieldsSeq(s.get("hostcertificate", nil)) {
		if err := s.certify(d, f); err != nil {
			return nil, err
		}
	}
	if len(s.keys) == 0 {
		return nil, errors.New("sshd: no hostkeys available -- exiting.")
	}
	return s, nil
}

// certify adds a host certificate to the keys, for the key that it is about.
func (s *Config) certify(d *disk.Disk, file string) error {
	data, err := d.ReadFile(file)
	if err != nil {
		return fmt.Errorf("sshd: could not load host certificate %q: %s", file, disk.Reason(err))
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(data)
	cert, ok := pub.(*ssh.Certificate)
	if err != nil || !ok {
		return fmt.Errorf("sshd: %s: not a certificate", file)
	}
	for _, k := range s.keys {
		if string(k.PublicKey().Marshal()) == string(cert.Key.Marshal()) {
			c, err := ssh.NewCertSigner(cert, k)
			if err != nil {
				return err
			}
			s.keys = append(s.keys, c)
			return nil
		}
	}
	return fmt.Errorf("sshd: no matching private key for certificate: %s", file)
}

func (s *Config) read(d *disk.Disk, file string, depth int) error {
	data, err := d.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s: %s", file, disk.Reason(err))
	}
	var match []string
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		f := strings.Fields(strings.Replace(strings.TrimSpace(line), "=", " ", 1))
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		key, where := strings.ToLower(f[0]), fmt.Sprintf("%s line %d", file, n)
		if len(f) == 1 {
			return fmt.Errorf("%s: %s: missing argument", where, f[0])
		}
		_, acted := sshdDefaults[key]
		switch {
		case key == "match":
			if match, err = parseMatch(f[1:]); err != nil {
				return fmt.Errorf("%s: %w", where, err)
			}
		case key == "include":
			for _, pattern := range f[1:] {
				if err := s.include(d, pattern, depth); err != nil {
					return err
				}
			}
		case acted:
			value := strings.Trim(strings.Join(f[1:], " "), `"`)
			if key == "forcecommand" { // the rest of the line as it is
				value = strings.TrimLeft(strings.TrimSpace(line)[len(key):], " \t=")
			}
			s.lines = append(s.lines, configLine{key, value, match})
		case slices.Contains(sshdIgnored, key):
		case slices.Contains(sshdLacking, key):
			return fmt.Errorf("%s: %w", where, &machine.Refusal{Command: "sshd", What: f[0]})
		default:
			return fmt.Errorf("%s: Bad configuration option: %s", where, f[0])
		}
	}
	return nil
}

func (s *Config) include(d *disk.Disk, pattern string, depth int) error {
	if depth > 15 {
		return errors.New("sshd_config: too many nested Include")
	}
	if !path.IsAbs(pattern) {
		pattern = "/etc/ssh/" + pattern
	}
	files, err := fs.Glob(globFS{d}, strings.TrimPrefix(pattern, "/"))
	if err != nil {
		return fmt.Errorf("sshd_config: Include %s: %w", pattern, err)
	}
	for _, f := range files {
		if err := s.read(d, "/"+f, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// globFS is what fs.Glob needs of a Disk.
type globFS struct{ d *disk.Disk }

func (g globFS) Open(name string) (fs.File, error) {
	return nil, disk.Fail("open", name, fs.ErrInvalid)
}
func (g globFS) Stat(name string) (fs.FileInfo, error)      { return g.d.Stat("/" + name) }
func (g globFS) ReadDir(name string) ([]fs.DirEntry, error) { return g.d.ReadDir("/" + name) }

func parseMatch(f []string) ([]string, error) {
	var out []string
	for len(f) > 0 {
		switch kind := strings.ToLower(f[0]); {
		case kind == "all":
			f = f[1:]
			out = append(out, "all", "")
			continue
		case (kind == "user" || kind == "group") && len(f) > 1:
			out = append(out, kind, f[1])
			f = f[2:]
		default:
			return nil, &machine.Refusal{Command: "sshd", What: "Match " + strings.Join(f, " ")}
		}
	}
	return out, nil
}

func (l configLine) check() error {
	bad := func() error { return fmt.Errorf("sshd_config: bad %s value %q", l.key, l.value) }
	switch l.key {
	case "allowusers", "denyusers":
		if strings.Contains(l.value, "@") {
			return &machine.Refusal{Command: "sshd", What: l.key + " " + l.value}
		}
	case "permitrootlogin":
		if !slices.Contains([]string{"yes", "no", "prohibit-password", "without-password", "forced-commands-only"}, l.value) {
			return bad()
		}
	case "pubkeyauthentication", "passwordauthentication", "kbdinteractiveauthentication", "usepam", "strictmodes", "disableforwarding", "permittty":
		if l.value != "yes" && l.value != "no" {
			return bad()
		}
	case "maxsessions", "maxauthtries", "clientalivecountmax":
		if n, err := strconv.Atoi(l.value); err != nil || n < 0 {
			return bad()
		}
	case "clientaliveinterval", "logingracetime":
		if _, err := sshdTime(l.value); err != nil {
			return bad()
		}
	case "allowtcpforwarding":
		if !slices.Contains([]string{"yes", "no", "all", "local", "remote"}, l.value) {
			return bad()
		}
	case "maxstartups":
		if _, err := parseStartups(l.value); err != nil {
			return bad()
		}
	}
	return nil
}

// sshdTime parses "90", "5m", "1h30m".
func sshdTime(s string) (time.Duration, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		return time.Duration(n) * time.Second, nil
	}
	return time.ParseDuration(strings.ToLower(s))
}

// parseStartups parses MaxStartups: "start:rate:full", or "full".
func parseStartups(s string) ([3]int, error) {
	var n [3]int
	f := strings.Split(s, ":")
	if len(f) == 1 {
		f = []string{f[0], "100", f[0]}
	}
	if len(f) != 3 {
		return n, strconv.ErrSyntax
	}
	for i := range f {
		var err error
		if n[i], err = strconv.Atoi(f[i]); err != nil {
			return n, err
		}
	}
	return n, nil
}

// get returns a directive's value for a user, or the global one if who is nil.
func (s *Config) get(key string, who *loginUser) string {
	var all []string
	// What a Match block says goes before what is outside of it, wherever it stands.
	for _, inBlock := range []bool{true, false} {
		for _, l := range s.lines {
			if l.key != key || (l.match != nil) != inBlock || !l.applies(who) {
				continue
			}
			if !slices.Contains(several, key) {
				return l.value
			}
			all = append(all, l.value)
		}
	}
	return cmp.Or(strings.Join(all, " "), sshdDefaults[key])
}

func (s *Config) is(key string, who *loginUser) bool { return s.get(key, who) == "yes" }

func (s *Config) number(key string, who *loginUser) int {
	n, _ := strconv.Atoi(s.get(key, who))
	return n
}

func (s *Config) time(key string) time.Duration {
	t, _ := sshdTime(s.get(key, nil))
	return t
}

// A loginUser is somebody who tries to log in.
type loginUser struct {
	disk.Account
	groups []string
}

func (l configLine) applies(who *loginUser) bool {
	for i := 0; i+1 < len(l.match); i += 2 {
		switch {
		case l.match[i] == "all":
		case who == nil:
			return false
		case l.match[i] == "user" && !matchList(l.match[i+1], who.Name):
			return false
		case l.match[i] == "group" && !slices.ContainsFunc(who.groups, func(g string) bool { return matchList(l.match[i+1], g) }):
			return false
		}
	}
	return true
}

// matchList matches a name with patterns separated by commas, of which "!..." excludes.
func matchList(patterns, name string) bool {
	found := false
	for p := range strings.SplitSeq(patterns, ",") {
		no, negated := strings.CutPrefix(p, "!")
		if ok, _ := path.Match(no, name); ok {
			if negated {
				return false
			}
			found = true
		}
	}
	return found
}

// allowed reports whether AllowUsers and its like let somebody in.
func (s *Config) allowed(who *loginUser) bool {
	any := func(key string, names ...string) bool {
		for p := range strings.FieldsSeq(s.get(key, who)) {
			if slices.ContainsFunc(names, func(n string) bool { return matchList(p, n) }) {
				return true
			}
		}
		return false
	}
	switch {
	case any("denyusers", who.Name), any("denygroups", who.groups...):
		return false
	case s.get("allowusers", who) != "" && !any("allowusers", who.Name):
		return false
	case s.get("allowgroups", who) != "" && !any("allowgroups", who.groups...):
		return false
	}
	return true
}

// subsystem returns the command of a subsystem, or "".
func (s *Config) subsystem(name string, who *loginUser) string {
	f := strings.Fields(s.get("subsystem", who))
	for i := 0; i+1 < len(f); i += 2 {
		if f[i] == name {
			return f[i+1]
		}
	}
	return ""
}

// Effective returns what sshd -T prints: the directives that are acted on, with their values.
func (s *Config) Effective() (lines []string) {
	for _, k := range slices.Sorted(maps.Keys(sshdDefaults)) {
		value := s.get(k, nil)
		if k == "permitrootlogin" && value == "prohibit-password" {
			value = "without-password"
		}
		if value == "" {
			continue
		}
		if slices.Contains(several, k) && k != "subsystem" {
			for v := range strings.FieldsSeq(value) {
				lines = append(lines, k+" "+v)
			}
			continue
		}
		if t, err := sshdTime(value); err == nil && (k == "clientaliveinterval" || k == "logingracetime") {
			value = fmt.Sprint(int(t.Seconds()))
		}
		lines = append(lines, k+" "+value)
	}
	return lines
}
