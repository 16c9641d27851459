// Package wire is the contract between sshx and the machine at the other end: the exact shell
// texts that sshx runs there, how they are called, what they read and what they print.
// sshx/sshtest, whose shell has no processes, recognises the texts (Parse) and does the same
// natively; tests in sshx prove that both agree, and run the texts under real shells.
//
// A call is one exec request, in one of these forms:
//
//	exec /bin/sh -c '<text>' NAME ARG...
//	exec /bin/sh -c '<Lead>' '<text>' NAME ARG...
//	exec sudo -n -H -u 'USER' -- /bin/sh -c '<Lead>' '<text>' NAME ARG...
//	exec sudo -S -p 'PROMPT' -H -u 'USER' -- /bin/sh -c '<Ready>' '<Lead>' '<text>' NAME ARG...
//	set -- ARG...; <Exec>
//
// In the last but one, nothing but an answer to PROMPT is sent until Ready has spoken.
//
// The texts hold no single quote, newline, "!" or double backslash, so that every login shell
// (csh and fish too) takes them as they are. A group is killed by "kill -TERM -PID", the one form
// that dash, bash and busybox all take, and tell the truth of. NAME is for ps and for the shell's
// own messages.
// The last form, for login shells that can take it, saves a process.
//
// # Exec TOKEN FLAGS WORD...
//
// Exec is Run for a command whose words are its further arguments: nothing precedes what stdin
// is used for, which saves a round trip. Its line on stdout is "sshx ANSWER PID SHELL", with $SHELL,
// to which sshd sets the login shell.
//
// # Run TOKEN FLAGS
//
// Run reads from stdin a header line, the rest of the preamble if it is long, and the script:
//
//	<script bytes> <preamble bytes> <name> <preamble>\n     a preamble without newline: bytes is 0
//	<script bytes> <preamble bytes> <name>\n<preamble>      otherwise
//	<script>
//
// The preamble is shell text that exports the environment, changes directory and sets the
// positional parameters to the words of a command; see Preamble. It ends with " #end". Without a
// script (0 bytes) these words are the command. With one, the script is written to a private
// file in ${TMPDIR:-/tmp}, or elsewhere if there is no room, whose path becomes the last word, and the file is removed when the
// command has ended. Its name is sent here since everybody can see arguments: who knew it early
// could have a FIFO there, which no shell's noclobber minds.
//
// Immediately before the command starts, Run prints the line "sshx ANSWER PID" to stdout, and with
// the flag "s" to stderr too. ANSWER is TOKEN with its halves swapped, see Answer: what only repeats
// the request, as a ForceCommand may, or sh -x, does not have it. All that comes earlier is unrelated
// output of the login shell, or the reason why there will be no such line. Exit code Failed (125) without that line is a failure of the
// wrapper itself: no space, no such directory, input that ended early. A truncated preamble or
// script is never run. Words that name no program end in 127 or 126 after the line.
//
// The exit status is that of the command; death by signal N is either the channel's exit-signal or
// 128+N.
//
// Flags are letters:
//
//	m  the command's stderr is its stdout
//	s  they are separate
//	i  the rest of stdin, to its end, is the command's stdin. Else that is /dev/null and:
//
// Without "i", the rest of stdin shows that the caller lives. When it ends, or a line comes,
// while the command runs, the command's process group gets TERM, and KILL 2 s later. This is how
// a command is cancelled, and what happens when the connection is lost. Processes left behind by
// a command that ended by itself are left alone. With "i", Stop with PID does the same, and so does Guard
// with "g".
//
// # Exec TOKEN FLAGS DIR WORD...
//
// With the flag "g", the liveness of the caller is Guard's concern, whose directory DIR is. What Exec
// needs for that are files, no processes. If DIR is gone, it fails with Failed, and no line.
//
// # Guard TOKEN
//
// Guard looks after all the commands of a connection that have the flag "g", prints "sshx ANSWER DIR" and
// reads lines until stdin ends. Then, with the connection, it ends the commands that run, as if each had been
// watched by itself, and removes DIR; one that was about to start does not. A line with the TOKEN of a
// command ends that, or keeps it from starting; if DIR is gone, Guard ends. An empty line has the files of those removed that have ended.
// It fails with Failed where there is no /proc, or nowhere to make a directory. In DIR are
//
//	TOKEN    /proc/PID/stat of the command when it started
//	TOKEN.c  it is not to start
//
// # Stop PID
//
// Stop ends the process group that Run announced as PID: TERM, and KILL after 2 s if any of it is
// left. It exits 0 once the group is gone, also if it was gone before.
//
// # Detach ID <Job>
//
// Detach reads the same input as Run (flags and liveness do not apply), makes the directory
// JobDir(ID) with mode 0700, starts Job in a session of its own, prints "sshx ANSWER DIR", ID's, and ends
// with 0 at once. It fails with Failed. Where systemd runs, root's jobs, and those of users who
// linger, are in a scope of their own, sshx-ID.scope, that outlives the login session. Job
// leaves in the directory:
//
//	script   the script, if any
//	env      the preamble, until the command starts
//	boot     the boot id
//	pid      "PID START": the process group and when its leader started, in the kernel's ticks
//	log      all output, merged
//	rc       the exit code, written last and whole; "CODE term" if TERM came from elsewhere than Kill
//	scope    which systemd has the scope, as an option of systemctl; none without one
//	killed   written by Kill
//
// # Poll ID OFFSET MAX
//
// Poll prints one line "STATE RC SIZE", and up to MAX bytes of the log from OFFSET on. SIZE is
// the size of the log, read after STATE. RC is a number when STATE is done, and "-" otherwise.
// States:
//
//	new     no pid yet
//	run     it runs
//	done    it has ended, RC is its exit code, and the log has all that it wrote itself
//	reboot  it did not end before the machine went down, or was ended by that
//	dead    it is gone without an exit code: killed with KILL from outside
//	gone    there is no such directory, or somebody else's: anybody can make one there
//
// # Kill ID
//
// Kill ends a job, started or about to, as Stop does, and all that is in its scope; rc is 143 or
// what the command made of TERM, or 137. It exits 0 whether or not the job was running.
package wire

