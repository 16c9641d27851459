package sshtest

import (
	"io/fs"
	"time"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
)

// A Disk is a file tree in memory, with owners, modes, symbolic and hard links, modification
// times and a size that can run out. It may be used from any goroutine. Paths are absolute and
// "/"-separated; a relative one is taken from "/".
//
// The methods of Disk act as root, to whom nothing is forbidden; what users of the machine do
// through its shell, its commands and SFTP is checked against modes and owners. Errors are
// *fs.PathError or *os.LinkError, for errors.Is with fs.ErrNotExist and its like.
type Disk struct{ d *disk.Disk }

// An Owner says whose a file is. It is what Sys returns for files of a Disk. It has the fields UID
// and GID, and User and Group: names on this disk, or the numbers in words.
type Owner = disk.Owner

// NewDisk returns the disk of a small machine of the RHEL 9 kind: the directories that every Linux
// has, root and a few system users, group wheel, which may use sudo with a password, sshd_config,
// and fresh host keys (ed25519 and ecdsa) in /etc/ssh. No user has authorized keys.
func NewDisk() *Disk { return &Disk{disk.NewDisk()} }

// Clone returns a copy that shares nothing that can be seen: writing to one leaves the other.
// It is cheap, as snapshots are taken often: nothing is copied until either of the two is written
// to, and contents of files only when that file is. Files that are open on d stay open on d.
func (d *Disk) Clone() *Disk { return &Disk{d.d.Clone()} }

// SetSize sets the size of the disk in bytes; that of a new Disk is 20 GiB. Writing beyond it fails
// with ENOSPC. Only contents of files count as used.
func (d *Disk) SetSize(bytes int64) { d.d.SetSize(bytes) }

// Usage returns the size of the disk and how much of it is used, in bytes.
func (d *Disk) Usage() (size, used int64) { return d.d.Usage() }

// ReadFile returns a copy of the contents of a file.
func (d *Disk) ReadFile(path string) ([]byte, error) { return d.d.ReadFile(path) }

// WriteFile writes data to a file. If it is missing it is made, with mode, owned by root, and so
// are directories that lead to it; if not, mode and owner stay as they are.
func (d *Disk) WriteFile(path string, data []byte, mode fs.FileMode) error {
	return d.d.WriteFile(path, data, mode)
}

// AppendFile is WriteFile, except that what the file holds already stays before data.
func (d *Disk) AppendFile(path string, data []byte, mode fs.FileMode) error {
	return d.d.AppendFile(path, data, mode)
}

// MkdirAll makes a directory and those that lead to it, with mode; existing ones stay as they are.
func (d *Disk) MkdirAll(path string, mode fs.FileMode) error { return d.d.MkdirAll(path, mode) }

// Remove removes a file, a link, or an empty directory.
func (d *Disk) Remove(path string) error { return d.d.Remove(path) }

// RemoveAll removes path and everything below it. It is no error if there is nothing.
func (d *Disk) RemoveAll(path string) error { return d.d.RemoveAll(path) }

// Rename moves a file or directory, in place of a file or an empty directory that was there.
func (d *Disk) Rename(from, to string) error { return d.d.Rename(from, to) }

// Symlink makes path a symbolic link to target.
func (d *Disk) Symlink(target, path string) error { return d.d.Symlink(target, path) }

// Chmod sets the permission, setuid, setgid and sticky bits of a file.
func (d *Disk) Chmod(path string, mode fs.FileMode) error { return d.d.Chmod(path, mode) }

// Chown sets the owner of a file. user and group are names in the disk's /etc/passwd and
// /etc/group, or numbers; "" leaves what is.
func (d *Disk) Chown(path, user, group string) error { return d.d.Chown(path, user, group) }

// Chtimes sets the modification time of a file.
func (d *Disk) Chtimes(path string, mtime time.Time) error { return d.d.Chtimes(path, mtime) }

// Stat describes a file; it follows links. Sys of what it returns is an *Owner.
func (d *Disk) Stat(path string) (fs.FileInfo, error) { return d.d.Stat(path) }

// Lstat is Stat, except that it describes a symbolic link itself.
func (d *Disk) Lstat(path string) (fs.FileInfo, error) { return d.d.Lstat(path) }

// Readlink returns what a symbolic link says.
func (d *Disk) Readlink(path string) (string, error) { return d.d.Readlink(path) }

// ReadDir returns what is in a directory, sorted by name. Links are not followed.
func (d *Disk) ReadDir(path string) ([]fs.DirEntry, error) { return d.d.ReadDir(path) }

// AddUser adds a user with a home directory, a group of its own and /bin/bash, whom keys, in
// authorized_keys form, let in. It does what an image builder does; on a running machine
// scripts have useradd.
func (d *Disk) AddUser(name string, keys ...string) error { return d.d.AddUser(name, keys...) }

// RemoveHostKeys removes sshd's host keys; the next Boot makes new ones, and a machine that
// is cloned from this disk has an identity of its own.
func (d *Disk) RemoveHostKeys() error { return d.d.RemoveHostKeys() }
