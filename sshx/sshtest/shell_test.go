package sshtest

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"mvdan.cc/sh/v3/syntax"
)

func TestShellRunsInsideTheMachine(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, tc := range []struct {
		name, script, want string
		code               int
	}{
		{"echo", "echo hi", "hi\n", 0},
		{"exit code", "exit 7", "", 7},
		{"set -e", "set -e; false; echo no", "", 1},
		{"pipeline", "printf 'b\\na\\n' | sort | tr a-z A-Z", "A\nB\n", 0},
		{"here document", "x=1; cat <<E\nv=$x\nE\n", "v=1\n", 0},
		{"redirections", "echo a >/tmp/r1; echo b >>/tmp/r1; cat </tmp/r1; ls /nope 2>/dev/null || echo none", "a\nb\nnone\n", 0},
		{"function", "f() { echo $1; return 3; }; f x; echo $?", "x\n3\n", 0},
		{"trap on exit", "trap 'echo bye' EXIT INT TERM; echo hi", "hi\nbye\n", 0},
		{"command -v builtin", "command -v echo", "echo\n", 0},
		{"command -v program", "command -v grep; command -v nosuch || echo no", "/usr/bin/grep\nno\n", 0},
		{"command -v function", "my_f() { :; }; command -v my_f", "my_f\n", 0},
		{"type", "type grep; type -t cd; type -p sed", "grep is /usr/bin/grep\nbuiltin\n/usr/bin/sed\n", 0},
		{"hash", "hash grep && hash nosuch 2>/dev/null || echo no", "no\n", 0},
		{"not found", "nosuch arg", "bash: nosuch: command not found\n", 127},
		{"home and user", "echo $HOME $USER $UID", "/root root 0\n", 0},
		{"umask", "umask 077; umask; (umask 022; >/tmp/u1); >/tmp/u2; stat -c %a /tmp/u1 /tmp/u2", "0077\n644\n600\n", 0},
		{"source", "echo 'x=5; return 2' >/tmp/src; . /tmp/src; echo $? $x", "2 5\n", 0},
		{"source missing", ". /tmp/nosrc; echo $?", "bash: /tmp/nosrc: No such file or directory\n1\n", 0},
		{"sh -c with arguments", `sh -c 'echo "$0-$1-$#"' n a b`, "n-a-2\n", 0},
		{"script with shebang", "printf '#!/bin/sh\\necho run $1\\n' >/tmp/s; chmod +x /tmp/s; /tmp/s x", "run x\n", 0},
		{"script not executable", "echo x >/tmp/s2; /tmp/s2", "bash: /tmp/s2: Permission denied\n", 126},
		{"script from stdin", "printf 'echo one\\ncat\\necho two\\n' | sh -s", "one\necho two\n", 0},
		{"test on programs", "test -x /usr/bin/cat && [ -x /bin/sh ] && echo yes", "yes\n", 0},
		{"process substitution is refused", "cat <(echo x)", "sshtest: shell: not simulated: line 1: process substitution\n", 64},
		{"descriptor 3 is refused", "exec 3>/tmp/x", "sshtest: shell: not simulated: line 1: redirection of descriptor 3\n", 64},
		{"[[ -ef ]] is refused", "[[ a -ef b ]]", "sshtest: shell: not simulated: line 1: [[ -ef ]]\n", 64},
		{"refused inside eval", "eval 'cat <(echo x)'; echo $?", "sshtest: shell: not simulated: line 1: process substitution\n64\n", 0},
		{"background and wait", "sleep 0.01 & p=$!; wait $p; echo $?", "0\n", 0},
		{"background exit code", "(exit 5) & wait $!; echo $?", "5\n", 0},
		{"kill a background job", "sleep 100 & p=$!; kill $p; wait $p; echo $?", "143\n", 0},
		{"kill a busy loop", "while :; do :; done & p=$!; sleep 0.01; kill -9 $p; wait $p; echo $?", "137\n", 0},
		{"own pid", "kill -0 $$ && echo alive", "alive\n", 0},
		{"syntax error", "if", "", 2},
		{"globs", "mkdir -p /tmp/g; touch /tmp/g/b /tmp/g/a; echo /tmp/g/*", "/tmp/g/a /tmp/g/b\n", 0},
		{"subshells of a pipeline know what the shell knows", "umask 027; (echo $$ $UID $(umask); >/tmp/p1) | cat >/tmp/p2; [ \"$(cat /tmp/p2)\" = \"$$ 0 0027\" ] && stat -c %a /tmp/p1", "640\n", 0},
		{"homes of the machine's users", "echo ~admin ~root/x ~nosuch \"~root\" a~root; x=~admin; echo $x; cat <<E\n~root/x\nE\necho ~bin | cat", "/home/admin /root/x ~nosuch ~root a~root\n/home/admin\n~root/x\n/bin\n", 0},
		{"trap is taken back", "trap 'echo no' EXIT; trap - EXIT; echo yes", "yes\n", 0},
		{"exec leaves nothing to run a trap", "trap 'echo no' EXIT; exec echo yes", "yes\n", 0},
		{"login shells read profiles", "echo export A=1 >/etc/profile; echo B=2 >~/.profile; bash -lc 'echo $A $B'; echo 'echo $A $B' | sudo -i; bash -c 'echo none $A'", "1 2\n1 2\nnone\n", 0},
		{"unknown option", "cat --frobnicate", "sshtest: cat: not simulated: --frobnicate\n", 64},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, code := h.Run(t.Context(), tc.script)
			if tc.code != 2 {
				assert.Equal(t, tc.want, out)
			}
			assert.Equal(t, tc.code, code, out)
		})
	}
}

