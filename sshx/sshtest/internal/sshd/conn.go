package sshd

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// serve is a connection after login. It returns when the connection has ended and all of its
// channels are done; commands may run on.
func (c *guestConn) serve(sc *ssh.ServerConn, chans <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(c.b.Ctx)
	defer cancel()
	defer sc.Close()
	wg.Go(func() { c.requests(reqs) })
	if every := c.d.time("clientaliveinterval"); every > 0 {
		wg.Go(func() { c.watch(ctx, sc, every, c.d.number("clientalivecountmax", c.who)) })
	}
	c.announceKeys(sc)
	for nc := range chans {
		switch nc.ChannelType() {
		case "session":
			c.open(nc, &wg)
		case "direct-tcpip":
			wg.Go(func() { c.forward(ctx, nc) })
		default:
			_ = nc.Reject(ssh.ConnectionFailed, "open failed") // what sshd has no name for, too
		}
	}
}

// announceKeys tells the client all host keys, as OpenSSH does after login.
func (c *guestConn) announceKeys(sc *ssh.ServerConn) {
	var payload []byte
	for _, k := range c.d.keys {
		blob := k.PublicKey().Marshal()
		payload = append(payload, byte(len(blob)>>24), byte(len(blob)>>16), byte(len(blob)>>8), byte(len(blob)))
		payload = append(payload, blob...)
	}
	_, _, _ = sc.SendRequest("hostkeys-00@openssh.com", false, payload)
}

// requests answers global requests with failure, as OpenSSH does to keepalives too.
func (c *guestConn) requests(reqs <-chan *ssh.Request) {
	for r := range reqs {
		if r.WantReply && !c.b.Host.Faults().NoKeepAlive {
			_ = r.Reply(false, nil)
		}
	}
}

// watch is ClientAliveInterval: a client that stays silent when asked count times is dropped.
func (c *guestConn) watch(ctx context.Context, sc *ssh.ServerConn, every time.Duration, count int) {
	var asks sync.WaitGroup
	defer asks.Wait()
	defer sc.Close() // ends asks
	for asked, last := 0, c.heard.Load(); ; {
		if !machine.Sleep(ctx, every) {
			return
		}
		if now := c.heard.Load(); now != last {
			asked, last = 0, now
			continue
		}
		if count > 0 && asked >= count {
			return
		}
		if asked++; asked == 1 {
			asks.Go(func() { _, _, _ = sc.SendRequest("keepalive@openssh.com", true, nil) })
		}
	}
}

// open starts a session, unless there are MaxSessions. The slot of a session that ended becomes
// free only after the next request for one has been answered: sshd, too, frees slots in a later
// pass.
func (c *guestConn) open(nc ssh.NewChannel, wg *sync.WaitGroup) {
	f := c.b.Host.Faults()
	c.mu.Lock()
	full := c.sessions >= cmp.Or(f.MaxSessions, c.d.number("maxsessions", c.who))
	c.sessions -= c.ending
	c.ending = 0
	if !full {
		c.sessions++
	}
	c.mu.Unlock()
	if full || f.RefuseSessions {
		if !full {
			c.ended()
		}
		_ = nc.Reject(ssh.ConnectionFailed, "open failed")
		return
	}
	ch, reqs, err := nc.Accept()
	if err != nil {
		c.ended()
		return
	}
	wg.Go(func() {
		defer c.ended()
		(&session{c: c, ch: ch}).serve(reqs)
	})
}

func (c *guestConn) ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending++
}

// dialFailure is what sshd's C library would say of the failure.
func dialFailure(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return "Name or service not known"
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return disk.Reason(err)
	}
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		text = text[i+2:]
	}
	return text
}

// forward is a direct-tcpip channel.
func (c *guestConn) forward(ctx context.Context, nc ssh.NewChannel) {
	var m struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	allow := c.d.get("allowtcpforwarding", c.who)
	switch {
	case ssh.Unmarshal(nc.ExtraData(), &m) != nil:
		_ = c.Conn.Close() // as after all that sshd cannot parse
		return
	case c.d.is("disableforwarding", c.who) || allow == "no" || allow == "remote":
		_ = nc.Reject(ssh.Prohibited, "open failed")
		return
	}
	conn, err := c.b.Host.Connect(ctx, net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port))))
	if err != nil {
		_ = nc.Reject(ssh.ConnectionFailed, dialFailure(err))
		return
	}
	defer conn.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	go ssh.DiscardRequests(reqs) // ends with the channel
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(conn, ch)
		if cw, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		} else {
			_ = conn.Close()
		}
	})
	_, _ = io.Copy(ch, conn)
	_ = ch.CloseWrite()
	both.Wait()
}
