package pool

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

// loginAge is how long the files of a login command are kept after it was last printed.
const loginAge = 30 * 24 * time.Hour

// Login returns the words of a command that logs in to the host from this machine, such as
// "ssh -F .../config con2": with the key, the jump hosts and the host keys of Spec.SSH, which it
// writes to files of the user's cache directory for that (see sshx.Config.WriteOpenSSH). The command
// works for as long as the host has the address.
func (h *Host) Login() ([]string, error) {
	h.mu.Lock()
	cfg, addr := h.cfg, h.addr
	h.mu.Unlock()
	if !addr.IsValid() {
		return nil, fmt.Errorf("%s: it has no address yet; look at the console of its VM", h.Name)
	}
	cfg.Address = addr.String()
	return cfg.WriteOpenSSH(loginDir(cfg))
}

// Look is a command, for a shell, that logs in to the host; see Login.
func (h *Host) Look() string {
	words, err := h.Login()
	if err != nil {
		if addr := h.Addr(); addr.IsValid() {
			return fmt.Sprintf("ssh %s@%s", cmp.Or(h.cfg.User, "root"), addr)
		}
		return fmt.Sprintf("it has no address yet; look at the console of VM %q", h.Name)
	}
	return shellWords(words)
}

// shellWords joins words for a shell, quoted where that is needed.
func shellWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if w == "" || strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=,") != "" {
			quoted[i] = sshx.Quote(w)
		}
	}
	return strings.Join(quoted, " ")
}

// loginDir returns the directory for the files of a login: always the same for the same login.
func loginDir(cfg sshx.Config) string {
	cache, err := os.UserCacheDir()
	if err != nil { // there is no home
		cache = filepath.Join(os.TempDir(), fmt.Sprintf("poolready-%d", os.Getuid()))
	}
	base := filepath.Join(cache, "poolready", "ssh")
	hops := append([]sshx.Config{cfg}, cfg.Jump...)
	if d, ok := cfg.Dialer.(interface{ JumpHosts() []sshx.Config }); ok {
		hops = append(hops, d.JumpHosts()...)
	}
	var parts []string
	for _, c := range hops {
		parts = append(parts, c.Name, c.User, c.Address, fmt.Sprintf("%+v", c.HostKeys))
		for _, k := range c.Keys {
			parts = append(parts, ssh.FingerprintSHA256(k.PublicKey()))
			if k, ok := k.(interface{ IdentityFile() string }); ok {
				parts = append(parts, k.IdentityFile())
			}
		}
	}
	dir := filepath.Join(base, fmt.Sprintf("%.40s-%.12s", filepath.Base(cfg.Name), hash(parts...)))
	if _, err := os.Stat(dir); err != nil {
		removeOldLogins(base)
	}
	return dir
}

// removeOldLogins removes the files of logins that were printed long ago.
func removeOldLogins(base string) {
	all, _ := os.ReadDir(base) // without it there are none
	for _, d := range all {
		if info, err := d.Info(); err == nil && time.Since(info.ModTime()) > loginAge {
			_ = os.RemoveAll(filepath.Join(base, d.Name()))
		}
	}
}
