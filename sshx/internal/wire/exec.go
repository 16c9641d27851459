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
set +aeux;
case $2 in *m*) exec 2>&1;; esac;
case $2 in
*i*) ;;
*g*)
	exec </dev/null;
	command read -r _sshx_x </proc/$$/stat && command echo "$_sshx_x" >|"$3/$1" || exit 125;
	if [ -e "$3/$1.c" ]; then exit 125; fi;;
*) exec 3<&0 </dev/null; ` + watch("") + `; exec 3<&-;;
esac;
case $2 in *s*) command echo "sshx ` + answer + ` $$" >&2;; esac;
command echo "sshx ` + answer + ` $$ $SHELL";
case $2 in *g*) shift 3;; *) shift 2;; esac;
exec "$@"
`)

// Guard ends the commands of a connection; see the package's documentation. A command is the process
// that wrote its file if it started when that one did; a file that is empty is about to be written.
var Guard = line(`
set +eux; umask 077; _sshx_d=;
for _sshx_x in /dev/shm "${TMPDIR:-/tmp}"; do
	if [ -e /proc/$$/stat ] && mkdir "$_sshx_x/sshx.$1" 2>/dev/null; then _sshx_d=$_sshx_x/sshx.$1; break; fi;
done;
if [ -z "$_sshx_d" ]; then exit 125; fi;
` + deaf + `
_sshx_start() { set -- ${1##*) }; echo ${20}; };
_sshx_lives() {
	read -r _sshx_x <"$1" && read -r _sshx_y <"/proc/${_sshx_x%% *}/stat" &&
	[ "$(_sshx_start "$_sshx_x")" = "$(_sshx_start "$_sshx_y")" ];
};
_sshx_end() {
	if [ -e "$1" ]; then [ -s "$1" ] || sleep 1; fi;
	_sshx_lives "$1" || return;
	_sshx_p=${_sshx_x%% *};
	(
	if kill -TERM -$_sshx_p; then sleep 2; kill -KILL -$_sshx_p;
	else kill -s TERM $_sshx_p; sleep 2; _sshx_lives "$1" && kill -s KILL $_sshx_p; fi
	) &
};
echo "sshx ` + answer + ` $_sshx_d";
exec >/dev/null 2>&1;
while command read -r _sshx_c; _sshx_r=$?; [ $_sshx_r -eq 0 ] || [ $_sshx_r -gt 128 ]; do
	if [ -n "$_sshx_c" ]; then
		(: >"$_sshx_d/$_sshx_c.c") || exit 125; _sshx_end "$_sshx_d/$_sshx_c";
	else
		set --;
		for _sshx_f in "$_sshx_d"/*; do
			case $_sshx_f in *.c) continue;; esac;
			[ -s "$_sshx_f" ] || continue;
			_sshx_lives "$_sshx_f" || set -- "$@" "$_sshx_f";
		done;
		rm -f "$@";
	fi;
done;
mv "$_sshx_d" "$_sshx_d.x";
for _sshx_f in "$_sshx_d.x"/*; do case $_sshx_f in *.c) ;; *) _sshx_end "$_sshx_f";; esac; done;
wait;
rm -rf "$_sshx_d.x"
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
