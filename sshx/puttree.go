package sshx

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

// treeScript makes a directory in dst (whose parent may not be ours to write to), or beside it if
// there is no dst, has unpack fill that from stdin, and moves what is there to dst. A stream that
// ends early may look like a whole one: it is one if its last file is there. fail cleans up first:
// writing what it says may block or kill it when the connection is gone. What follows unpack is
// silent on stdout, which unpack may use.
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

// sftpWorkers is how many files go at once where each costs several round trips.
const sftpWorkers = 8

// writeSFTP is writeTar for a machine without tar: file by file, and many times slower over a
// network, to an sftp-server in the directory that the tree belongs into.
func (t *treePut) writeSFTP(w *io.PipeWriter, r io.Reader, last string, sent *counted) error {
	sc, err := sftp.NewClientPipe(r, w, sftp.UseConcurrentWrites(true))
	if err != nil {
		return err
	}
	if err = t.createAll(sc, sent); err == nil {
		err = create(sc, last, &whole{r: strings.NewReader("")})
	}
	w.CloseWithError(err)
	sc.Close() // returns when the machine's side has ended
	return err
}

func (t *treePut) createAll(sc *sftp.Client, sent *counted) error {
	of := func(e entry, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		return nil
	}
	for _, e := range t.entries {
		if e.mode.IsDir() && e.name != "." {
			if err := sc.Mkdir(e.name); err != nil {
				return of(e, err)
			}
		}
	}
	work, failed := errgroup.WithContext(context.Background())
	work.SetLimit(sftpWorkers)
	for _, e := range t.entries {
		work.Go(func() error {
			switch {
			case failed.Err() != nil:
				return context.Cause(failed)
			case e.mode.IsDir():
				return nil
			case e.mode.IsRegular():
				return t.copy(e, func(r *whole) error {
					r.r = io.TeeReader(r.r, sent)
					if err := create(sc, e.name, r); err != nil {
						return err
					}
					return sc.Chmod(e.name, e.mode)
				})
			}
			return of(e, sc.Symlink(e.link, e.name))
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	for _, e := range slices.Backward(t.entries) { // what they hold is in place
		if e.mode.IsDir() {
			if err := sc.Chmod(e.name, e.mode.Perm()); err != nil {
				return of(e, err)
			}
		}
	}
	return nil
}

// create makes a file of what r has.
func create(sc *sftp.Client, name string, r *whole) error {
	f, err := sc.Create(name)
	if err != nil {
		return err
	}
	_, err = f.ReadFrom(r)
	return errors.Join(err, f.Close())
}

// changed returns the entries that dst does not have, with the directories that lead to them, and
// the files that it has.
func (c *Client) changed(ctx context.Context, dst string, src fs.FS, entries []entry, o PutOptions) (rest, same []entry, err error) {
	var names []string
	for _, e := range entries {
		if e.mode&fs.ModeSymlink == 0 {
			names = append(names, e.name)
		}
	}
	have, err := c.sums(ctx, dst, names, o.user())
	if err != nil {
		return nil, nil, err
	}
	need := map[string]bool{}
	for _, e := range entries {
		has := have[e.name] == "dir" && e.mode.IsDir()
		if e.mode.IsRegular() {
			sum, err := sumFile(src, e.name)
			if err != nil {
				return nil, nil, err
			}
			if has = have[e.name] == sum; has {
				same = append(same, e)
			}
		}
		for p := e.name; !has && !need[p]; p = path.Dir(p) {
			need[p] = true
		}
	}
	for _, e := range entries {
		if need[e.name] {
			rest = append(rest, e)
		}
	}
	return rest, same, nil
}

// sums returns what sumsScript says of names below dir. There is nothing of those that are neither
// file nor directory, or that a machine without coreutils cannot print.
func (c *Client) sums(ctx context.Context, dir string, names []string, user string) (map[string]string, error) {
	var in, out strings.Builder
	for _, n := range names {
		in.WriteString("./" + n + "\x00")
	}
	_, err := c.runRaw(ctx, Cmd{
		Name: "compare " + dir, User: user, Stdin: strings.NewReader(in.String()), Separate: true, Stdout: &out,
		Args: []string{"/bin/sh", "-c", sumsScript, "sshx-sums", dir},
	})
	if err != nil {
		return nil, err
	}
	have := map[string]string{}
	for line := range strings.Lines(out.String()) {
		line, escaped := strings.CutPrefix(strings.TrimSuffix(line, "\n"), `\`)
		if sum, name, ok := strings.Cut(line, "  ./"); ok {
			if escaped {
				name = unescape.Replace(name)
			}
			have[name] = sum
		}
	}
	return have, nil
}

// unescape undoes what sha256sum makes of names that would break its lines.
var unescape = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r")

// settle gives mode and owner to files that were not sent.
func (c *Client) settle(ctx context.Context, dst string, same []entry, o PutOptions) error {
	names := map[fs.FileMode]*strings.Builder{}
	for _, e := range same {
		if names[e.mode] == nil {
			names[e.mode] = &strings.Builder{}
		}
		names[e.mode].WriteString("./" + e.name + "\x00")
	}
	for mode, list := range names {
		_, err := c.Run(ctx, Cmd{
			Name: "set modes in " + dst, User: o.user(), Stdin: strings.NewReader(list.String()), Separate: true,
			Args: []string{"/bin/sh", "-c", settleScript, "sshx-put", dst, o.Owner, fmt.Sprintf("%04o", unixMode(mode))},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func sumFile(src fs.FS, name string) (string, error) {
	f, err := openIn(src, name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
