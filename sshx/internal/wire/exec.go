package wire

import (
	"path"
	"slices"
	"strings"
)

// watch starts what kills the process group when fd 3 ends or has a line; script is its chance to
// clean up. It is deaf before it is there: a script may signal its group at once. bash's read gives
// up after $TMOUT, which hardened machines export, with a status > 128.
func watch(script string) string {
	return `( ` + deaf + ` (
	while command read -r _sshx_x <&3; [ $? -gt 128 ]; do :; done;
	command kill -s 0 $$ || exit;
	command kill -TERM -$$ || command kill -s TERM $$;
	command sleep 2;
	` + script + `
	command kill -KILL -$$ || command kill -s KILL $$
	) >/dev/null 2>&1 & )`
}

// deaf is for those who must outlive what is done to the group that they are in.
const deaf = `trap "" HUP INT QUIT USR1 USR2 TERM;`

// Exec is the shorter Run for a command that is all in the arguments. The login shell may run it
// itself, after whatever its startup files have set, see Call.Direct: hence "set" and "command".
var Exec = line(`
set +eux;
case $2 in *m*) exec 2>&1;; esac;
case $2 in *i*) ;; *) exec 3<&0 </dev/null; ` + watch("") + `; exec 3<&-;; esac;
case $2 in *s*) command echo "sshx ` + answer + ` $$" >&2;; esac;
command echo "sshx ` + answer + ` $$ $SHELL";
shift 2;
exec "$@"
`)

// SuitsDirect reports whether the login shell of that path can run Exec itself.
func SuitsDirect(shell string) bool {
	return slices.Contains([]string{"sh", "bash", "dash", "ash"}, path.Base(shell))
}

// direct is the string of the exec request of a Call that is Direct.
func (c Call) direct() string { return "set -- " + Words(c.Args...) + "; " + c.Text }

// ParseDirect reads what Command wrote for a Call that is Direct.
func ParseDirect(command string) (c Call, ok bool) {
	words, ok := strings.CutPrefix(command, "set -- ")
	if !ok {
		return Call{}, false
	}
	if words, ok = strings.CutSuffix(words, "; "+Exec); !ok {
		return Call{}, false
	}
	c = Call{Direct: true, Text: Exec, Name: "sshx"}
	c.Args, ok = split(words)
	return c, ok
}
