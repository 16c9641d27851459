package pool

import (
	"context"
	"io"
	"io/fs"
	"net"
	"strings"

	"github.com/poolready/poolready/sshx"
)

// Run runs a program with its arguments, which reach it as they are, and returns its output,
// stdout and stderr in order, without white space at the end. An exit code other than 0 is an
// *sshx.ExitError.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	res, err := h.run(ctx, sshx.Cmd{Args: args})
	return strings.TrimRight(string(res.Stdout), " \t\r\n"), err
}

// MustRun is Run, within t's context, for which an error is fatal to t.
func (h *Host) MustRun(t T, args ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), args...)
	if err != nil {
		fatal(t, err, "%w\nlook: %s", err, h.Look())
	}
	return out
}

// Script runs a program for /bin/sh, or for the interpreter that its first line names, with
// VM.Env as its environment and /dev/null as its input, and returns its output like Run.
func (h *Host) Script(ctx context.Context, text string) (string, error) {
	res, err := h.run(ctx, sshx.Cmd{Script: text, Env: h.VM.Env})
	return strings.TrimRight(string(res.Stdout), " \t\r\n"), err
}

// Put writes r to the file dst, whole or not at all. Mode 0 means 0644.
func (h *Host) Put(ctx context.Context, dst string, r io.Reader, mode fs.FileMode) error {
	return ofHost(ctx, h.connected(ctx, func(ctx context.Context, c *sshx.Client) error {
		return c.Put(ctx, dst, r, sshx.PutOptions{Mode: mode})
	}))
}

// Get copies the file src to w.
func (h *Host) Get(ctx context.Context, src string, w io.Writer) error {
	return ofHost(ctx, h.connected(ctx, func(ctx context.Context, c *sshx.Client) error {
		return c.Get(ctx, src, w, sshx.GetOptions{})
	}))
}

func (h *Host) run(ctx context.Context, cmd sshx.Cmd) (res sshx.Result, err error) {
	err = h.connected(ctx, func(ctx context.Context, c *sshx.Client) (err error) {
		res, err = c.Run(ctx, cmd)
		return err
	})
	return res, ofHost(ctx, err)
}

// connected calls f with a connection to the host, in a context that ends with the lease.
func (h *Host) connected(ctx context.Context, f func(context.Context, *sshx.Client) error) error {
	ctx, done, err := h.bind(ctx)
	if err != nil {
		return err
	}
	defer done()
	defer h.begin()()
	c, err := h.ssh(ctx)
	if err != nil {
		return err
	}
	return h.blame(f(ctx, c))
}

// DialContext connects to an address as seen from the host, through its SSH connection: to
// "127.0.0.1:8080" for a service of its own, or to what only it can reach. A Host so is an
// sshx.Dialer, and its DialContext fits an http.Transport. Connections of a leased host end with
// the lease.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.connected(ctx, func(ctx context.Context, c *sshx.Client) (err error) {
		if conn, err = c.DialContext(ctx, network, address); err == nil {
			h.give(c)
		}
		return err
	})
	return conn, err
}
