package netsim_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/poolready/poolready/e2e/internal/netsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pfx(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
func addr(s string) netip.Addr    { return netip.MustParseAddr(s) }
func at(s string) netip.AddrPort  { return netip.MustParseAddrPort(s) }
func to(dst, via, dev string) netsim.Route {
	r := netsim.Route{Dst: netip.MustParsePrefix(dst), Dev: dev}
	if via != "" {
		r.Via = addr(via)
	}
	return r
}

func echo(_ context.Context, from, _ netip.AddrPort, q []byte) []byte {
	return []byte(from.Addr().String() + " " + string(q))
}

// A world is inner --(VLAN 10 on trunk)-- gate --(out)-- server, with masquerading on gate.
type world struct {
	inner, gate, server             *netsim.Node
	innerCfg, gateCfg, serverConfig netsim.Config
}

func newWorld(t *testing.T) *world {
	n := netsim.New()
	w := &world{inner: n.Attach("inner"), gate: n.Attach("gate"), server: n.Attach("server")}
	w.innerCfg = netsim.Config{
		Interfaces: []netsim.Interface{{Name: "v", Segment: "trunk", VLAN: 10, Trunk: true, Up: true, Addrs: pfx("10.10.20.2/24")}},
		Routes:     []netsim.Route{to("0.0.0.0/0", "10.10.20.1", "v")},
	}
	w.gateCfg = netsim.Config{
		Interfaces: []netsim.Interface{
			{Name: "v", Segment: "trunk", VLAN: 10, Trunk: true, Up: true, Addrs: pfx("10.10.20.1/24")},
			{Name: "o", Segment: "out", Up: true, Addrs: pfx("192.168.50.9/24")},
		},
		Forward4: true, Masquerade: true, Filter: &netsim.Filter{Open: []netsim.Service{{Proto: "udp", Port: 53}}},
	}
	w.serverConfig = netsim.Config{Interfaces: []netsim.Interface{{Name: "o", Segment: "out", Up: true, Addrs: pfx("192.168.50.1/24")}}}
	for _, m := range []*netsim.Node{w.inner, w.gate, w.server} {
		m.HandleUDP(53, echo)
		m.HandleTCP(80, func(conn net.Conn, _ netip.AddrPort) { _, _ = io.Copy(conn, conn) })
		t.Cleanup(m.Detach)
	}
	w.apply()
	return w
}

func (w *world) apply() {
	w.inner.Configure(w.innerCfg)
	w.gate.Configure(w.gateCfg)
	w.server.Configure(w.serverConfig)
}

func TestMasqueradingHidesTheInside(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reply, err := w.inner.Exchange(t.Context(), at("192.168.50.1:53"), []byte("hello"))
	require.NoError(t, err)
	assert.Equal(t, "192.168.50.9 hello", string(reply))
	reply, err = w.gate.Exchange(t.Context(), at("192.168.50.1:53"), []byte("hello"))
	require.NoError(t, err)
	assert.Equal(t, "192.168.50.9 hello", string(reply))
	assert.NoError(t, w.inner.Ping(addr("192.168.50.1"), ""))
}

func TestEveryPartOfAPathIsNeeded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fault func(w *world)
		want  error
	}{
		{"own link", func(w *world) { w.innerCfg.Interfaces[0].Up = false }, netsim.ErrNoRoute},
		{"own address", func(w *world) { w.innerCfg.Interfaces[0].Addrs = nil }, netsim.ErrNoRoute},
		{"own route", func(w *world) { w.innerCfg.Routes = nil }, netsim.ErrNoRoute},
		{"VLAN tag", func(w *world) { w.innerCfg.Interfaces[0].VLAN = 11 }, netsim.ErrUnreachable},
		{"untagged", func(w *world) { w.innerCfg.Interfaces[0].VLAN = 0 }, netsim.ErrUnreachable},
		{"trunk port", func(w *world) { w.innerCfg.Interfaces[0].Trunk = false }, netsim.ErrUnreachable},
		{"segment", func(w *world) { w.innerCfg.Interfaces[0].Segment = "other" }, netsim.ErrUnreachable},
		{"gate's link", func(w *world) { w.gateCfg.Interfaces[0].Up = false }, netsim.ErrUnreachable},
		{"gate's other link", func(w *world) { w.gateCfg.Interfaces[1].Up = false }, netsim.ErrNoRoute},
		{"forwarding", func(w *world) { w.gateCfg.Forward4 = false }, netsim.ErrTimeout},
		{"masquerading, as the server has no route back", func(w *world) { w.gateCfg.Masquerade = false }, netsim.ErrTimeout},
		{"server's address", func(w *world) { w.serverConfig.Interfaces[0].Addrs = pfx("192.168.50.2/24") }, netsim.ErrUnreachable},
		{"an address of one's own", func(w *world) {
			w.serverConfig.Interfaces[0].Addrs = append(pfx("192.168.50.1/24"), pfx("192.168.50.9/24")...)
		}, netsim.ErrTimeout},
		{"server's filter", func(w *world) { w.serverConfig.Filter = &netsim.Filter{} }, netsim.ErrUnreachable},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			test.fault(w)
			w.apply()
			_, err := w.inner.Exchange(t.Context(), at("192.168.50.1:53"), []byte("x"))
			assert.ErrorIs(t, err, test.want)
		})
	}
}

