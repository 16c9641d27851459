package sshx

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pkg/sftp"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// sftpServers are the paths of OpenSSH's sftp-server, by distribution.
var sftpServers = []string{"/usr/libexec/openssh/sftp-server", "/usr/lib/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server"}

// SFTP opens an SFTP session, for what Put and Get do not do: stat, read directories, write at
// offsets. User is who it acts as: "" is the user logged in as, for whom the sftp subsystem is
// used, so that an account without a shell will do; others, "root" say, get an sftp-server of their own through sudo, as
// does everybody on machines without the subsystem. The session takes one of Config.Sessions until it is closed, ends with
// ctx, and writes concurrently: a write that fails may leave holes, so write to a temporary name
// and rename.
func (c *Client) SFTP(ctx context.Context, user string) (*sftp.Client, error) {
	fail := func(err error) error { return fmt.Errorf("sshx: %s: sftp: %w", c.cfg.Name, c.bare(err)) }
	if user != "" && user != c.cfg.User {
		sc, err := c.sftpServer(ctx, user)
		if err != nil {
			return nil, fail(err)
		}
		return sc, nil
	}
	sc, err := c.sftpOn(ctx, "subsystem", "sftp", "")
	if errors.Is(err, errRefused) {
		sc, err = c.sftpServer(ctx, "")
	}
	if err != nil {
		return nil, fail(err)
	}
	return sc, nil
}

// sftpServer runs a server by exec.
func (c *Client) sftpServer(ctx context.Context, user string) (*sftp.Client, error) {
	text := "for f in " + strings.Join(sftpServers, " ") + "; do if [ -x $f ]; then exec $f; fi; done; exit 127"
	if user == "" {
		return c.sftpOn(ctx, "exec", "exec /bin/sh -c "+wire.Quote(text), "")
	}
	prompt := c.prompt()
	sc, err := c.sftpOn(ctx, "exec", wire.Sudo(user, prompt)+wire.Quote(text), prompt)
	return sc, c.sudoRefused(err, user, `"sftp-server"`)
}

// sftpOn speaks SFTP with what the request starts, after sudo, which asks with prompt, has let it.
func (c *Client) sftpOn(ctx context.Context, kind, what, prompt string) (*sftp.Client, error) {
	s, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, kind, what); err != nil {
		s.close()
		return nil, err
	}
	if err := c.authorize(ctx, s, prompt, false); err != nil {
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
	var m made
	select {
	case m = <-result:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if m.err != nil {
		s.close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if s.hasExited() && s.status.code == 127 {
			return nil, errors.New("the machine has no sftp-server where OpenSSH has it")
		}
		return nil, m.err
	}
	return m.sc, nil
}
