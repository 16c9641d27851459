package sshtest

import (
	"testing"

	"github.com/stretchr/testify/assert"
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
		{"command -v does not see the host", "command -v go || command -v git || echo no", "no\n", 0},
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
