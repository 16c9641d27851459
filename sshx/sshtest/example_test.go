package sshtest_test

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/sshtest"
)

// A test of something that administers machines over SSH: here, x/crypto/ssh itself.
func ExampleNewServer() { //nolint:testableexamples // it is a test, which go test does not run
	TestDeploy := func(t *testing.T) {
		srv := sshtest.NewServer(t)
		c, err := ssh.Dial("tcp", srv.Addr, srv.ClientConfig("admin"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.CombinedOutput("echo 'PermitRootLogin no' | sudo tee /etc/ssh/sshd_config.d/10.conf && sudo sshd -t && echo fine")
		fmt.Printf("%s%v\n", out, err)
	}
	_ = TestDeploy
}

// A machine without a network: a script is run, and looked at from outside.
func ExampleHost() {
	h := sshtest.NewHost(sshtest.NewDisk())
	h.Commands = map[string]sshtest.Command{
		"systemctl": func(_ context.Context, p *sshtest.Proc) int {
			if len(p.Args) == 3 && p.Args[1] == "restart" {
				fmt.Fprintf(p.Stdout, "restarted %s on %s\n", p.Args[2], p.Host.Hostname())
				return 0
			}
			return p.NotSimulated(p.Args[1])
		},
	}
	h.Boot()
	defer h.Halt()
	script := `
set -eu
echo con1.example.com >/etc/hostname
sed -i 's/^#*MaxSessions.*//; $a MaxSessions 20' /etc/ssh/sshd_config
systemctl restart sshd
systemctl mask cups
`
	out, code := h.Run(context.Background(), script)
	fmt.Printf("%sexit %d\n", out, code)
	data, _ := h.Disk().ReadFile("/etc/hostname")
	fmt.Printf("%s", data)
	// Output:
	// restarted sshd on con1.example.com
	// sshtest: systemctl: not simulated: mask
	// exit 64
	// con1.example.com
}