import "strings"

// Failed is the exit code of the wrappers' own failures.
const Failed = 125

// Answer is what a text prints in the place of its TOKEN: of 16 bytes, the last 8 and the first 8.
func Answer(token string) string {
	first, last := token, token
	if len(token) >= 8 {
		first, last = token[:len(token)-8], token[8:]
	}
	return last + first
}

// answer is Answer of $1.
const answer = "${1#????????}${1%????????}"

// Marker begins the line by which Run and Detach say that they did their part.
const Marker = "sshx "

// JobRoot is where jobs keep their directories: it survives a reboot.
const JobRoot = "/var/tmp"

// JobDir returns the directory of the job id.
func JobDir(id string) string { return JobRoot + "/sshx." + id }

// Lead makes the text in $0 run as the leader of a process group, which sudo does not always do.
var Lead = line(`
if kill -0 -$$ 2>/dev/null; then exec /bin/sh -c "$0" "$@"; fi;
if command -v setsid >/dev/null 2>&1; then exec setsid /bin/sh -c "$0" "$@"; fi;
exec /bin/sh -c "$0" "$@"
`)

// input reads header and preamble from fd 3. Names begin with _sshx, so that no exported variable
// can be one of them.
const input = `
IFS=" " read -r _sshx_n _sshx_m _sshx_x _sshx_e <&3 || exit 125;
if [ "$_sshx_m" -gt 0 ]; then
	case $_sshx_n$_sshx_o in
	0*i*|[1-9]*) _sshx_e=$(dd bs=1 count="$_sshx_m" 2>/dev/null <&3);;
	*) _sshx_e=$(head -c "$_sshx_m" <&3);;
	esac;
fi;
case $_sshx_e in *" #end") ;; *) echo "sshx: input ended early" >&2; exit 125;; esac;
`

