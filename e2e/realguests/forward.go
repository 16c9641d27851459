package realguests

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// forward joins a connection that the harness has made with a guest's address, as seen from the
// lab's port group, until both directions have ended or the guest has. A guest that refuses has it
// closed; of one that does not answer, nothing is heard.
func (s *Site) forward(conn net.Conn, to netip.AddrPort, gone <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	go func() {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	guest, err := s.wire.sites[0].dial(ctx, to)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) {
			conn.Close()
		}
		return
	}
	defer guest.Close()
	defer conn.Close()
	ended := make(chan struct{}, 2)
	go join(guest, conn, ended)
	go join(conn, guest, ended)
	for range 2 {
		select {
		case <-ended:
		case <-gone:
			return
		}
	}
}

// join copies one direction, and passes its end on.
func join(to, from net.Conn, ended chan<- struct{}) {
	_, err := io.Copy(to, from)
	if w, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		_ = w.CloseWrite()
	} else {
		to.Close()
	}
	ended <- struct{}{}
}

// dial connects from the site to an address.
func (s *site) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := s.visit(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", to.String())
		return err
	})
	return c, err
}
