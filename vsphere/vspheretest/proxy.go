package vspheretest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// serveProxy starts the HTTP proxy through which extensions log in, if there is to be one.
func (s *Server) serveProxy() error {
	if s.ProxyAddr == "" {
		return nil
	}
	l, err := net.Listen("tcp", s.ProxyAddr)
	if err != nil {
		return fmt.Errorf("proxy: listen on %s: %w", s.ProxyAddr, err)
	}
	s.proxy = &http.Server{
		Handler: http.HandlerFunc(s.tunnel), ErrorLog: s.errorLog(), ReadHeaderTimeout: time.Minute,
	}
	s.work.Go(func() { _ = s.proxy.Serve(l) })
	q := s.URL.Query()
	q.Set("GOVMOMI_TUNNEL_PROXY_PORT", strconv.Itoa(l.Addr().(*net.TCPAddr).Port)) // instead of 80
	s.URL.RawQuery = q.Encode()
	return nil
}

// tunnel connects a client to the API, whatever host it asks for.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "use CONNECT", http.StatusMethodNotAllowed)
		return
	}
	var d net.Dialer
	dst, err := d.DialContext(r.Context(), "tcp", s.URL.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	src, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = dst.Close()
		return
	}
	closeBoth := func() {
		_ = src.Close()
		_ = dst.Close()
	}
	stop := context.AfterFunc(s.life, closeBoth)
	s.goWork(func() {
		defer closeBoth()
		_, _ = io.Copy(src, dst)
	})
	s.goWork(func() {
		defer stop()
		defer closeBoth()
		_, _ = io.Copy(dst, src)
	})
}
