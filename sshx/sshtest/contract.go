package sshtest

import (
	"context"
	"io"
	"io/fs"
	"net"
	"sync"
)

// A Disk is a file tree in memory, with owners, modes and symbolic links. It may be used from
// any goroutine. Paths are absolute and "/"-separated.
type Disk struct{ mu sync.Mutex }

// NewDisk returns a disk with the directories that every Linux has, a root user, and a fresh host key
// in /etc/ssh.
func NewDisk() *Disk { panic("stub") }

// Clone returns a copy that shares nothing that can be seen: writing to one leaves the other. It is
// cheap (copy on write), as snapshots are taken often.
func (d *Disk) Clone() *Disk { panic("stub") }

// ReadFile, WriteFile, ... are as in package os, as root. WriteFile and MkdirAll make missing parents.
func (d *Disk) ReadFile(path string) ([]byte, error)                        { panic("stub") }
func (d *Disk) WriteFile(path string, data []byte, mode fs.FileMode) error  { panic("stub") }
func (d *Disk) AppendFile(path string, data []byte, mode fs.FileMode) error { panic("stub") }
func (d *Disk) MkdirAll(path string, mode fs.FileMode) error                { panic("stub") }
func (d *Disk) Remove(path string) error                                    { panic("stub") }
func (d *Disk) RemoveAll(path string) error                                 { panic("stub") }
func (d *Disk) Rename(from, to string) error                                { panic("stub") }
func (d *Disk) Symlink(target, path string) error                           { panic("stub") }
func (d *Disk) Chmod(path string, mode fs.FileMode) error                   { panic("stub") }
func (d *Disk) Chown(path, user, group string) error                        { panic("stub") }
func (d *Disk) Stat(path string) (fs.FileInfo, error)                       { panic("stub") } // follows links; Sys() is *Owner
func (d *Disk) ReadDir(path string) ([]fs.DirEntry, error)                  { panic("stub") } // sorted

// A Command is a program of a simulated machine. It returns its exit code. It must end when ctx does.
type Command func(ctx context.Context, p *Proc) int

// A Proc is one running command.
type Proc struct {
	Args           []string // Args[0] is the name
	Env            map[string]string
	Dir            string // working directory
	User           string // effective user: "root" after sudo
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Host           *Host
}

// Run runs another program of the machine with the Proc's user, directory, environment and streams.
func (p *Proc) Run(ctx context.Context, args ...string) int { panic("stub") }

// Path makes a path absolute, from the Proc's working directory.
func (p *Proc) Path(name string) string { panic("stub") }

// Fail prints "name: message" to Stderr and returns code.
func (p *Proc) Fail(code int, format string, args ...any) int { panic("stub") }

// A Host is a simulated machine: a disk, a shell (mvdan.cc/sh), commands, and an SSH server that
// behaves as OpenSSH does. Users, authorized keys, host keys, sshd_config (PermitRootLogin,
// ClientAlive*, ...) and sudoers are read from the disk.
type Host struct {
	// Commands are looked up before the base commands (cat, grep, sed, ...), by name.
	Commands map[string]Command
	// Hooks for whoever embeds the machine in a bigger one (all may be nil).
	OnReboot   func() // a command asked for a reboot; the embedder calls Boot
	OnPowerOff func() // a command asked for power off
}

// NewHost returns a machine on disk that is not booted.
func NewHost(disk *Disk) *Host { panic("stub") }

func (h *Host) Disk() *Disk { panic("stub") }

// Boot starts the machine: a new boot id, a new host key if /etc/ssh has none.
func (h *Host) Boot() { panic("stub") }

// Halt ends every connection and process, as losing power does, and returns when none is left.
func (h *Host) Halt() { panic("stub") }

// BootID is that of /proc/sys/kernel/random/boot_id.
func (h *Host) BootID() string { panic("stub") }

// ServeConn is sshd on one TCP connection; it returns when the connection has ended.
func (h *Host) ServeConn(conn net.Conn) { panic("stub") }

// Run runs a shell script on the machine as root, without SSH: for tests that look at it or break it.
func (h *Host) Run(ctx context.Context, script string) (output string, code int) { panic("stub") }
