package pool

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestScriptsWithASyntaxErrorAreFoundBeforeAnythingRuns(t *testing.T) {
	t.Parallel()
	if exec.Command("bash", "-c", "((BASH_VERSINFO[0] >= 5))").Run() != nil {
		t.Skip("no bash of version 5 or later")
	}
	for _, tt := range []struct {
		name, text string
		wrong      bool
	}{
		{"a list of commands", "set -eu\ncd /etc && ls\n", false},
		{"an if without its fi", "if true; then\n  echo x\n", true},
		{"a quote without its end", "echo 'x\n", true},
		{"a brace too many", "#!/bin/sh -eu\nf() { echo x; } }\n", true},
		{"bash's arrays in a script for sh", "a=(1 2)\n", false},
		{"bash's arrays", "#!/bin/bash\na=(1 2)\n", false},
		{"bash's extended patterns", "#!/usr/bin/env bash\nshopt -s extglob\nls !(a|b)\n", false},
		{"bash's for without its done", "#!/usr/bin/env -S bash -eu\nfor ((i = 0; i < 3; i++)); do echo $i\n", true},
		{"dash's names that are words of bash", "[[ a && b\n", false},
		{"a program of Python", "#!/usr/bin/python3\nif True:\n  print('x')\n", false},
		{"text that would run", "exit 3\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := twoRoles(1)
			s.Roles[1].Steps = append(s.Roles[1].Steps, Script("it", tt.text))
			err := s.validate()
			if !tt.wrong {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrInvalidSpec)
			assert.ErrorContains(t, err, `Spec.Roles[1] ("dis"): Steps[1] ("it"): the script has a syntax error: bash: line `)
		})
	}
}
