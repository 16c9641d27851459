package sshtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// No command takes an argument that it does not know.
func TestUnknownArgumentsAreLoud(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	builtin := strings.Fields("[ test echo printf pwd true false")
	for _, name := range BaseCommands() {
		if slices.Contains(builtin, name) {
			continue
		}
		out, code := h.Run(t.Context(), "command "+name+" --frobnicate=1 </dev/null")
		switch name {
		case "env", "kill", "getent": // complain as the real ones do
			assert.NotZero(t, code, name)
		default:
			assert.Equal(t, machine.ExitNotSimulated, code, "%s: %s", name, out)
			assert.Contains(t, out, "sshtest: "+name+": not simulated: ", name)
		}
	}
}

// What real commands know and these do not is refused, where it would change what comes of it.
func TestWhatIsNotSimulatedIsRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, script := range []string{
		"mkdir -v x", "ln -v a b", "chmod -v 600 /etc/hosts", "chown -c root /etc/hosts", "cp -rv /etc /x", "rm -rv /nope", "cp --preserve=mode a b", "ls -lh", "ls -L",
		"ls --color=always", "stat -c %X /", "truncate -s +5 /etc/hosts", "dd if=/etc/hosts status=progress", "xargs -t </dev/null", "echo 'a\"b\"' | xargs -I{} echo {}",
		"pgrep -n x", "pkill -l x", "date --iso-8601=minutes", "TZ=UTC+3 date", "tail +3 /etc/hosts", "tr a '[x*]' </dev/null", "tr '[=a=]' x </dev/null",
		"seq -w 3", "wc -mc /etc/hosts", "tar -tvf /x", "tar -cf /x a -C / b", "tar --format=v7 -cf /x a", "grep '\\t' /etc/hosts", "grep -E '*a' /etc/hosts", "grep '\\(a\\)\\1' /etc/hosts",
		"sed 's/\\x41/b/' /etc/hosts", "sed 's/a/\\x41/' /etc/hosts", "sed 's/a/\\U&/' /etc/hosts", "sed 'a\\' /etc/hosts", "sed -s p /etc/hosts", "sed '1,~2p' /etc/hosts", "sed 's/\\<./x/' /etc/hosts",
		"find / -type s", "diff -s /etc/hosts /etc/hosts", "diff -q /etc /etc", "id root root", "echo ${PIPESTATUS[0]}", "echo $FUNCNAME", "echo $SECONDS", "exec 5</etc/hosts", "cd -P /",
	} {
		out, code := h.Run(t.Context(), "cd /; "+script)
		assert.Equal(t, machine.ExitNotSimulated, code, "%s: %s", script, out)
		assert.Contains(t, out, "not simulated", script)
	}
}

func TestCommandsOfTheEmbedder(t *testing.T) {
	t.Parallel()
	gone := map[string]bool{}
	h := newHost(t, func(h *Host) {
		h.Commands = map[string]Command{
			"git": func(_ context.Context, p *Proc) int {
				fmt.Fprintln(p.Stdout, p.Args, p.User, p.Dir, p.Env["X"], p.Path("f"))
				return 3
			},
			"both": func(ctx context.Context, p *Proc) int { return p.Run(ctx, "sh", "-c", "pwd; exit 6") },
		}
		h.Installed = func(name string) bool { return !gone[name] }
	})
	scripts(t, h, []struct{ user, script, want string }{
		{"", "cd /etc; X=1 git a 'b c'", "[git a b c] root /etc 1 /etc/f\n=3\n"},
		{"admin", "/usr/bin/git; command -v git", "[/usr/bin/git] admin /home/admin  /home/admin/f\n/usr/bin/git\n=0\n"},
		{"", "both", "/root\n=6\n"},
	})
	gone["git"], gone["cat"] = true, true
	scripts(t, h, []struct{ user, script, want string }{
		{"", "git", "bash: git: command not found\n=127\n"},
		{"", "command -v git cat", "=1\n"},
		{"", "test -x /usr/bin/git", "=1\n"},
		{"", "/usr/bin/cat", "bash: /usr/bin/cat: No such file or directory\n=127\n"},
		{"admin", "sudo git", "sudo: git: command not found\n=1\n"},
	})
}

func TestACommandCanBeCalledWithoutAMachine(t *testing.T) {
	t.Parallel()
	var out, errs strings.Builder
	p := &Proc{Args: []string{"/usr/bin/shopd", "-x"}, Dir: "/srv", Stdout: &out, Stderr: &errs}
	assert.Equal(t, 3, p.Fail(3, "100%% of %s", p.Path("f")))
	assert.Equal(t, 64, p.NotSimulated("-x"))
	assert.Equal(t, "shopd: 100% of /srv/f\nsshtest: shopd: not simulated: -x\n", errs.String())
}

