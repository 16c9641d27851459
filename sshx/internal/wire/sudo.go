package wire

// ReadyLine is what Ready prints to stderr.
const ReadyLine = "sshx sudo ready"

// Ready tells that sudo has finished asking, and then runs the text in $0: until then, what
// comes on stdin may be taken for a password.
var Ready = line(`echo "` + ReadyLine + `" >&2; exec /bin/sh -c "$0" "$@"`)

// Sudo is the beginning of an exec request that runs a shell text as user; the text and its
// arguments follow. With a prompt, sudo may ask for a password on stdin, after it has printed the
// prompt, and only that, to stderr; Ready says when it has what it wants. Without, it never asks.
func Sudo(user, prompt string) string {
	if prompt == "" {
		return "exec sudo -n -H -u " + Quote(user) + " -- /bin/sh -c "
	}
	return "exec sudo -S -p " + Quote(prompt) + " -H -u " + Quote(user) + " -- /bin/sh -c " + Quote(Ready) + " "
}