// place makes the file of the script, $_sshx_f, exclusively, in the first directory that has room for
// it: one looks at machines whose /tmp is full, too.
const place = `
for _sshx_d in "${TMPDIR:-/tmp}" /var/tmp /dev/shm "$HOME"; do
	_sshx_f=$_sshx_d/sshx.$_sshx_x;
	(umask 077; set -C; exec head -c "$_sshx_n" /dev/zero >"$_sshx_f") 2>/dev/null && break;
	rm -f "$_sshx_f"; _sshx_f=;
done;
if [ -z "$_sshx_f" ]; then
	echo "sshx: no room for a script of $_sshx_n bytes in ${TMPDIR:-/tmp}, /var/tmp, /dev/shm or $HOME" >&2; exit 125;
fi;
`

// copyScript copies the script to $_sshx_f. head may read ahead, so nothing may follow
// the script but its end; and it does not mind an early end, hence wc.
const copyScript = `
(umask 077; exec head -c "$_sshx_n" <&3 >"$_sshx_f") || exit 125;
if [ "$(($(wc -c <"$_sshx_f")))" -ne "$_sshx_n" ]; then echo "sshx: script ended early" >&2; exit 125; fi;
`

// script has the file of copyScript removed at the end, also when the script signals its own
// group, which we and rm are in.
const script = `
trap "trap \"\" HUP INT QUIT USR1 USR2 TERM; rm -f \"\$_sshx_f\"" EXIT;
trap : HUP INT QUIT USR1 USR2 TERM;
` + copyScript

// Run is the wrapper of every command; see the package's documentation.
//
// The command is a foreground child, or replaces the shell: a background one would ignore
// SIGINT for good. The watcher is a grandchild of the shell, so that a command which waits for
// all of its children does not wait for it; read, unlike cat, costs no exec. It is part of the
// group that it kills, so the group's number cannot be anybody else's meanwhile.
var Run = line(`
set +eux;
_sshx_t=` + answer + `; _sshx_o=$2; _sshx_f=; _sshx_n=0; _sshx_e=;
exec 3<&0 </dev/null;
` + input + `
case $_sshx_o in *m*) exec 2>&1;; esac;
if [ "$_sshx_n" -gt 0 ]; then ` + place + script + ` fi;
case $_sshx_o in
*i*) exec <&3;;
*) ` + watch(`rm -f "$_sshx_f";`) + `;;
esac;
exec 3<&-;
if [ "$_sshx_n" -gt 0 ]; then
	(
	eval "$_sshx_e";
	case $_sshx_o in *s*) echo "sshx $_sshx_t $$" >&2;; esac;
	echo "sshx $_sshx_t $$";
	exec "$@" "$_sshx_f"
	);
	exit $?;
fi;
eval "$_sshx_e";
case $_sshx_o in *s*) echo "sshx $_sshx_t $$" >&2;; esac;
echo "sshx $_sshx_t $$";
exec "$@"
`)

// Stop ends the process group $1.
var Stop = line(`
kill -TERM -$1 2>/dev/null || kill -s TERM $1 2>/dev/null || exit 0;
_sshx_i=0;
while [ $_sshx_i -lt 20 ]; do
	kill -0 -$1 2>/dev/null || kill -s 0 $1 2>/dev/null || exit 0;
	sleep 0.1 2>/dev/null || { sleep 1; _sshx_i=$((_sshx_i+9)); };
	_sshx_i=$((_sshx_i+1));
done;
kill -KILL -$1 2>/dev/null || kill -s KILL $1 2>/dev/null;
exit 0
`)

