package lab

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/poolready/poolready/e2e/internal/netsim"
)

// A web is what web servers on the internet have in common: a page, and a self-signed
// certificate.
type web struct{ cert tls.Certificate }

func newWeb() *web {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "lab"},
		NotAfter: time.Now().AddDate(10, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &web{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

func (w *web) http(conn net.Conn, _ netip.AddrPort) {
	r := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		body := "a page\n"
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body); err != nil || req.Close {
			return
		}
	}
}

func (w *web) https(conn net.Conn, to netip.AddrPort) {
	t := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{w.cert}})
	defer t.Close()
	w.http(t, to)
}

// A resolve answers one DNS question.
type resolve func(ctx context.Context, from, to netip.AddrPort, q *dns.Msg) *dns.Msg

// publicNames answers what the public name servers know.
func publicNames(_ context.Context, _, _ netip.AddrPort, q *dns.Msg) *dns.Msg {
	found, ok := names[strings.ToLower(q.Question[0].Name)]
	return answer(q, found, ok)
}

// answer makes the reply that name has the addresses; ok reports whether it exists.
func answer(q *dns.Msg, list []netip.Addr, ok bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	if !ok {
		m.Rcode = dns.RcodeNameError
		return m
	}
	hdr := dns.RR_Header{Name: q.Question[0].Name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 60}
	for _, a := range list {
		switch {
		case a.Is4() && hdr.Rrtype == dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: a.AsSlice()})
		case a.Is6() && hdr.Rrtype == dns.TypeAAAA:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: hdr, AAAA: a.AsSlice()})
		}
	}
	return m
}

// respond unpacks a question, resolves it, and packs the answer; nil is none.
func (f resolve) respond(ctx context.Context, from, to netip.AddrPort, request []byte) []byte {
	q := new(dns.Msg)
	if q.Unpack(request) != nil || len(q.Question) != 1 {
		return nil
	}
	m := f(ctx, from, to, q)
	if m == nil {
		return nil
	}
	data, err := m.Pack()
	if err != nil {
		return nil
	}
	return data
}

func dnsUDP(f resolve) netsim.UDPHandler { return f.respond }

func dnsTCP(f resolve) netsim.TCPHandler {
	return func(conn net.Conn, to netip.AddrPort) {
		c := &dns.Conn{Conn: conn}
		from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
		for {
			data, err := c.ReadMsgHeader(nil)
			if err != nil {
				return
			}
			reply := f.respond(context.Background(), from, to, data)
			if reply == nil {
				return
			}
			if _, err := c.Write(reply); err != nil {
				return
			}
		}
	}
}

// ntpAnswer is a time server's: mode 4 instead of 3.
func ntpAnswer(_ context.Context, _, _ netip.AddrPort, request []byte) []byte {
	if len(request) < 48 || request[0]&7 != 3 {
		return nil
	}
	reply := make([]byte, 48)
	reply[0], reply[1] = request[0]&^7|4, 2
	return reply
}

// ntpQuestion asks for the time, as NTP version 4.
func ntpQuestion() []byte {
	q := make([]byte, 48)
	q[0] = 4<<3 | 3
	return q
}
