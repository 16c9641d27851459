package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pkg/sftp"
)

// sftpServers are the paths of OpenSSH's sftp-server, by distribution.
var sftpServers = []string{
	"/usr/libexec/openssh/sftp-server", "/usr/lib/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server",
}

// sftpServer runs one of them, in the working directory.
var sftpServer = "for f in " + strings.Join(sftpServers, " ") + `; do if [ -x $f ]; then exec $f; fi; done
echo "there is no sftp-server where OpenSSH has it" >&2; exit 127`

// SFTP opens an SFTP session, for what Put and Get do not do: stat, read directories, write at
// offsets. User is who it acts as: "" is the user logged in as, for whom the sftp subsystem is
// used, so that an account without a shell will do; others, "root" say, get an sftp-server of
// their own through sudo, as does everybody on machines without the subsystem. The session takes
// one of Config.Sessions until it is closed, ends with ctx, and writes concurrently: a write that
// fails may leave holes, so write to a temporary name and rename.
func (c *Client) SFTP(ctx context.Context, user string) (*sftp.Client, error) {
	var sc *sftp.Client
	err := errRefused
	if user == "" || user == c.cfg.User {
		sc, err = c.sftpSubsystem(ctx)
	}
	if errors.Is(err, errRefused) {
		sc, err = c.sftpCommand(ctx, user)
	}
	if err != nil {
		return nil, fmt.Errorf("sshx: %s: sftp: %w", c.cfg.Name, c.bare(err))
	}
	return sc, nil
}

// sftpCommand speaks SFTP with a command.
func (c *Client) sftpCommand(ctx context.Context, user string) (*sftp.Client, error) {
	running, cancel := context.WithCancel(ctx)
	stdin, w := io.Pipe()
	r, stdout := io.Pipe()
	stop := context.AfterFunc(running, func() { w.Close(); r.Close() })
	ended := make(chan struct{})
	var why error // valid once ended is closed
	started := c.spawn(func() {
		defer cancel()
		defer stop()
		_, why = c.runRaw(running, Cmd{
			Name: "sftp-server", User: user, Stdin: stdin, Stdout: stdout, Separate: true,
			Args: []string{"/bin/sh", "-c", sftpServer, "sshx-sftp"},
		})
		close(ended)
		stdin.Close()
		stdout.Close()
	})
	if !started {
		cancel()
		return nil, c.ended("sftp")
	}
	sc, err := sftp.NewClientPipe(r, w, sftp.UseConcurrentWrites(true))
	if err == nil {
		return sc, nil
	}
	select {
	case <-ended:
		if why != nil {
			err = why
		}
	default: // it speaks, but not SFTP
		cancel()
		<-ended
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, err
}

// sftpSubsystem speaks SFTP with what sshd has for it.
func (c *Client) sftpSubsystem(ctx context.Context) (*sftp.Client, error) {
	s, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, "subsystem", "sftp"); err != nil {
		s.close()
		return nil, err
	}
	// It ends with ctx, and with itself.
	c.spawn(func() {
		select {
		case <-ctx.Done():
		case <-s.closed:
		case <-c.done:
		}
		s.ch.Close()
	})
	type made struct {
		sc  *sftp.Client
		err error
	}
	result := make(chan made, 1)
	started := c.spawn(func() {
		sc, err := sftp.NewClientPipe(s.ch, s.ch, sftp.UseConcurrentWrites(true))
		result <- made{sc, err}
	})
	if !started {
		s.close()
		return nil, c.ended("sftp")
	}
	select {
	case m := <-result:
		if m.err != nil {
			s.close()
			if ctx.Err() != nil {
				m.err = context.Cause(ctx)
			}
		}
		return m.sc, m.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
