package userland

import (
	"cmp"
	"context"
	"crypto/rsa"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/sshd"
)

// sshCommands are those of OpenSSH:
//
//	ssh-keygen [-q] [-t ed25519|ecdsa] [-b BITS] [-N ""] [-C TEXT] -f FILE     makes a key pair
//	ssh-keygen -y [-P ""] -f FILE, ssh-keygen -l [-f FILE], ssh-keygen -A
//	sshd -t, sshd -T (what the simulation acts on, as now on disk)
//	sftp-server: see sftp.go
//	ssh, scp and sftp are not there
var sshCommands = map[string]machine.Command{"ssh-keygen": cmdKeygen, "sshd": cmdSSHD}

var cmdKeygen = parsed("-q -t: -b: -N: -C: -f: -y -l -A -P: -v", func(ctx context.Context, p *machine.Proc, o *options) int {
	if o.set["-N"] != "" || o.set["-P"] != "" {
		return p.NotSimulated("passphrases")
	}
	file := o.set["-f"]
	switch {
	case o.has("-A"):
		if !rootOnly(p) {
			return 1
		}
		if err := p.Host.Disk.MakeHostKeys(); err != nil {
			return p.Fail(1, "%v", err)
		}
		return 0
	case o.has("-y"):
		data, err := p.ReadFile(file)
		if err != nil {
			return p.Fail(255, "%s: %s", file, disk.Reason(err))
		}
		key, err := ssh.ParsePrivateKey(data)
		if err != nil {
			return p.Fail(255, "Load key \"%s\": error in libcrypto", file)
		}
		fmt.Fprint(p.Stdout, string(ssh.MarshalAuthorizedKey(key.PublicKey())))
		return 0
	case o.has("-l"):
		return fingerprints(ctx, p, file)
	}
	kind := cmp.Or(o.set["-t"], "ed25519")
	if kind != "ed25519" && kind != "ecdsa" {
		return p.NotSimulated("-t " + kind)
	}
	if file == "" || !o.has("-N") {
		return p.NotSimulated("without -f and -N: it would ask")
	}
	if _, err := p.View().Stat(p.Path(file)); err == nil {
		fmt.Fprintf(p.Stdout, "%s already exists.\nOverwrite (y/n)? ", file)
		if line, _ := readLine(p.Stdin); line != "y" {
			return 1
		}
	}
	comment, ok := o.set["-C"]
	if !ok {
		comment = p.User + "@" + p.Host.Hostname()
	}
	private, public, err := disk.NewKeyPair(kind, comment)
	if err == nil {
		_ = p.View().Remove(p.Path(file))
		if err = p.WriteFile(file, private, 0o600); err == nil {
			err = p.WriteFile(file+".pub", public, 0o644)
		}
	}
	if err != nil {
		return p.Fail(1, "Saving key \"%s\" failed: %s", file, disk.Reason(err))
	}
	if !o.has("-q") {
		fmt.Fprintf(p.Stdout, "Generating public/private %s key pair.\nYour identification has been saved in %s\nYour public key has been saved in %s.pub\n", kind, file, file)
	}
	return 0
})

func fingerprints(ctx context.Context, p *machine.Proc, file string) int {
	var data []byte
	var err error
	if file == "" || file == "-" {
		data, err = readAll(ctx, p.Stdin)
	} else if data, err = p.ReadFile(file + ".pub"); err != nil {
		data, err = p.ReadFile(file)
	}
	if err != nil {
		return p.Fail(255, "%s: %s", file, disk.Reason(err))
	}
	some := false
	for _, l := range lines(string(data)) {
		key, comment, _, _, err := ssh.ParseAuthorizedKey([]byte(l))
		if err != nil {
			continue
		}
		some = true
		fmt.Fprintf(p.Stdout, "%d %s %s (%s)\n", keyBits(key), ssh.FingerprintSHA256(key), cmp.Or(comment, "no comment"), strings.ToUpper(strings.TrimPrefix(strings.Split(key.Type(), "-nist")[0], "ssh-")))
	}
	if !some {
		return p.Fail(255, "%s is not a public key file.", file)
	}
	return 0
}

func keyBits(k ssh.PublicKey) int {
	if c, ok := k.(ssh.CryptoPublicKey); ok {
		if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok {
			return r.N.BitLen()
		}
	}
	return 256
}

var cmdSSHD = parsed("-t -T", func(_ context.Context, p *machine.Proc, o *options) int {
	if !o.has("-t", "-T") {
		return p.NotSimulated("running as a daemon")
	}
	if _, err := p.ReadFile("/etc/ssh/sshd_config"); err != nil {
		fmt.Fprintf(p.Stderr, "/etc/ssh/sshd_config: %s\n", disk.Reason(err))
		return 255
	}
	if p.User != "root" { // who alone may read the keys
		fmt.Fprintln(p.Stderr, "sshd: no hostkeys available -- exiting.")
		return 1
	}
	d, err := sshd.ReadConfig(p.Host.Disk)
	if err != nil {
		p.Host.Refused(err, p.User)
		_, _ = io.WriteString(p.Stderr, err.Error()+"\n")
		return 255
	}
	if !o.has("-T") {
		return 0
	}
	for _, l := range d.Effective() {
		fmt.Fprintln(p.Stdout, l)
	}
	return 0
})
