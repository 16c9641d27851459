package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/poolready/poolready/sshx"
)

// Script returns a Step that runs text, a program for /bin/sh or for the interpreter that its
// first line names, with VM.Env as its environment. Its Version is a hash of text.
//
// An empty text, one with CRLF line ends or a NUL, and a shell script with a syntax error make the
// Spec invalid. Syntax is checked before anything is touched, if this machine has a bash of
// version 5 or later: a script for /bin/sh must satisfy its sh or its bash.
func Script(name, text string) Step {
	do := func(ctx context.Context, h *Host) error {
		_, err := h.run(ctx, sshx.Cmd{Name: name, Script: text, Env: h.VM.Env})
		return err
	}
	return Step{Name: name, Version: hash(text), Do: do, script: &text}
}

// ScriptCheck returns a Check that runs text like Script, and compares its standard output to want.
// Warnings on standard error are not compared; they are in the error of a script that fails.
func ScriptCheck(name, want, text string) Check {
	do := func(ctx context.Context, h *Host) (string, error) {
		res, err := h.run(ctx, sshx.Cmd{Name: name, Script: text, Env: h.VM.Env, Separate: true})
		return string(res.Stdout), err
	}
	return Check{Name: name, Version: hash(text), Want: want, Do: do, script: &text}
}

// Files returns a Step that copies the tree src to the absolute path dst of the host. Its Version
// is a hash of dst and of the names, modes and contents of the files. A src that cannot be read
// makes the Spec invalid.
func Files(name, dst string, src fs.FS) Step {
	version, err := hashTree(dst, src)
	if !path.IsAbs(dst) || strings.ContainsRune(dst, 0) {
		err = errors.Join(fmt.Errorf("the destination %q is not an absolute path", dst), err)
	}
	do := func(ctx context.Context, h *Host) error {
		return h.connected(ctx, func(ctx context.Context, c *sshx.Client) error {
			return c.PutTree(ctx, dst, src, sshx.PutOptions{})
		})
	}
	return Step{Name: name, Version: version, Do: do, fault: err}
}

// hashTree returns a hash even if it returns an error, so that the Step has a Version.
func hashTree(dst string, src fs.FS) (version string, err error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", dst)
	defer func() {
		if p := recover(); p != nil { // of a nil src, or of src itself
			err = fmt.Errorf("read the files of a %T: panic: %v", src, p)
		}
		version = hex.EncodeToString(sum.Sum(nil))[:16]
	}()
	return "", fs.WalkDir(src, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%q %v\n", path, info.Mode())
		if !info.Mode().IsRegular() {
			return nil
		}
		data, err := fs.ReadFile(src, path)
		fmt.Fprintf(sum, "%x\n", sha256.Sum256(data))
		return err
	})
}
