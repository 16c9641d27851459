package sshx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// DirFS returns the tree below the local directory dir, for PutTree. It is os.DirFS, but also opens
// files whose names are not UTF-8, such as those that GetTree may have written.
func DirFS(dir string) fs.FS { return dirFS(dir) }

type dirFS string

// local returns the local path of name. Names are checked as fs.ValidPath does, whatever they are
// encoded in.
func (d dirFS) local(op, name string) (string, error) {
	if !fs.ValidPath(strings.ToValidUTF8(name, "_")) || filepath.Separator != '/' && strings.ContainsAny(name, `\:`) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return filepath.Join(string(d), filepath.FromSlash(name)), nil
}

// Open opens a file.
func (d dirFS) Open(name string) (fs.File, error) {
	file, err := d.local("open", name)
	if err != nil {
		return nil, err
	}
	return os.Open(file)
}

// ReadDir lists a directory, sorted by name.
func (d dirFS) ReadDir(name string) ([]fs.DirEntry, error) {
	dir, err := d.local("readdir", name)
	if err != nil {
		return nil, err
	}
	return os.ReadDir(dir)
}

// Lstat describes a file; it does not follow a symbolic link.
func (d dirFS) Lstat(name string) (fs.FileInfo, error) {
	file, err := d.local("lstat", name)
	if err != nil {
		return nil, err
	}
	return os.Lstat(file)
}

// ReadLink returns the target of a symbolic link.
func (d dirFS) ReadLink(name string) (string, error) {
	file, err := d.local("readlink", name)
	if err != nil {
		return "", err
	}
	return os.Readlink(file)
}

// openIn opens a file of a tree that is sent.
func openIn(src fs.FS, name string) (fs.File, error) {
	f, err := src.Open(name)
	return f, notUTF8(name, err)
}

// notUTF8 adds to an error what helps with names that most file systems of Go refuse.
func notUTF8(name string, err error) error {
	if errors.Is(err, fs.ErrInvalid) && !utf8.ValidString(name) {
		return fmt.Errorf("%w: the name is not UTF-8; send the tree as sshx.DirFS", err)
	}
	return err
}