// What the interpreter, left to itself, would take from the machine that the test runs on.
func TestShellSeesNothingOfTheHost(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	dir := t.TempDir() // on the host
	require.NoError(t, os.WriteFile(dir+"/hosttool", []byte("#!/bin/sh\necho LEAK\n"), 0o755))
	exe, err := os.Executable()
	require.NoError(t, err)
	stranger := "games" // a user of the host's that the machine has not
	passwd, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd)) {
		name, _, _ := strings.Cut(line, ":")
		if _, ok := h.disk.d.Accounts().User(name); !ok && syntax.ValidName(name) {
			stranger = name
			break
		}
	}
	var environ strings.Builder
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		ours := []string{"HOME", "PATH", "PWD", "OLDPWD", "USER", "SHELL", "LOGNAME", "MAIL", "HOSTNAME", "UID", "EUID", "IFS", "OPTIND"}
		if syntax.ValidName(name) && !slices.Contains(ours, name) {
			environ.WriteString("[ -z \"${" + name + "+x}\" ] || echo LEAK; ")
		}
	}
	for name, script := range map[string]string{
		"PATH":                  "PATH=$PATH:DIR; hosttool; command hosttool; env hosttool; exec hosttool",
		"a path":                "DIR/hosttool || sh DIR/hosttool || exec DIR/hosttool",
		"command -v":            "PATH=$PATH:DIR; command -v hosttool; command -V hosttool; builtin command -v hosttool; command command -v hosttool; eval 'command -v hosttool'",
		"type":                  "PATH=$PATH:DIR; type hosttool; type -p hosttool; type -P hosttool; type -t hosttool; builtin type hosttool; trap 'type -P hosttool' EXIT",
		"hash":                  "PATH=$PATH:DIR; hash hosttool && echo LEAK",
		"a shebang":             "printf '#!DIR/hosttool\\n' >/tmp/s; chmod +x /tmp/s; /tmp/s",
		". by name":             "PATH=$PATH:DIR; . hosttool; source hosttool; command . hosttool; builtin source hosttool",
		". by path":             ". DIR/hosttool; source DIR/hosttool",
		"redirections":          "cat <DIR/hosttool; read x <DIR/hosttool; mapfile a <DIR/hosttool; echo $x ${a[0]} $(<DIR/hosttool); echo x >DIR/written",
		"globs":                 "cd / && printf '%s\\n' DIR/h*; shopt -s globstar; printf '%s\\n' DIR/**l; [ DIR/* = 'DIR/*' ] || echo LEAK",
		"test":                  "[ -e DIR ] && echo LEAK; test -x DIR/hosttool && echo LEAK; [[ -d DIR ]] && echo LEAK; [ DIR -nt /nope ] && echo LEAK",
		"cd":                    "cd DIR && echo LEAK; pushd DIR && echo LEAK; builtin cd DIR && echo LEAK",
		"pwd":                   "pwd | grep -v '^/root$' && echo LEAK; pwd -P | grep -v '^/root$' && echo LEAK",
		"home":                  "[ $HOME = /root ] || echo LEAK; env -i sh -c 'test -z \"$HOME\" || echo LEAK'; unset HOME; cd; pwd | grep -v '^/root$' && echo LEAK",
		"homes":                 "printf '%s\\n' ~STRANGER ~STRANGER/x | grep -v '~STRANGER' && echo LEAK; echo ~STRANGER | grep -v '~STRANGER' && echo LEAK; (x=~STRANGER; echo $x | grep -v '~') && echo LEAK",
		"ids":                   "[ $UID.$EUID = 0.0 ] || echo LEAK; sudo -u admin sh -c '[ $UID = $(id -u) ] && [ $UID != 0 ] || echo LEAK'",
		"processes":             "[ $$ = HOSTPID ] && echo LEAK; echo $$ | grep '^HOSTPID$' && echo LEAK; command eval 'echo $$' | grep '^HOSTPID$' && echo LEAK; sh -c '[ $PPID = HOSTPPID ] && echo LEAK'; kill -0 HOSTPID && echo LEAK; (echo $PPID) | grep '^HOSTPPID$' && echo LEAK",
		"process substitution":  "TMPDIR=DIR; cat <(echo LEAK)",
		"process output":        "TMPDIR=DIR; echo x > >(echo LEAK)",
		"coproc":                "coproc echo LEAK",
		"same file":             "[ EXE -ef EXE ] && echo LEAK",
		"owner":                 "[ -O / ] && echo LEAK",
		"owner, [[":             "[[ -O / ]] && echo LEAK",
		"group, [[":             "[[ -G / ]] && echo LEAK",
		"limits":                "ulimit -n && echo LEAK",
		"environment":           environ.String(),
		"startup files":         "echo ok >/dev/null; BASH_ENV=DIR/hosttool ENV=DIR/hosttool bash -c :",
		"zone":                  "TZ=Local date +%Z | grep -v UTC && echo LEAK; TZ=DIR date +%Z | grep -v UTC && echo LEAK",
		"links":                 "ln -s DIR /tmp/l; ls /tmp/l/ && echo LEAK; cat /tmp/l/hosttool",
		"what the kernel shows": "cat /proc/self/environ /proc/version /proc/self/cmdline && echo LEAK",
		"files":                 "ls DIR && echo LEAK; find DIR; tar -cf - DIR | grep LEAK; cp DIR/hosttool /tmp/c && echo LEAK; grep -r LEAK DIR; stat DIR && echo LEAK; head DIR/hosttool; install DIR/hosttool /tmp && echo LEAK",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := strings.NewReplacer("DIR", dir, "EXE", exe, "STRANGER", stranger, "HOSTPID", strconv.Itoa(os.Getpid()), "HOSTPPID", strconv.Itoa(os.Getppid())).Replace(script)
			out, _ := h.Run(t.Context(), in)
			assert.NotContains(t, out, "LEAK")
			assert.NotContains(t, out, "hosttool is")
			for line := range strings.Lines(out) {
				assert.NotEqual(t, dir+"/hosttool", strings.TrimSpace(line))
			}
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			assert.Len(t, left, 1, "written on the host")
		})
	}
}

