package sshtest

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// scripts runs scripts one after the other on one machine.
func scripts(t *testing.T, h *Host, table []struct{ user, script, want string }) {
	t.Helper()
	for _, tc := range table {
		user := tc.user
		if user == "" {
			user = "root"
		}
		out, code := h.RunAs(t.Context(), user, tc.script+"\necho \"=$?\"")
		assert.Equal(t, tc.want, out, "%s: %s", user, tc.script)
		assert.Zero(t, code)
	}
}

func TestUserCommands(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	scripts(t, h, []struct{ user, script, want string }{
		{"", "useradd -m -s /bin/sh -G wheel -c 'Test User' testy; id testy; getent passwd testy", "uid=1001(testy) gid=1001(testy) groups=1001(testy),10(wheel)\ntesty:x:1001:1001:Test User:/home/testy:/bin/sh\n=0\n"},
		{"", "stat -c '%U %G %a' /home/testy; grep -c ^testy: /etc/shadow", "testy testy 700\n1\n=0\n"},
		{"", "useradd testy", "useradd: user 'testy' already exists\n=9\n"},
		{"", "useradd -u 1001 x", "useradd: UID 1001 is not unique\n=4\n"},
		{"", "useradd -g nope x", "useradd: group 'nope' does not exist\n=6\n"},
		{"", "useradd -G nope x; id x", "useradd: group 'nope' does not exist\nid: 'x': no such user\n=1\n"},
		{"", "useradd --frob x", "sshtest: useradd: not simulated: --frob\n=64\n"},
		{"", "groupadd ops; usermod -aG ops testy; id -nG testy; usermod -G ops testy; id -nG testy", "testy wheel ops\ntesty ops\n=0\n"},
		{"", "groupadd ops", "groupadd: group 'ops' already exists\n=9\n"},
		{"", "getent group ops; getent group nope", "ops:x:1002:testy\n=2\n"},
		{"", "passwd -l testy; passwd -S testy; passwd testy", "testy LK\nsshtest: passwd: not simulated: setting passwords\n=64\n"},
		{"", "echo testy:secret | chpasswd", "sshtest: chpasswd: not simulated: passwords\n=64\n"},
		{"testy", "useradd x", "useradd: Permission denied.\n=1\n"},
		{"testy", "whoami; cd; pwd; id -u; echo $USER $HOME", "testy\n/home/testy\n1001\ntesty /home/testy\n=0\n"},
		{"testy", "cat /etc/shadow; echo x >/etc/f; test -r /etc/shadow; echo $?; test -w /tmp; echo $?", "cat: /etc/shadow: Permission denied\nbash: /etc/f: Permission denied\n1\n0\n=0\n"},
		{"testy", "kill 1; pkill nothing", "kill: (1) - No such process\n=1\n"},
		{"", "userdel -r testy; id testy; ls /home; getent group testy; getent group ops", "id: 'testy': no such user\nadmin\nops:x:1002:\n=0\n"},
		{"", "groupdel ops; groupdel admin", "groupdel: cannot remove the primary group of user 'admin'\n=8\n"},
		{"", "getent hosts localhost | head -1; getent ahosts x", "127.0.0.1   localhost localhost.localdomain\nsshtest: getent: not simulated: ahosts x\n=64\n"},
	})
}

