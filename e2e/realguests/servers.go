package realguests

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"net"
	"time"
)

func tlsListener(l net.Listener, cert tls.Certificate) net.Listener {
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}})
}

// selfSigned returns a certificate that no client has a reason to trust.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(
			1,
		), Subject: pkix.Name{CommonName: "internet"}, NotAfter: time.Now().AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// serveTime is an NTP server with this machine's clock, until c is closed.
func serveTime(c net.PacketConn) {
	b := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if reply := answerTime(b[:n], time.Now()); reply != nil {
			_, _ = c.WriteTo(reply, from)
		}
	}
}

// answerTime is the reply of a server of stratum 2 to a client's packet; nil if it is none (RFC
// 5905).
func answerTime(q []byte, now time.Time) []byte {
	const client, server = 3, 4
	if len(q) < 48 || q[0]&7 != client {
		return nil
	}
	stamp := uint64(now.Unix()+2208988800)<<32 | uint64(now.Nanosecond())<<32/1e9
	r := make([]byte, 48)
	r[0], r[1], r[2], r[3] = q[0]&0x38|server, 2, q[2], 0xec // version, stratum, poll, 1 us
	binary.BigEndian.PutUint32(r[4:], 64)                    // root delay of 1 ms
	binary.BigEndian.PutUint32(r[8:], 64)                    // root dispersion
	copy(r[12:], []byte{192, 0, 2, 1})                       // its own source
	binary.BigEndian.PutUint64(r[16:], stamp-1<<32)          // set a second ago
	copy(r[24:], q[40:48])                                   // the client's transmit time
	binary.BigEndian.PutUint64(r[32:], stamp)
	binary.BigEndian.PutUint64(r[40:], stamp)
	return r
}
