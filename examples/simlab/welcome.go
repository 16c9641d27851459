package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// keyFile is the name of the key that logs in to guests and to the jump host, in StateDir.
const keyFile = "id_ed25519"

// welcome prints what to paste into another terminal, and writes the files that it names.
func (l *lab) welcome(out io.Writer) error {
	srv := l.srv
	known := filepath.Join(srv.StateDir, "known_hosts")
	var lines strings.Builder
	fmt.Fprintf(&lines, "%s %s\n", bracketed(srv.Jump), srv.JumpKey)
	for _, k := range srv.HostKeys {
		fmt.Fprintf(&lines, "* %s\n", k) // guests are clones: they have the template's keys
	}
	if err := os.WriteFile(known, []byte(lines.String()), 0o600); err != nil {
		return err
	}
	ca := filepath.Join(srv.StateDir, "ca.pem") // the Server's own file goes with it
	if err := os.WriteFile(ca, srv.CA, 0o600); err != nil {
		return err
	}
	key := filepath.Join(srv.StateDir, keyFile)

	fmt.Fprintf(out, "# a vCenter on %s, certificate %s\n", srv.URL.Host, srv.Thumbprint)
	for _, e := range srv.Env() {
		name, value, _ := strings.Cut(e, "=")
		if name == "GOVC_TLS_CA_CERTS" {
			value = ca
		}
		fmt.Fprintf(out, "export %s=%s\n", name, quote(value))
	}
	exports := append([][2]string{{"E2E_SSH_KEY", key}, {"E2E_KNOWN_HOSTS", known}, {"E2E_SSH_JUMP", "lab@" + srv.Jump}}, l.exports...)
	for _, e := range exports {
		fmt.Fprintf(out, "export %s=%s\n", e[0], quote(e[1]))
	}
	config := filepath.Join(srv.StateDir, "ssh_config")
	if err := os.WriteFile(config, []byte(sshConfig(srv.Jump, key, known)), 0o600); err != nil {
		return err
	}
	if l.expect > 0 {
		fmt.Fprintf(out, "# then: go test ./e2e -run Pools -v%s\n", timeout(l.expect))
	}
	fmt.Fprintf(out, "# guests: ssh -F %s ADDRESS\n", quote(config))
	fmt.Fprintln(out, "# Ctrl-C saves and stops; the lab is kept in", srv.StateDir)
	return nil
}

// timeout is the flag that go test needs if golden, and then two roles, take so long each.
func timeout(each time.Duration) string {
	all := 3*each + 2*time.Minute
	if all < 8*time.Minute { // go test has ten by itself
		return ""
	}
	return " -timeout " + (2 * all).Round(time.Minute).String()
}

// sshConfig is for any OpenSSH client: options on its command line would not reach the jump host.
func sshConfig(jump, key, known string) string {
	i := strings.LastIndex(jump, ":")
	return fmt.Sprintf(`Host simlab-jump
	HostName %s
	Port %s
	User lab
Host 10.* 192.168.* 172.*
	ProxyJump simlab-jump
	User root
Host *
	IdentityFile "%s"
	IdentitiesOnly yes
	UserKnownHostsFile "%s"
	StrictHostKeyChecking yes
`, jump[:i], jump[i+1:], key, known)
}

// bracketed is host:port as known_hosts has it.
func bracketed(addr string) string {
	i := strings.LastIndex(addr, ":")
	return "[" + addr[:i] + "]:" + addr[i+1:]
}

// quote is s as one word of a shell.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
