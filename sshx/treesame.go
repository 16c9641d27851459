package sshx

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

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
