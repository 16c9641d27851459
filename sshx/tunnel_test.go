package sshx_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/poolready/poolready/sshx"
)

func TestServicesBehindAMachine(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(bytes.ToUpper(b))
	}))
	t.Cleanup(web.Close)
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, forwarding(m))
		tr := &http.Transport{DialContext: c.DialContext}
		t.Cleanup(tr.CloseIdleConnections)
		post := func(tr *http.Transport, url string) {
			hc := &http.Client{Transport: tr}
			resp, err := hc.Post(url, "text/plain", strings.NewReader(strings.Repeat("abc", 1<<18)))
			require.NoError(t, err)
			b, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			resp.Body.Close()
			assert.True(t, strings.Repeat("ABC", 1<<18) == string(b))
		}
		post(tr, web.URL)
		_, err := c.DialContext(t.Context(), "tcp", "127.0.0.1:1")
		require.ErrorContains(t, err, "sshx: dial 127.0.0.1:1 through m1: ssh: rejected")
		_, err = c.DialContext(t.Context(), "udp", "127.0.0.1:1")
		require.Error(t, err)
	})
}

func TestTunnelsKnowDeadlines(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	onMachines(t, func(t *testing.T, m machine) {
		c := dial(t, forwarding(m))
		conn, err := c.DialContext(t.Context(), "tcp", l.Addr().String())
		require.NoError(t, err)
		peer := <-accepted
		defer peer.Close()
		b := make([]byte, 10)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		_, err = conn.Read(b)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, conn.SetDeadline(time.Time{}))
		_, err = conn.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = io.ReadFull(peer, b[:5])
		require.NoError(t, err)
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(100*time.Millisecond)))
		for err == nil { // the peer does not read: buffers fill up
			_, err = conn.Write(make([]byte, 1<<20))
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		read := make(chan error, 1)
		go func() { _, err := conn.Read(b); read <- err }()
		require.NoError(t, conn.Close())
		require.ErrorIs(t, <-read, net.ErrClosed)
		require.ErrorIs(t, conn.Close(), net.ErrClosed)
	})
}

// listen returns a service that hands over its connections.
func listen(t *testing.T) (addr string, accepted <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	conns := make(chan net.Conn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case conns <- c:
			case <-t.Context().Done():
				c.Close()
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), conns
}

// forwarding has a machine connect to any address, as a real one does.
func forwarding(m machine) machine {
	if s, ok := m.(*sim); ok {
		connect(s, nil)
	}
	return m
}

func TestTunnelTellsTheEndFromALostConnection(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		addr, accepted := listen(t)
		c := dial(t, forwarding(m))
		conn, err := c.DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err)
		peer := <-accepted
		_, err = peer.Write([]byte("whole"))
		require.NoError(t, err)
		peer.Close()
		b, err := io.ReadAll(conn)
		require.NoError(t, err)
		assert.Equal(t, "whole", string(b))

		conn, err = c.DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err)
		peer = <-accepted
		defer peer.Close()
		_, err = peer.Write([]byte("part"))
		require.NoError(t, err)
		part := make([]byte, 4)
		_, err = io.ReadFull(conn, part)
		require.NoError(t, err)
		drop(m)
		_, err = conn.Read(part)
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF)
		_, err = conn.Write(part)
		require.Error(t, err)
	})
}

func TestTunnelsEndOneDirectionAtATime(t *testing.T) {
	t.Parallel()
	onMachines(t, func(t *testing.T, m machine) {
		addr, accepted := listen(t)
		c := dial(t, forwarding(m))
		direct, err := c.DialContext(t.Context(), "tcp", addr)
		require.NoError(t, err)
		answer := func(conn net.Conn) { // knows where the question ends only by its end
			peer := <-accepted
			defer peer.Close()
			_, err := io.WriteString(conn, "question")
			assert.NoError(t, err)
			assert.NoError(t, conn.(interface{ CloseWrite() error }).CloseWrite())
			b, err := io.ReadAll(peer)
			assert.NoError(t, err)
			assert.Equal(t, "question", string(b))
			_, err = conn.Write([]byte("more"))
			assert.Error(t, err)
			_, err = io.WriteString(peer, "answer")
			assert.NoError(t, err)
			peer.Close()
			b, err = io.ReadAll(conn)
			assert.NoError(t, err)
			assert.Equal(t, "answer", string(b))
			assert.NoError(t, conn.Close())
		}
		answer(direct)
		_, err = direct.Write([]byte("more"))
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, direct.SetDeadline(time.Time{}), net.ErrClosed)
	})
}

func TestDialThroughAMachineEndsWithItsContext(t *testing.T) {
	t.Parallel()
	m := newSim(t)
	asked, late := make(chan bool, 1), make(chan net.Conn)
	connect(m, func(ctx context.Context, _, _ string) (net.Conn, error) {
		asked <- true
		select {
		case conn := <-late:
			return conn, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	c := dial(t, m)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() { <-asked; cancel(enough) }()
	_, err := c.DialContext(ctx, "tcp", "10.0.0.1:80")
	require.ErrorIs(t, err, enough)
	_, err = c.Run(t.Context(), sshx.Cmd{Args: []string{"true"}})
	require.NoError(t, err)
	conn, peer := net.Pipe()
	late <- conn
	_, err = peer.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "what comes too late is closed")

	failed := make(chan error)
	go func() { _, err := c.DialContext(context.Background(), "tcp", "10.0.0.1:80"); failed <- err }()
	<-asked
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-failed, sshx.ErrClosed)
}

func TestTunnelsEndWithTheirClient(t *testing.T) {
	t.Parallel()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, zeros{}) }))
	t.Cleanup(web.Close)
	m := newSim(t)
	connect(m, nil)
	for range 5 {
		c := dial(t, m)
		var users sync.WaitGroup
		begun := make(chan bool, 100)
		for range 4 {
			users.Go(func() {
				for {
					conn, err := c.DialContext(context.Background(), "tcp", web.Listener.Addr().String())
					if err != nil {
						assert.ErrorIs(t, err, sshx.ErrClosed)
						assert.NotContains(t, err.Error(), "%!")
						return
					}
					_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
					_, _ = io.CopyN(io.Discard, conn, 1<<20) // and leave the rest
					begun <- true
				}
			})
		}
		<-begun
		require.NoError(t, c.Close())
		users.Wait()
	}
}