func TestSystemCommands(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var asked []string
	done := make(chan struct{}, 4)
	h := newHost(t, func(h *Host) {
		h.Now = func() time.Time { return now }
		h.OnReboot = func() { asked = append(asked, "reboot"); done <- struct{}{} }
		h.OnPowerOff = func() { asked = append(asked, "off"); done <- struct{}{} }
	})
	h.Disk().SetSize(20 << 30)
	scripts(t, h, []struct{ user, script, want string }{
		{"", "echo con1.example.com >/etc/hostname; hostname; hostname -s; uname -n; uname -sr; uname", "con1.example.com\ncon1\ncon1.example.com\nLinux " + machine.KernelRelease + "\nLinux\n=0\n"},
		{"", "hostname x", "sshtest: hostname: not simulated: setting the name; write /etc/hostname\n=64\n"},
		{"", "date -u +%F; ln -s /usr/share/zoneinfo/Asia/Singapore /etc/localtime; date +%H:%M%z", "2026-03-04\n13:06+0800\n=0\n"},
		{"", "date -s 12:00", "sshtest: date: not simulated: -s 12:00\n=64\n"},
		{"", "df -P / | tail -1 | cut -d' ' -f1,2,5; df --output=pcent / | tail -1; head -c 10000000 /dev/zero >/f; df -m -P / | tail -1", "/dev/sda2 20971520 11%\n11%\n/dev/sda2 20480 2058 18422 11% /\n=0\n"},
		{"", "logger -t me hello; cat /var/log/messages", "Mar  4 05:06:07 con1 me: hello\n=0\n"},
		{"", "ssh-keygen -q -t ed25519 -N '' -C c -f /root/k; stat -c %a /root/k; ssh-keygen -y -f /root/k >/root/y; cut -d' ' -f1,2 /root/k.pub | cmp - /root/y; ssh-keygen -lf /root/k.pub | cut -d' ' -f1,3,4", "600\n256 c (ED25519)\n=0\n"},
		{"", "ssh-keygen -t ed25519 -f /root/k2", "sshtest: ssh-keygen: not simulated: without -f and -N: it would ask\n=64\n"},
		{"", "ssh-keygen -t rsa -N '' -f /root/k2", "sshtest: ssh-keygen: not simulated: -t rsa\n=64\n"},
		{"", "grep ^ID= /etc/os-release; cat /proc/sys/kernel/random/boot_id | wc -c; sleep 1000 & until pgrep -x sleep >/dev/null; do sleep 0.01; done; pkill -x sleep; wait", "ID=\"rhel\"\n37\n=0\n"},
		{"", "ps -ef | head -1; sleep 1000 & ps -o pid=,ppid= -p $! | sed \"s/ *$! *$$/mine/\"; until pgrep -x sleep >/dev/null; do sleep 0.01; done; ps -C sleep -o user,comm; pkill -x sleep; wait; ps -C sleep --no-headers", "UID          PID    PPID  C STIME TTY          TIME CMD\nmine\nUSER     COMMAND\nroot     sleep\n=1\n"},
		{"", "systemctl is-active sshd; systemctl stop sshd; systemctl is-active sshd.service; systemctl start sshd; systemctl -q is-active sshd; systemctl is-enabled sshd", "active\ninactive\nenabled\n=0\n"},
		{"", "echo nonsense >/etc/ssh/sshd_config.d/1.conf; systemctl restart sshd >/dev/null 2>&1 || echo $?; systemctl is-active sshd; systemctl -q is-failed sshd && systemctl reload sshd; rm /etc/ssh/sshd_config.d/1.conf; systemctl restart sshd", "1\nfailed\nsshd.service is not active, cannot reload.\n=0\n"},
		{"admin", "systemctl restart sshd 2>&1 | head -1; sudo systemctl restart sshd", "Failed to restart sshd.service: Interactive authentication required.\n=0\n"},
		{"", "systemctl start cups", "sshtest: systemctl: not simulated: start cups\n=64\n"},
		{"", "bash -c \"(exec true); ps -e -o comm= | grep -cx bash; exec sh -c 'ps -e -o comm= | grep -cx bash'\"", "2\n1\n=0\n"},
		{"", "ps aux", "sshtest: ps: not simulated: aux\n=64\n"},
		{"", "mountpoint -q / && echo yes; mountpoint -q /etc || echo no", "yes\nno\n=0\n"},
		{"", "date -u -s @1000000000 +%F; date -u +%F; date -u --set='2020-02-02 02:02:02' +%T", "2001-09-09\n2001-09-09\n02:02:02\n=0\n"},
		{"", "useradd testy", "=0\n"},
		{"testy", "date -s @5", "date: cannot set date: Operation not permitted\n=1\n"},
		{"admin", "reboot", "reboot: Failed to set wall message, ignoring: Interactive authentication required.\n=1\n"},
		{"", "shutdown -r +5", "sshtest: shutdown: not simulated: +5\n=64\n"},
		{"", "shutdown -r now; reboot; poweroff", "=0\n"},
	})
	<-done
	assert.Equal(t, []string{"reboot"}, asked, "once per boot")
	h.Boot()
	_, _ = h.Run(t.Context(), "poweroff")
	<-done
	assert.Equal(t, []string{"reboot", "off"}, asked)
}

