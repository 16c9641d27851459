package wire

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Read is what Terminal says when it has read all that precedes the command.
const Read = "read"

// Terminal is Run for a command with a terminal, with the input of TerminalHeader. It never has
// Lead before it, since a session of its own would take the terminal away; PID is that of the
// process group that it is in. Flags are empty.
//
// bash reads ahead on a terminal, so the header is not a line, but of fixed length.
//
// The terminal must be raw when input is sent: no echo, no signals, nothing translated. When all of
// it was read, Terminal says so in a line "sshx TOKEN read", and one byte is to be sent then,
// whichever. Before the command is announced the terminal is made sane, but for echo and the CRs of
// output. What is sent from then on is the command's input, which ^D ends.
//
// The byte is there since sshd looks, after each write to the terminal, whether that is sane and
// without echo, and pretends then, to who may listen, that it echoed what it wrote: in one packet,
// which is longer than SSH allows if it wrote more than 256 KiB. So the terminal stays raw until
// sshd has written all, and deals with something small.
//
// The group gets HUP from the kernel when the terminal is hung up, and so when the connection is
// lost. A command that survives that gets TERM within a second, and its group KILL 2 s later.
var Terminal = line(`
_sshx_t=$1; _sshx_f=; _sshx_n=0; _sshx_e=; _sshx_p=$$;
kill -0 -$$ 2>/dev/null || { read -r _sshx_e </proc/$$/stat && set -- ${_sshx_e##*) } && _sshx_p=$3; };
exec 3<&0 </dev/null;
set -- $(dd bs=1 count=64 2>/dev/null <&3); _sshx_n=$1;
_sshx_e=$(dd bs=1 count="$2" 2>/dev/null <&3);
case $_sshx_e in *" #end") ;; *) echo "sshx: input ended early" >&2; exit 125;; esac;
if [ "$_sshx_n" -gt 0 ]; then
	_sshx_f=${TMPDIR:-/tmp}/sshx.$3;
	` + script + `
fi;
echo "sshx $_sshx_t ` + Read + `";
dd bs=1 count=1 >/dev/null 2>&1 <&3; [ -t 3 ] || exit 125;
stty sane -echo -onlcr <&3 2>/dev/null;
( ` + deaf + ` (
	while [ -t 3 ] && kill -s 0 $$; do sleep 1; done;
	kill -s 0 $$ || exit;
	kill -TERM -$_sshx_p;
	sleep 2;
	rm -f "$_sshx_f";
	kill -KILL -$_sshx_p
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

// terminalHeader is the length of what precedes the preamble.
const terminalHeader = 64

// TerminalHeader is what precedes a script of n bytes.
func TerminalHeader(n int64, preamble string) string {
	return fmt.Sprintf("%-*s\n", terminalHeader-1, fmt.Sprintf("%d %d %s", n, len(preamble), rand.Text())) + preamble
}

// ReadTerminalHeader reads a TerminalHeader; the script, of n bytes, is what r reads next.
func ReadTerminalHeader(r io.Reader) (n int64, preamble string, err error) {
	b := make([]byte, terminalHeader)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", short(err)
	}
	f := strings.Fields(string(b))
	if len(f) != 3 {
		return 0, "", fmt.Errorf("header %q", b)
	}
	if n, err = strconv.ParseInt(f[0], 10, 64); err != nil || n < 0 {
		return 0, "", fmt.Errorf("length of script %q", f[0])
	}
	m, err := strconv.Atoi(f[1])
	if err != nil || m < 0 {
		return 0, "", fmt.Errorf("length of preamble %q", f[1])
	}
	b = make([]byte, m)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", short(err)
	}
	if !strings.HasSuffix(string(b), end) {
		return 0, "", errors.New("preamble without end")
	}
	return n, string(b), nil
}