// sh is dash where the system has dash, as Debian does.
func TestShIsDashOnDebian(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, tc := range []struct {
		script, rhel, debian string
	}{
		{"sh -c '[[ a = a ]]; echo $?'", "0\n", "127\n"},
		{"sh -c 'a=(1 2); echo ${a[1]}' ; echo $?", "2\n0\n", "2\n"},
		{"sh -c '[ a == a ] 2>/dev/null; echo $?'", "0\n", "2\n"},
		{`sh -c 'echo "a\tb"'`, "a\\tb\n", "a\tb\n"},
		{"sh -c 'set -o pipefail; echo on' 2>/dev/null || echo $?", "on\n", "2\n"},
		{"printf '#!/bin/sh\\nsource /dev/null\\necho $?\\n' >/tmp/s; chmod +x /tmp/s; /tmp/s 2>/dev/null", "0\n", "127\n"},
		{"sh -c 'echo {a,b}'", "a b\n", "{a,b}\n"},
		{"sh -c 'f() { local x=1; export Y=$x; sh -c \"echo \\$Y\"; }; f'", "1\n", "1\n"},
		{"bash -c '[[ a = a ]]; echo $?'", "0\n", "0\n"},
		{"dash -c '[[ a = a ]]; echo $?' 2>/dev/null", "127\n", "127\n"},
	} {
		_ = h.Disk().Remove("/etc/debian_version")
		out, _ := h.Run(t.Context(), "exec 2>/dev/null; "+tc.script)
		assert.Equal(t, tc.rhel, out, "RHEL: %s", tc.script)
		require.NoError(t, h.Disk().WriteFile("/etc/debian_version", []byte("12.5\n"), 0o644))
		out, _ = h.Run(t.Context(), "exec 2>/dev/null; "+tc.script)
		assert.Equal(t, tc.debian, out, "Debian: %s", tc.script)
	}
}

// A signal to a shell runs its trap before the next command; without one it ends the shell.
func TestTrapsOnSignals(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	scripts(t, h, []struct{ user, script, want string }{
		{"", "bash -c 'trap \"echo term\" TERM; kill $$; echo after'", "term\nafter\n=0\n"},
		{"", "bash -c 'trap \"echo int; exit 3\" INT; kill -INT $$; echo never'", "int\n=3\n"},
		{"", "bash -c 'trap \"\" HUP; kill -HUP $$; echo on'", "on\n=0\n"},
		{"", "bash -c 'trap \"echo no\" USR1; trap - USR1; kill -USR1 $$; echo never'; echo $?", "138\n=0\n"},
		{"", "bash -c 'trap \"echo got\" TERM; kill -9 $$; echo never'; echo $?", "137\n=0\n"},
		{"", "bash -c 'trap \"echo got; exit 4\" TERM; echo $$ >/tmp/up; while :; do sleep 0.01; done' & until [ -s /tmp/up ]; do sleep 0.01; done; kill $(cat /tmp/up); wait $!; echo $?", "got\n4\n=0\n"},
	})
}
