package sshx

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// FromEnv returns the Config that variables of the environment describe, but for Name and
// Address. Their names begin with prefix; with "E2E_" they are
//
//	E2E_SSH_KEY      file of the private key that logs in, without a passphrase; required
//	E2E_KNOWN_HOSTS  known_hosts file with the keys of the machines and jump hosts; without it
//	                 the first key that each shows is trusted, and logf is told
//	E2E_SSH_JUMP     jump hosts as for ssh -J, [user@]host[:port],...; the same key logs in
//
// The error names every variable that is missing or wrong.
func FromEnv(prefix string, logf func(format string, args ...any)) (Config, error) {
	var errs []error
	bad := func(name, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s%s %w", prefix, name, fmt.Errorf(format, args...)))
	}
	cfg := Config{Logf: logf}
	if file := os.Getenv(prefix + "SSH_KEY"); file == "" {
		bad("SSH_KEY", "is empty; set it to the private key file that logs in")
	} else if key, err := ReadKey(file, ""); err != nil {
		bad("SSH_KEY", "is no key file: %w", unprefixed(err))
	} else {
		cfg.Keys = []ssh.Signer{key}
	}
	cfg.HostKeys.KnownHosts = os.Getenv(prefix + "KNOWN_HOSTS")
	cfg.HostKeys.TrustOnFirstUse = cfg.HostKeys.KnownHosts == ""
	if _, err := newTrust(cfg.filled()); err != nil {
		bad("KNOWN_HOSTS", "is no known_hosts file: %w", errors.Unwrap(err))
	}
	var jump []Config
	for _, hop := range strings.Split(os.Getenv(prefix+"SSH_JUMP"), ",") {
		if hop = strings.TrimSpace(hop); hop == "" {
			continue
		}
		one := cfg
		one.Address = hop
		if i := strings.LastIndex(hop, "@"); i >= 0 {
			one.User, one.Address = hop[:i], hop[i+1:]
		}
		if one.Address == "" {
			bad("SSH_JUMP", "has the hop %q, which names no host; write [user@]host[:port],...", hop)
		} else if strings.Contains(hop, "://") {
			bad("SSH_JUMP", "has the hop %q, which is a URL; write [user@]host[:port],...", hop)
		}
		jump = append(jump, one)
	}
	cfg.Jump = jump
	if err := errors.Join(errs...); err != nil {
		return Config{}, fmt.Errorf("sshx: configuration: %w", err)
	}
	return cfg, nil
}