// Detach starts the job $1, with the text of Job in $2. As the leader of its group it makes
// setsid fork, so that the job is neither waited for nor a background child that ignores SIGINT.
var Detach = line(`
set +eux;
_sshx_t=` + answer + `; _sshx_j=$2; _sshx_d=` + JobRoot + `/sshx.$1; _sshx_f=$_sshx_d/script;
exec 3<&0 </dev/null;
command -v setsid >/dev/null || { echo "sshx: setsid: not found" >&2; exit 125; };
` + input + `
(umask 077; mkdir "$_sshx_d") || exit 125;
trap "rm -rf \"\$_sshx_d\"" EXIT;
(umask 077; : >"$_sshx_d/log" && printf %s "$_sshx_e" >"$_sshx_d/env") || exit 125;
cat /proc/sys/kernel/random/boot_id >"$_sshx_d/boot" 2>/dev/null;
if [ "$_sshx_n" -gt 0 ]; then ` + copyScript + ` fi;
if [ -d /run/systemd/system ] && command -v systemd-run >/dev/null; then
	if [ "$(id -u)" = 0 ]; then echo --system >"$_sshx_d/scope";
	elif [ -e "/var/lib/systemd/linger/$(id -un)" ]; then echo --user >"$_sshx_d/scope"; fi;
fi;
echo "sshx $_sshx_t $_sshx_d";
exec setsid /bin/sh -c "$_sshx_j" "$0" "$_sshx_d" "$_sshx_j" >/dev/null 2>&1 3<&-
`)

// Job is the detached part, with its directory and this text: it outlives the session that
// started it. In a scope it is started again, without the text, unless systemd cannot do that. That
// it was killed is looked up by the child that runs the command, whose traps are reset: what came
// before, Kill having said so first, went to the shell alone.
var Job = line(`
_sshx_d=$1; _sshx_j=$2; _sshx_f=; _sshx_k=;
if [ -n "$_sshx_j" ] && [ -e "$_sshx_d/scope" ]; then
	read -r _sshx_k <"$_sshx_d/scope";
	(
	export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}";
	exec systemd-run $_sshx_k --scope --unit="sshx-${_sshx_d##*.}" setsid /bin/sh -c "$_sshx_j" "$0" "$_sshx_d" ""
	);
	if [ -e "$_sshx_d/pid" ]; then exit; fi;
	rm -f "$_sshx_d/scope"; _sshx_k=;
fi;
_sshx_e=$(cat "$_sshx_d/env"); rm -f "$_sshx_d/env";
if [ -e "$_sshx_d/script" ]; then _sshx_f=$_sshx_d/script; fi;
_sshx_s=0; if [ -r /proc/$$/stat ]; then read -r _sshx_s </proc/$$/stat; set -- ${_sshx_s##*) }; _sshx_s=${20}; fi;
trap _sshx_k=term TERM; trap : HUP INT QUIT USR1 USR2;
echo "$$ $_sshx_s" >"$_sshx_d/pid.tmp"; mv "$_sshx_d/pid.tmp" "$_sshx_d/pid";
(
if [ -e "$_sshx_d/killed" ]; then exit 143; fi;
exec </dev/null >>"$_sshx_d/log" 2>&1;
eval "$_sshx_e";
if [ -n "$_sshx_f" ]; then exec "$@" "$_sshx_f"; fi;
exec "$@"
);
_sshx_r=$?;
if [ -e "$_sshx_d/killed" ]; then _sshx_k=; fi;
echo $_sshx_r $_sshx_k >"$_sshx_d/rc.tmp"; mv "$_sshx_d/rc.tmp" "$_sshx_d/rc"
`)

