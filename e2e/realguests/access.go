package realguests

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

// Welcome prints what to paste into another terminal, so that govc, package e2e and ssh there use a
// started Server of the site that has a JumpAddr. The files that it names are gone after Close.
func (s *Site) Welcome(out io.Writer, srv *vspheretest.Server) error {
	host, port, err := net.SplitHostPort(srv.Jump)
	if err != nil {
		return fmt.Errorf("the server has no jump host: %w", err)
	}
	known, config := filepath.Join(s.dir, "known_hosts"), filepath.Join(s.dir, "ssh_config")
	lines := fmt.Sprintf("[%s]:%s %s\n", host, port, srv.JumpKey)
	for _, k := range srv.HostKeys {
		lines += "* " + k + "\n" // guests are clones: they have the template's keys
	}
	if err := os.WriteFile(known, []byte(lines), 0o600); err != nil {
		return err
	}
	text := fmt.Sprintf(`Host jump
	HostName %s
	Port %s
	User lab
Host 10.* 192.168.*
	ProxyJump jump
	User root
Host *
	IdentityFile "%s"
	IdentitiesOnly yes
	UserKnownHostsFile "%s"
	StrictHostKeyChecking yes
`, host, port, s.KeyFile(), known)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	topology := s.topology
	for _, e := range append(srv.Env(),
		"E2E_SSH_KEY="+s.KeyFile(), "E2E_KNOWN_HOSTS="+known, "E2E_SSH_JUMP=lab@"+srv.Jump,
		"E2E_OS="+topology.OS, fmt.Sprintf("E2E_POOLS=%d", topology.Pools),
		fmt.Sprintf("E2E_DISK_GIB=%d", topology.DiskGiB),
		"E2E_EXPECT="+(4*time.Minute).String(),
	) {
		name, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(out, "export %s='%s'\n", name, strings.ReplaceAll(value, "'", `'\''`))
	}
	fmt.Fprintf(out, "# then: go test ./e2e -run Pools -v -timeout 30m\n")
	fmt.Fprintf(out, "# guests: ssh -F %s ADDRESS; consoles and logs are in %s\n", config, s.dir)
	return nil
}
