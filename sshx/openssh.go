package sshx

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// WriteOpenSSH writes into the directory dir, which it makes private to the user, what OpenSSH's
// client needs to log in to the same machine as the same user, with the same keys, jump hosts and
// trusted host keys: the files "config" and "known_hosts", and for fingerprints "pins", which needs
// OpenSSH 8.5. It returns the words of the command, such as "ssh -F dir/config con2"; scp, sftp and
// rsync -e take the same -F and name.
//
// A key that ReadKey read stays in its file, which config names; of a key that cannot be named,
// such as one of ParseKey, config says so, and ssh offers those of the user's agent. A Dialer
// that has a method JumpHosts() []Config names what other programs must go through to reach what it
// reaches; a Dialer without it is left out. InsecureIgnore is written as StrictHostKeyChecking=no.
func (c Config) WriteOpenSSH(dir string) (command []string, err error) {
	fail := func(err error) ([]string, error) {
		return nil, fmt.Errorf("sshx: %s: write OpenSSH configuration: %w", c.filled().Name, err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fail(err)
	}
	hops := c.Jump
	if d, ok := c.Dialer.(jumper); ok {
		hops = append(d.JumpHosts(), hops...)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	w := &openSSH{dir: dir}
	for i, h := range hops {
		h = h.filled()
		if err := w.host(h, fmt.Sprintf("jump%d", i+1), w.last); err != nil {
			return fail(err)
		}
	}
	name := alias(c.filled().Name)
	if err := w.host(c.filled(), name, w.last); err != nil {
		return fail(err)
	}
	files := map[string]string{"config": w.config.String(), "known_hosts": w.known.String()}
	if w.pins.Len() > 0 {
		files["pins"] = "case \"$1 $2 $3\" in\n" + w.pins.String() + "esac\n"
	}
	for file, text := range files {
		if err := writeWhole(filepath.Join(dir, file), text); err != nil {
			return fail(err)
		}
	}
	return []string{"ssh", "-F", filepath.Join(dir, "config"), name}, nil
}

// A jumper is a Dialer that knows what other programs must go through.
type jumper interface{ JumpHosts() []Config }

// An openSSH is the text of the files as far as they are written.
type openSSH struct {
	dir                 string
	config, known, pins strings.Builder
	keys                int
	last                string // the alias of the last hop
}

// host adds a machine, reached through the one with the alias via, if there is one.
func (w *openSSH) host(c Config, name, via string) error {
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil {
		return err
	}
	if _, err := newTrust(c); err != nil { // what follows is written as it is
		return err
	}
	line := func(format string, args ...any) { fmt.Fprintf(&w.config, format+"\n", args...) }
	if strings.ContainsAny(c.User+host, "\x00\r\n\"%") {
		return fmt.Errorf("%q at %q: OpenSSH's configuration cannot name it", c.User, host)
	}
	line("Host %s\n  HostName %s\n  Port %s\n  User \"%s\"", name, host, port, c.User)
	line("  HostKeyAlias %s\n  CheckHostIP no\n  GlobalKnownHostsFile /dev/null", name)
	files := []string{filepath.Join(w.dir, "known_hosts")}
	if err := w.pinned(c, name, line); err != nil {
		return err
	}
	for _, k := range c.HostKeys.Authorities {
		fmt.Fprintf(&w.known, "@cert-authority %s %s\n", name, k)
	}
	if c.HostKeys.KnownHosts != "" { // as what it has of Name is looked up there
		if err := w.knownOf(c, name); err != nil {
			return err
		}
	}
	check := "yes"
	switch {
	case c.HostKeys.InsecureIgnore:
		check, files = "no", []string{os.DevNull}
	case c.HostKeys.TrustOnFirstUse:
		check = "accept-new"
	}
	for i, f := range files {
		if files[i], err = configPath(f); err != nil {
			return err
		}
	}
	line("  UserKnownHostsFile %s\n  StrictHostKeyChecking %s", strings.Join(files, " "), check)
	named := false
	for _, k := range c.Keys {
		file, err := w.keyFile(k)
		if err != nil {
			return err
		}
		if file == "" {
			line("  # a key that is in no file: %s", fingerprint(k.PublicKey()))
			continue
		}
		if file, err = configPath(file); err != nil {
			return err
		}
		line("  IdentityFile %s", file)
		named = true
	}
	if named {
		line("  IdentitiesOnly yes")
	}
	if via != "" {
		line("  ProxyJump %s", via)
	}
	w.last = name
	return nil
}

// pinned adds the keys that are pinned. OpenSSH takes fingerprints from a command alone: one that prints
// the key that the machine shows, if that has one of them.
func (w *openSSH) pinned(c Config, name string, line func(string, ...any)) error {
	var types []string
	short := false
	for _, pin := range c.HostKeys.Pinned {
		kind, rest, _ := strings.Cut(strings.TrimSpace(pin), " ")
		if kind == ssh.KeyAlgoRSA {
			types = append(types, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			types = append(types, kind)
		}
		if print, ok := strings.CutPrefix(rest, "SHA256:"); ok {
			short = true
			fmt.Fprintf(&w.pins, "'%s %s SHA256:%s') echo \"$1 $2 $4\" ;;\n", name, kind, print)
		} else {
			fmt.Fprintf(&w.known, "%s %s\n", name, pin)
		}
	}
	if !short {
		return nil
	}
	path, err := configPath(filepath.Join(w.dir, "pins"))
	if err != nil {
		return err
	}
	line("  KnownHostsCommand /bin/sh %s %s %%t %%f %%K", path, name)
	if len(c.HostKeys.Authorities) == 0 && c.HostKeys.KnownHosts == "" {
		line("  HostKeyAlgorithms %s", strings.Join(types, ","))
	}
	return nil
}

// knownOf adds what the known_hosts file has of a machine.
func (w *openSSH) knownOf(c Config, name string) error {
	t, err := newTrust(c)
	if err != nil {
		return err
	}
	for mark, keys := range map[string][]ssh.PublicKey{"": t.known.keys, "@cert-authority ": t.known.authorities, "@revoked ": t.known.revoked} {
		for _, k := range keys {
			fmt.Fprintf(&w.known, "%s%s %s\n", mark, name, AuthorizedKey(k))
		}
	}
	return nil
}

// keyFile returns the file that holds a key, or "".
func (w *openSSH) keyFile(k ssh.Signer) (string, error) {
	switch k := k.(type) {
	case interface{ IdentityFile() string }:
		return filepath.Abs(k.IdentityFile())
	case interface{ PrivateKey() []byte }: // one of a simulation, which is no secret
		w.keys++
		file := filepath.Join(w.dir, fmt.Sprintf("key%d", w.keys))
		return file, writeWhole(file, string(k.PrivateKey()))
	}
	return "", nil
}

// configPath returns a path as OpenSSH's configuration takes it.
func configPath(path string) (string, error) {
	if strings.ContainsAny(path, "\"\\\x00\r\n") || strings.Contains(path, "${") {
		return "", fmt.Errorf("OpenSSH's configuration cannot name the path %q", path)
	}
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`, nil
}

// alias returns a name as a word that is no pattern.
func alias(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:", r) || r == '-' {
			return r
		}
		return '-'
	}, strings.TrimLeft(name, "-"))
}

// writeWhole writes a private file, whole or not at all.
func writeWhole(file, text string) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