func TestTwoMachinesWithOneAddressReachNobody(t *testing.T) {
	t.Parallel()
	n := netsim.New()
	cfg := func(a string) netsim.Config {
		return netsim.Config{Interfaces: []netsim.Interface{{Name: "e", Segment: "lan", Up: true, Addrs: pfx(a)}}}
	}
	a, b, c := n.Attach("a"), n.Attach("b"), n.Attach("c")
	a.Configure(cfg("10.0.0.1/24"))
	b.Configure(cfg("10.0.0.2/24"))
	require.NoError(t, a.Ping(addr("10.0.0.2"), ""))
	c.Configure(cfg("10.0.0.2/24"))
	assert.ErrorIs(t, a.Ping(addr("10.0.0.2"), ""), netsim.ErrUnreachable)
	c.Configure(cfg("10.0.0.1/24"))
	assert.Error(t, a.Ping(addr("10.0.0.2"), ""), "the answer goes to nobody knows whom")
}

func TestFiltersLetAnswersAndLoopbackPass(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.inner.Dial(at("10.10.20.1:80"))
	assert.ErrorIs(t, err, netsim.ErrUnreachable, "the gate's port 80 is closed")
	_, err = w.inner.Exchange(t.Context(), at("10.10.20.1:53"), []byte("x"))
	assert.NoError(t, err)
	for _, own := range []string{"127.0.0.1:80", "10.10.20.1:80"} {
		conn, err := w.gate.Dial(at(own))
		require.NoError(t, err, own)
		conn.Close()
	}
	_, err = w.gate.Dial(at("127.0.0.1:81"))
	assert.ErrorIs(t, err, netsim.ErrRefused)
	_, err = w.gate.Dial(at("10.10.20.2:80"))
	assert.NoError(t, err)
}

func TestDetachBreaksConnectionsAndWaitsForHandlers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn, err := w.inner.Dial(at("192.168.50.1:80"))
	require.NoError(t, err)
	_, err = conn.Write([]byte("ping"))
	require.NoError(t, err)
	b := make([]byte, 4)
	_, err = io.ReadFull(conn, b)
	require.NoError(t, err)
	w.server.Detach()
	_, err = conn.Read(b)
	assert.Error(t, err)
	_, err = w.inner.Dial(at("192.168.50.1:80"))
	assert.ErrorIs(t, err, netsim.ErrUnreachable)
}

func TestDHCPKeepsReservationsAndLeases(t *testing.T) {
	t.Parallel()
	n := netsim.New()
	server := n.Attach("server")
	up := netsim.Config{Interfaces: []netsim.Interface{{Name: "e", Segment: "lan", Up: true, Addrs: pfx("10.0.1.8/20")}}}
	server.Configure(up)
	n.ServeDHCP("lan", &netsim.DHCP{
		Server: server, Reserved: map[string]netip.Addr{"00:50:56:ac:01:01": addr("10.0.2.10")},
		Pool: netip.MustParsePrefix("10.0.8.0/30"), Bits: 20, MTU: 9000,
	})
	lease := func(mac, id string) string {
		l, ok := n.Lease("lan", mac, id)
		if !ok {
			return "none"
		}
		return l.Addr.String()
	}
	assert.Equal(t, "10.0.2.10/20", lease("00:50:56:AC:01:01", "00:50:56:ac:01:01"))
	assert.Equal(t, "10.0.8.0/20", lease("00:00:00:00:00:01", "00:00:00:00:00:01"))
	assert.Equal(t, "10.0.8.1/20", lease("00:50:56:ac:01:01", "duid-1"), "a client that hides its MAC has no reservation")
	assert.Equal(t, "10.0.8.0/20", lease("00:00:00:00:00:01", "00:00:00:00:00:01"))
	assert.Equal(t, "10.0.8.1/20", lease("00:50:56:ac:02:01", "duid-1"), "clones with one id get one address")
	lease("a", "a")
	lease("b", "b")
	assert.Equal(t, "none", lease("c", "c"), "the pool is empty")
	_, ok := n.Lease("elsewhere", "a", "a")
	assert.False(t, ok)
	server.Detach()
	_, ok = n.Lease("lan", "a", "a")
	assert.False(t, ok, "the server is gone")
}

func TestPipeBuffersAndKeepsDeadlines(t *testing.T) {
	t.Parallel()
	a, b := netsim.Pipe(&net.TCPAddr{}, &net.TCPAddr{})
	_, err := a.Write([]byte("both write first"))
	require.NoError(t, err)
	_, err = b.Write([]byte("and nobody blocks"))
	require.NoError(t, err)
	buf := make([]byte, 100)
	n, err := a.Read(buf)
	require.NoError(t, err)
	require.NoError(t, a.SetReadDeadline(time.Now().Add(time.Millisecond)))
	assert.Equal(t, "and nobody blocks", string(buf[:n]))
	_, err = a.Read(buf)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, a.Close())
	data, err := io.ReadAll(b)
	require.NoError(t, err)
	assert.Equal(t, "both write first", string(data), "what was sent before Close arrives")
	_, err = b.Write(make([]byte, 1<<20))
	assert.Error(t, err)
	require.NoError(t, b.Close())
}
