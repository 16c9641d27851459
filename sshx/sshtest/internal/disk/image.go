package disk

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/pem"
	"io/fs"

	"golang.org/x/crypto/ssh"
)

const sshdConfig = `# What Red Hat's packages ship, in one file.
Include /etc/ssh/sshd_config.d/*.conf
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM yes
AuthorizedKeysFile .ssh/authorized_keys
AcceptEnv LANG LC_*
Subsystem sftp /usr/libexec/openssh/sftp-server
`

const osRelease = `NAME="Red Hat Enterprise Linux"
VERSION="9.4 (Plow)"
ID="rhel"
ID_LIKE="fedora"
VERSION_ID="9.4"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Red Hat Enterprise Linux 9.4 (Plow)"
ANSI_COLOR="0;31"
`

// NewDisk returns the disk of a small machine of the RHEL 9 kind.
func NewDisk() *Disk {
	d := newDisk()
	for _, dir := range []string{
		"/boot", "/dev/shm", "/etc/ssh/sshd_config.d", "/etc/sudoers.d", "/home", "/mnt", "/opt", "/proc/sys/kernel/random",
		"/root", "/run/lock", "/srv", "/sys", "/tmp", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/libexec", "/usr/local/bin", "/usr/local/sbin",
		"/usr/share", "/var/cache", "/var/empty/sshd", "/var/lib", "/var/log", "/var/spool", "/var/tmp",
	} {
		Must(d.MkdirAll(dir, 0o755))
	}
	for link, to := range map[string]string{
		"/bin": "usr/bin", "/sbin": "usr/sbin", "/lib": "usr/lib", "/var/run": "../run", "/var/lock": "../run/lock",
	} {
		Must(d.Symlink(to, link))
	}
	for path, mode := range map[string]fs.FileMode{
		"/root": 0o550, "/dev/shm": 0o777 | fs.ModeSticky, "/tmp": 0o777 | fs.ModeSticky, "/var/tmp": 0o777 | fs.ModeSticky, "/etc/sudoers.d": 0o750, "/etc/ssh/sshd_config.d": 0o700,
	} {
		Must(d.Chmod(path, mode))
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		d.Device(name)
	}
	for _, f := range []struct {
		path, text string
		mode       fs.FileMode
	}{
		{"/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nbin:x:1:1:bin:/bin:/sbin/nologin\ndaemon:x:2:2:daemon:/sbin:/sbin/nologin\n" +
			"mail:x:8:12:mail:/var/spool/mail:/sbin/nologin\nnobody:x:65534:65534:Kernel Overflow User:/:/sbin/nologin\nsshd:x:74:74:Privilege-separated SSH:/usr/share/empty.sshd:/sbin/nologin\n", 0o644},
		{"/etc/group", "root:x:0:\nbin:x:1:\ndaemon:x:2:\nsys:x:3:\nadm:x:4:\nwheel:x:10:\nmail:x:12:\nusers:x:100:\nsshd:x:74:\nnobody:x:65534:\n", 0o644},
		{"/etc/shadow", "root:!!:20000:0:99999:7:::\nbin:*:20000:0:99999:7:::\ndaemon:*:20000:0:99999:7:::\nmail:*:20000:0:99999:7:::\nnobody:*:20000:0:99999:7:::\nsshd:!!:20000::::::\n", 0},
		{"/etc/sudoers", "Defaults always_set_home\nDefaults env_reset\nDefaults secure_path = /sbin:/bin:/usr/sbin:/usr/bin\nroot ALL=(ALL) ALL\n%wheel ALL=(ALL) ALL\n#includedir /etc/sudoers.d\n", 0o440},
		{"/etc/ssh/sshd_config", sshdConfig, 0o600},
		{"/etc/hostname", "localhost.localdomain\n", 0o644},
		{"/etc/hosts", "127.0.0.1   localhost localhost.localdomain\n::1         localhost localhost.localdomain\n", 0o644},
		{"/etc/os-release", osRelease, 0o644},
		{"/etc/redhat-release", "Red Hat Enterprise Linux release 9.4 (Plow)\n", 0o644},
		{"/etc/machine-id", randomHex(16) + "\n", 0o444},
		{"/etc/environment", "", 0o644},
		{"/etc/shells", "/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n", 0o644},
		{"/root/.bashrc", "", 0o644},
		{"/var/log/messages", "", 0o600},
	} {
		Must(d.WriteFile(f.path, []byte(f.text), f.mode))
	}
	Must(d.MakeHostKeys())
	return d
}

// Must is for what cannot fail on a disk that only we know.
func Must(err error) {
	if err != nil {
		panic("sshtest: " + err.Error())
	}
}

// Device makes a device in /dev, unless it is there.
func (d *Disk) Device(name string) {
	kind := name
	switch name {
	case "urandom":
		kind = "random"
	case "tty":
		kind = "null"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	at, err := d.Root().find("/dev/"+name, false)
	Must(err)
	if at.ino == 0 {
		d.add(at.dir, name, &inode{mode: fs.ModeDevice | fs.ModeCharDevice | 0o666, device: kind})
	}
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

// MakeHostKeys writes the kinds of host keys that are missing, as sshd-keygen@.service does at
// boot.
func (d *Disk) MakeHostKeys() error {
	for _, kind := range []string{"ed25519", "ecdsa"} {
		file := "/etc/ssh/ssh_host_" + kind + "_key"
		if i, err := d.Stat(file); err == nil && i.Size() > 0 {
			continue
		}
		private, public, err := NewKeyPair(kind, "")
		if err != nil {
			return err
		}
		for path, data := range map[string][]byte{file: private, file + ".pub": public} {
			_ = d.Remove(path)
			mode := fs.FileMode(0o600)
			if path != file {
				mode = 0o644
			}
			if err := d.WriteFile(path, data, mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// NewKeyPair returns a key in OpenSSH's private form and its public line.
func NewKeyPair(kind, comment string) (private, public []byte, err error) {
	var key crypto.Signer
	switch kind {
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, nil, err
	}
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	line := ssh.MarshalAuthorizedKey(pub)
	if comment != "" {
		line = append(line[:len(line)-1], []byte(" "+comment+"\n")...)
	}
	return pem.EncodeToMemory(block), line, nil
}

// RemoveHostKeys removes sshd's host keys.
func (d *Disk) RemoveHostKeys() error {
	list, err := d.ReadDir("/etc/ssh")
	if err != nil {
		return err
	}
	for _, e := range list {
		if name := e.Name(); len(name) > 9 && name[:9] == "ssh_host_" {
			if err := d.Remove("/etc/ssh/" + name); err != nil {
				return err
			}
		}
	}
	return nil
}
