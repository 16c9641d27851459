package wire

// Terminal is Run for a command with a terminal, with the same input. It never has Lead before
// it, since a session of its own would take the terminal away; PID is that of the process group that it is in.
// Flags are empty.
//
// The terminal must be raw when input is sent: no echo, no signals, nothing translated. Before the
// command is announced it is made sane, but for echo and the CRs of output. What is sent from
// then on is the command's input, which ^D ends.
//
// The group gets HUP from the kernel when the terminal is hung up, and so when the connection is
// lost. What survives that gets TERM within a second, and KILL 2 s later.
var Terminal = line(`
_sshx_t=$1; _sshx_f=; _sshx_n=0; _sshx_e=; _sshx_p=$$;
kill -s 0 -- -$$ 2>/dev/null || { read -r _sshx_e </proc/$$/stat && set -- ${_sshx_e##*) } && _sshx_p=$3; };
exec 3<&0 </dev/null;
` + input + `
if [ "$_sshx_n" -gt 0 ]; then
	_sshx_f=${TMPDIR:-/tmp}/sshx.$_sshx_t;
	trap "rm -f \"\$_sshx_f\"" EXIT;
	trap : TERM HUP;
	` + script + `
fi;
stty sane -echo -onlcr <&3 2>/dev/null;
( (
	trap "" TERM HUP;
	while [ -t 3 ] && kill -s 0 $$; do sleep 1; done;
	kill -s 0 $$ || exit;
	kill -s TERM -- -$_sshx_p;
	sleep 2;
	rm -f "$_sshx_f";
	kill -s KILL -- -$_sshx_p
) >/dev/null 2>&1 & );
exec <&3 3<&-;
if [ "$_sshx_n" -gt 0 ]; then
	(
	eval "$_sshx_e";
	echo "sshx $_sshx_t $_sshx_p";
	exec "$@" "$_sshx_f"
	);
	exit $?;
fi;
eval "$_sshx_e";
echo "sshx $_sshx_t $_sshx_p";
exec "$@"
`)