func TestRunOnAMachineThatIsOff(t *testing.T) {
	t.Parallel()
	h := NewHost(NewDisk())
	_, code := h.Run(t.Context(), "true")
	assert.Equal(t, 255, code)
	h.Boot()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, code = h.Run(ctx, "sleep 1000")
	assert.Equal(t, 137, code)
	h.Halt()
	h.Halt()
}

func TestWhatDoesNotLastOverABoot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	_, code := h.Run(t.Context(), "touch /run/x /tmp/x /etc/x; mkdir /run/d; rm /etc/ssh/ssh_host_*")
	require.Zero(t, code)
	h.Boot()
	out, _ := h.Run(t.Context(), "ls -d /run/* /tmp/x /etc/x /var/run/lock; ls /etc/ssh | grep -c key")
	assert.Equal(t, "/etc/x\n/run/lock\n/tmp/x\n/var/run/lock\n4\n", out)
}

func TestTarRefusesWhatLeavesTheTree(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	scripts(t, h, []struct{ user, script, want string }{
		{"", "mkdir -p /a/b /o; echo x >/a/b/f; chown admin:admin /a/b/f; chmod 640 /a/b/f; cd /a; tar -cf /t.tar b; cd /o; tar -xpf /t.tar; stat -c '%U %a' b/f", "admin 640\n=0\n"},
		{"", "cd /o; rm -r b; tar -xf /t.tar --no-same-owner; stat -c '%U %a' b/f", "root 640\n=0\n"},
		{"admin", "cd /tmp; umask 077; tar -xf /t.tar; stat -c '%U %a' b/f; tar -xf /t.tar -C /o", "admin 600\ntar: b/f: Cannot open: Permission denied\ntar: Exiting with failure status due to previous errors\n=2\n"},
	})
}

// A script may hide an exit code of 64; OnNotSimulated hears of it all the same.
func TestRefusalsAreReportedWhateverTheScriptMakesOfThem(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []Refusal
	h := newHost(t, func(h *Host) {
		h.OnNotSimulated = func(r Refusal) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r)
		}
	})
	for _, tc := range []struct {
		user, script string
		want         Refusal
	}{
		{"root", "ls --color=always | cat", Refusal{"ls", "--color=always", "root"}},
		{"root", "if date -Z 2>/dev/null; then :; else echo no; fi", Refusal{"date", "-Z", "root"}},
		{"root", "x=$(ls --color=always 2>/dev/null); true", Refusal{"ls", "--color=always", "root"}},
		{"root", "find / -type s -print | head -1", Refusal{"find", "-type s", "root"}},
		{"root", "grep -q '\\(a\\)\\1' /etc/hosts || true", Refusal{"grep", "back reference \\1", "root"}},
		{"admin", "jobs || :", Refusal{"shell", "line 1: jobs", "admin"}},
		{"admin", "sh -c 'cat <(echo)' & wait", Refusal{"shell", "line 1: process substitution", "admin"}},
		{"admin", "sudo ls --color=always || true", Refusal{"ls", "--color=always", "root"}},
		{"admin", "type -a ls >/dev/null 2>&1 || true", Refusal{"type", "-a", "admin"}},
		{"root", "echo 'User_Alias A = admin' >/etc/sudoers.d/a; chmod 440 /etc/sudoers.d/a; visudo -c || rm /etc/sudoers.d/a", Refusal{"sudo", "User_Alias", "root"}},
		{"root", "echo 'Match Address 10.0.0.0/8' >/etc/ssh/sshd_config.d/1.conf; sshd -t || true", Refusal{"sshd", "Match address 10.0.0.0/8", "root"}},
	} {
		got = nil
		out, code := h.RunAs(t.Context(), tc.user, tc.script)
		assert.Zero(t, code, "%s: %s", tc.script, out)
		if assert.Len(t, got, 1, "%s: %s", tc.script, out) {
			assert.Equal(t, tc.want.Command, got[0].Command, tc.script)
			assert.Equal(t, tc.want.User, got[0].User, tc.script)
			assert.NotEmpty(t, got[0].What, tc.script)
		}
	}
	got = nil
	require.Error(t, h.StartSSHD())
	require.Len(t, got, 1)
	assert.Equal(t, "sshd", got[0].Command)
}

// A recorder is a test that is told of failures and goes on.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	errors int
}

func (r *recorder) Errorf(string, ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors++
}

func TestWhatIsNotSimulatedFailsTheServersTest(t *testing.T) {
	t.Parallel()
	rec := &recorder{TB: t}
	s := NewServer(rec)
	out, err := run(t, dialServer(t, s, "root"), "ls --color=always | cat")
	require.NoError(t, err, out)
	s.Close()
	assert.Equal(t, 1, rec.errors)
}