// state sets _sshx_s to the state of the job in directory _sshx_d, _sshx_r to its exit code and
// _sshx_p to its process group.
const state = `
_sshx_r=-; _sshx_s=new; _sshx_p=; _sshx_q=; _sshx_b=; _sshx_c=;
if [ -d "$_sshx_d" ] && [ -O "$_sshx_d" ]; then
	read -r _sshx_b <"$_sshx_d/boot"; read -r _sshx_c </proc/sys/kernel/random/boot_id;
	if [ -e "$_sshx_d/pid" ]; then
		read -r _sshx_p _sshx_q <"$_sshx_d/pid"; _sshx_s=dead;
		if kill -s 0 $_sshx_p; then
			_sshx_s=run;
			if [ "$_sshx_q" -gt 0 ]; then
				_sshx_x=; read -r _sshx_x </proc/$_sshx_p/stat; set -- ${_sshx_x##*) };
				case "$1 ${20}" in "Z $_sshx_q"|"X $_sshx_q") _sshx_s=dead;; *" $_sshx_q") ;; *) _sshx_s=dead;; esac;
			fi;
		fi;
	fi;
	[ "$_sshx_b" = "$_sshx_c" ] || _sshx_s=reboot;
	if [ -e "$_sshx_d/rc" ]; then
		_sshx_x=; read -r _sshx_r _sshx_x <"$_sshx_d/rc";
		if [ "$_sshx_s $_sshx_x" = "reboot term" ]; then _sshx_r=-; else _sshx_s=done; fi;
	fi;
else _sshx_s=gone;
fi 2>/dev/null;
`

// Poll tells the state of the job $1, and its log from byte $2 on, at most $3 bytes.
var Poll = line(`
_sshx_d=` + JobRoot + `/sshx.$1; _sshx_i=$2; _sshx_m=$3;
` + state + `
if [ $_sshx_s = gone ]; then echo "gone - 0"; exit 0; fi;
_sshx_n=$(($(wc -c <"$_sshx_d/log")));
echo "$_sshx_s $_sshx_r $_sshx_n";
if [ $_sshx_n -gt $_sshx_i ]; then tail -c +$((_sshx_i+1)) "$_sshx_d/log" | head -c "$_sshx_m"; fi
`)

// Kill ends the job $1. One that has no pid yet sees "killed" when it has, and starts nothing.
var Kill = line(`
_sshx_d=` + JobRoot + `/sshx.$1;
` + state + `
case $_sshx_s in new|run) ;; *) exit 0;; esac;
: >"$_sshx_d/killed";
read -r _sshx_p _sshx_q 2>/dev/null <"$_sshx_d/pid";
_sshx_u=sshx-${_sshx_d##*.}.scope; _sshx_y=;
if [ -e "$_sshx_d/scope" ]; then
	read -r _sshx_y <"$_sshx_d/scope";
	export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}";
fi;
_sshx_kill() { [ -n "$_sshx_y" ] && systemctl $_sshx_y kill -s $1 $_sshx_u 2>/dev/null || kill -$1 -$_sshx_p 2>/dev/null; };
_sshx_lives() { [ -n "$_sshx_y" ] && systemctl $_sshx_y -q is-active $_sshx_u || kill -0 -$_sshx_p 2>/dev/null; };
_sshx_kill TERM;
_sshx_i=0;
while [ $_sshx_i -lt 20 ]; do
	if [ -e "$_sshx_d/rc" ]; then _sshx_lives || exit 0; fi;
	sleep 0.1 2>/dev/null || { sleep 1; _sshx_i=$((_sshx_i+9)); };
	_sshx_i=$((_sshx_i+1));
done;
_sshx_kill KILL;
[ -e "$_sshx_d/rc" ] || { echo 137 >"$_sshx_d/rc.tmp"; mv "$_sshx_d/rc.tmp" "$_sshx_d/rc"; }
`)

// Strip takes the texts out of a message that repeats a request.
func Strip(message string) string {
	message = strings.Join(strings.Fields(message), " ")
	for _, text := range []string{Lead, Ready, Run, Exec, Guard, Stop, Detach, Job, Poll, Kill} {
		message = strings.ReplaceAll(message, text, "...")
	}
	// Something may have been escaped, or cut off.
	for _, begin := range []string{"set +eux; ", "set +aeux; ", "if kill -0 -$$ "} {
		if before, _, ok := strings.Cut(message, begin); ok {
			message = before + "..."
		}
	}
	return message
}

// line joins the lines of a text, which are for the reader, with blanks.
func line(text string) string { return strings.Join(strings.Fields(text), " ") }