func TestSudoReadsItsRules(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(h *Host) {
		h.Passwords = map[string]string{"carl": "secret"}
		for _, u := range []string{"carl", "dora", "nobody2"} {
			require.NoError(t, h.Disk().AddUser(u))
		}
		a := h.disk.d.Accounts()
		a.Join("carl", []string{"wheel"}, true)
		require.NoError(t, a.Store(h.disk.d))
		require.NoError(t, h.Disk().WriteFile("/etc/sudoers.d/dora", []byte("dora ALL=(ALL) NOPASSWD: /usr/bin/id, /bin/cat /etc/shadow\n"), 0o440))
	})
	scripts(t, h, []struct{ user, script, want string }{
		{"admin", "sudo -n id -un; sudo -n -H -u carl -- sh -c 'id -un; echo $HOME $SUDO_USER'", "root\ncarl\n/home/carl admin\n=0\n"},
		{"admin", "X=1 LC_ALL=C sudo sh -c 'echo ${X-none} $LC_ALL $PATH'; sudo X=2 sh -c 'echo $X'", "none C /sbin:/bin:/usr/sbin:/usr/bin\n2\n=0\n"},
		{"admin", "sudo -n -u nope id", "sudo: unknown user nope\n=1\n"},
		{"admin", "sudo -n nosuch", "sudo: nosuch: command not found\n=1\n"},
		{"admin", "sudo -n false", "=1\n"},
		{"admin", "echo x | sudo -n tee /etc/f; stat -c %U /etc/f", "x\nroot\n=0\n"},
		{"admin", "sudo -A id", "sshtest: sudo: not simulated: -A\n=64\n"},
		{"nobody2", "sudo -n true", "sudo: a password is required\n=1\n"},
		{"carl", "sudo -n true", "sudo: a password is required\n=1\n"},
		{"carl", "sudo true", "sudo: a terminal is required to read the password; either use the -S option to read from standard input or configure an askpass helper\nsudo: a password is required\n=1\n"},
		{"carl", "printf 'secret\\nrest\\n' | sudo -S -p MARK sh -c 'id -un; cat'", "MARKroot\nrest\n=0\n"},
		{"carl", "printf 'wrong\\nsecret\\n' | sudo -S -p MARK id -un", "MARKSorry, try again.\nMARKroot\n=0\n"},
		{"carl", "sudo -S -p MARK id </dev/null", "MARKsudo: no password was provided\nsudo: a password is required\n=1\n"},
		{"carl", "printf 'a\\nb\\nc\\n' | sudo -S -p : id", ":Sorry, try again.\n:Sorry, try again.\n:sudo: 3 incorrect password attempts\n=1\n"},
		{"dora", "sudo -n id -un; sudo -n cat /etc/shadow | head -c 5", "root\nroot:=0\n"},
		{"dora", "sudo -n cat /etc/sudoers", "sudo: a password is required\n=1\n"},
		{"", "sudo -u dora id -un; sudo id -un", "dora\nroot\n=0\n"},
		{"", "printf 'ann,bob ALL=(ALL) NOPASSWD: /bin/cat /etc/hosts, sudoedit /etc/f\\n' >/etc/odd; visudo -cf /etc/odd", "sshtest: sudo: not simulated: command sudoedit\n=64\n"},
		{"", "printf 'carl ALL = (root) FOLLOW: /bin/true\\n' >/etc/odd; visudo -cqf /etc/odd; printf 'carl ALL=cat\\n' >/etc/odd; visudo -cqf /etc/odd", "sshtest: sudo: not simulated: FOLLOW:\n/etc/odd:1: syntax error\n=1\n"},
		{"", "visudo -c", "/etc/sudoers: parsed OK\n/etc/sudoers.d/admin: parsed OK\n/etc/sudoers.d/dora: parsed OK\n=0\n"},
		{"", "visudo -cf /etc/sudoers.d/dora; echo 'dora ALL' >/etc/bad; visudo -cf /etc/bad", "/etc/sudoers.d/dora: parsed OK\n/etc/bad:1: syntax error\n=1\n"},
		{"", "chmod 666 /etc/sudoers.d/dora", "=0\n"},
		{"admin", "sudo -n true", "sudo: /etc/sudoers.d/dora is world writable\nsudo: no valid sudoers sources found, quitting\n=1\n"},
		{"", "rm /etc/sudoers.d/dora; echo 'Defaults requiretty' >/etc/sudoers.d/tty", "=0\n"},
		{"admin", "sudo -n true", "sudo: sorry, you must have a tty to run sudo\n=1\n"},
	})
}
