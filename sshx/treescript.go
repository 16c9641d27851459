package sshx

// treeScript makes a directory in dst (whose parent may not be ours to write to), or beside it if
// there is no dst, has unpack fill that from stdin, and moves what is there to dst. A stream that
// ends early may look like a whole one: it is one if its last file is there. fail cleans up first:
// nobody may be there to read what it says. What follows unpack is silent on stdout, which may be
// in use by it.
func treeScript(unpack string) string {
	return `set -eu
dst=$1 last=$2 owner=$3 mode=$4
case $dst in /*) ;; *) dst=$PWD/$dst ;; esac
if [ -d "$dst" ]; then tmp=${dst%/}/$last; else tmp=${dst%/*}/$last; fi
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM PIPE
fail() { rm -rf "$tmp"; echo "$1" >&2; exit 1; }
mkdir -m 700 "$tmp"
` + unpack + `
exec >&2
if [ ! -f "$tmp/$last" ]; then fail "the stream ended early"; fi
rm "$tmp/$last"
` + placeScript
}

// unpackTar ends with noTar on a machine without tar.
const unpackTar = `exec >&2
if ! command -v tar >/dev/null 2>&1; then echo "tar: not found" >&2; exit 96; fi
said=$(tar -xpf - -C "$tmp" 2>&1) || fail "$said"`

// noTar is the exit code of the scripts on a machine without tar.
const noTar = 96

// unpackSFTP lets us do it: names are relative to the directory. As it runs inside of the script,
// nothing is left when the connection is lost.
var unpackSFTP = `(cd "$tmp"; ` + sftpServer + `)`

// placeScript moves tmp to dst, or what it holds into dst, if that is a directory: entries are
// renamed, one by one, directories that dst does not have as a whole. Those that it has stay as
// they are. What cannot be replaced is found before anything is moved. chown comes before chmod,
// since it takes setuid away. Labels are for the new only, where SELinux is on.
const placeScript = `if [ -n "$owner" ]; then chown -hR "$owner" "$tmp"; fi
if [ -n "$mode" ]; then find "$tmp" -type f -exec chmod "$mode" {} +; fi
isdir() { [ -d "$1" ] && [ ! -L "$1" ]; }
if [ ! -d "$dst" ]; then
	if [ -e "$dst" ] || [ -L "$dst" ]; then fail "$dst: is not a directory"; fi
	mv "$tmp" "$dst"
	trap - EXIT
	if command -v restorecon >/dev/null 2>&1; then restorecon -R "$dst" || true; fi
	exit
fi
check() {
	for f in "$tmp/$1"* "$tmp/$1".[!.]* "$tmp/$1"..?*; do
		to=$dst/$1${f##*/}
		if isdir "$f"; then
			if isdir "$to"; then check "$1${f##*/}/"
			elif [ -e "$to" ] || [ -L "$to" ]; then fail "$to: is not a directory"; fi
		elif [ -e "$f" ] || [ -L "$f" ]; then
			if isdir "$to"; then fail "$to: is a directory"; fi
			if [ -e "$to" ] && [ ! -f "$to" ] && [ ! -L "$to" ]; then fail "$to: is neither file nor link"; fi
		fi
	done
}
merge() {
	for f in "$tmp/$1"* "$tmp/$1".[!.]* "$tmp/$1"..?*; do
		if isdir "$f" && isdir "$dst/$1${f##*/}"; then merge "$1${f##*/}/"; fi
	done
	find "$tmp/$1." ! -name . -prune -exec /bin/sh -c '
to=$1
shift
mv -f "$@" "$to" || exit
if command -v restorecon >/dev/null 2>&1; then
	for f; do printf "%s\0" "$to${f##*/}"; done | xargs -0 restorecon -R || true
fi
' sshx-put "$dst/$1" {} +
	rmdir "$tmp/$1"
}
check ""
merge ""
`

// sumsScript looks at what is below a directory: names come on stdin, separated by NUL. It prints
// the SHA-256 of files, and "dir" for directories.
const sumsScript = `cd "$1" 2>/dev/null || exit 0
exec xargs -0 /bin/sh -c '
for f; do if [ -d "$f" ] && [ ! -L "$f" ]; then printf "dir  %s\n" "$f"; fi; done
for f; do if [ -f "$f" ] && [ ! -L "$f" ]; then printf "%s\0" "$f"; fi; done | xargs -0 sha256sum -- 2>/dev/null || true
' sshx-sums
`

// settleScript gives mode and owner to files below a directory whose names come on stdin.
const settleScript = `set -eu
cd "$1"
exec xargs -0 /bin/sh -c 'owner=$1 mode=$2
shift 2
if [ -n "$owner" ]; then chown "$owner" "$@" || exit; fi
exec find "$@" ! -perm "$mode" -exec chmod "$mode" {} +' sshx-put "$2" "$3"
`
