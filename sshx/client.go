package sshx

import (
	"context"
	"io"
	"io/fs"
	"time"

	"golang.org/x/crypto/ssh"
)

// A Client is one SSH connection to one machine. It may be used from any goroutine.
type Client struct{}

// Dial connects and logs in once. It ends when ctx does.
func Dial(ctx context.Context, cfg Config) (*Client, error) { panic("stub") }

// Ready says what WaitReady waits for, beyond a command that runs.
type Ready struct {
	// Address, if set, is asked before each attempt and replaces Config.Address.
	Address func(ctx context.Context) (string, error)
	// AuthGrace is how long refused logins are put down to a machine that is still starting; 0 means 90 s.
	AuthGrace time.Duration
	// BootIDNot is a boot id that must have gone, or "".
	BootIDNot string
	// SystemState waits until systemd, where there is one, says running or degraded.
	SystemState bool
	// CloudInit waits until cloud-init, where there is one, is done.
	CloudInit bool
	// Report is told of each change of state, and only of changes.
	Report func(state string)
}

// WaitReady tries to connect until the machine answers a command and satisfies ready, ctx
// ends, or trying on is pointless (a wrong host key, say).
func WaitReady(ctx context.Context, cfg Config, ready Ready) (*Client, error) { panic("stub") }

// A Cmd is one command: either Args or Script.
type Cmd struct {
	// Args is a program and its arguments, which reach it as they are.
	Args []string
	// Script is the text of a program for /bin/sh, or for the interpreter that its first line
	// names ("#!/bin/bash"). It runs with stdin at /dev/null.
	Script string
	// Name stands for Script in errors and logs; "" means "script".
	Name string
	// Env is exported to the command.
	Env map[string]string
	// Dir is the working directory; "" is the home directory.
	Dir string
	// User to run as, through sudo; "" is the user logged in as.
	User string
	// Stdin feeds Args; nil is /dev/null. Scripts have none.
	Stdin io.Reader
	// Stdout and Stderr receive output as it comes. With Separate false (the default) all
	// output is merged, in order, into Stdout.
	Stdout, Stderr io.Writer
	Separate       bool
	// WaitDelay is how long output is waited for after the exit status; 0 means 2 s.
	WaitDelay time.Duration
	// ExpectDisconnect makes a lost connection a success: for scripts that cut their own network.
	ExpectDisconnect bool
}

// A Result is what a command left: its output (head and tail if it was long) and exit code.
type Result struct {
	Stdout   []byte // all of the output unless Cmd.Separate
	Stderr   []byte
	Cut      bool // output was dropped in the middle, or may lack its end
	ExitCode int
	Took     time.Duration
}

// Run runs cmd and waits for it. An exit code other than 0 is an *ExitError; a lost
// connection, after which nobody knows whether the command ran, a *DisconnectedError. When
// ctx ends, the command's process group is killed. Run is never repeated by itself.
func (c *Client) Run(ctx context.Context, cmd Cmd) (Result, error) { panic("stub") }

// PutOptions are the zero value for a file of mode 0644 owned by the user logged in as.
type PutOptions struct {
	Mode  fs.FileMode // 0 means 0644
	Owner string      // "user" or "user:group", set as root; "" leaves it
	Sudo  bool        // write as root
}

// Put writes r to the file dst, whole or not at all.
func (c *Client) Put(ctx context.Context, dst string, r io.Reader, o PutOptions) error {
	panic("stub")
}

// Get copies the file src to w.
func (c *Client) Get(ctx context.Context, src string, w io.Writer) error { panic("stub") }

// PutTree writes the tree src to the directory dst, which need not exist.
func (c *Client) PutTree(ctx context.Context, dst string, src fs.FS, o PutOptions) error {
	panic("stub")
}

// BootID returns the kernel's boot id: it changes with every boot.
func (c *Client) BootID(ctx context.Context) (string, error) { panic("stub") }

// HostKey returns the key by which the machine proved itself.
func (c *Client) HostKey() ssh.PublicKey { panic("stub") }

// HostKeys reads, over this connection, all public host keys of the machine, in
// authorized_keys form without comments, sorted: what to pin for its clones.
func (c *Client) HostKeys(ctx context.Context) ([]string, error) { panic("stub") }

// Close ends the connection and everything that runs on it. Closing twice does nothing.
func (c *Client) Close() error { panic("stub") }

// Done is closed when the connection has ended, by Close or because the peer is gone.
func (c *Client) Done() <-chan struct{} { panic("stub") }
