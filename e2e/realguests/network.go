package realguests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"

	"github.com/poolready/poolready/e2e"
)

// mirrorName is where images expect their packages, on the internet.
const mirrorName, mirrorAddr = "deb.example.net", "203.0.113.10"

// A wire is a namespace with a bridge for each port group. Tagged frames pass as they are.
type wire struct {
	*namespace
	bridges map[string]*netlink.Bridge // by port group
	sites   []*site

	mu     sync.Mutex
	serial int
}

// newWire makes the port groups of a topology, and what is on them beside guests: on the lab's a
// gateway, DHCP, names and time; on the external one the same for the internet; nothing on the
// private one. Packages are served from the directory repo.
func newWire(ctx context.Context, t e2e.Topology, dir, repo string) (_ *wire, err error) {
	w := &wire{bridges: map[string]*netlink.Bridge{}}
	if w.namespace, err = newNamespace(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if err := w.sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return nil, err
	}
	snooping := false
	for i, name := range []string{t.LabNetwork, t.PrivateNetwork, t.ExternalNetwork} {
		b := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
		b.Name, b.MTU = fmt.Sprintf("group%d", i), 9000
		if err := errors.Join(w.LinkAdd(b), w.LinkSetUp(b)); err != nil {
			return nil, fmt.Errorf("make port group %q: %w", name, err)
		}
		w.bridges[name] = b
	}

	internet := []string{
		t.OutsideAddr.String() + "/32", t.OutsideAddr6.String() + "/128",
		"8.8.8.8/32", mirrorAddr + "/32",
	}
	names := []string{
		"--address=/" + t.OutsideName + "/" + t.OutsideAddr.String(),
		"--address=/" + t.OutsideName + "/" + t.OutsideAddr6.String(),
		"--address=/" + mirrorName + "/" + mirrorAddr,
		"--address=/#/", // no other name exists
	}
	bits := t.LabPrefix.Bits()
	lab := []string{
		fmt.Sprintf("--dhcp-range=10.0.8.10,10.0.11.250,%s,1h", net.IP(net.CIDRMask(bits, 32))),
		"--dhcp-option=option:router,10.0.1.1",
		"--dhcp-option=option:dns-server," + t.NameServer.String(),
		"--dhcp-option=option:mtu,9000",
	}
	for mac, addr := range t.Reservations() {
		lab = append(lab, "--dhcp-host="+mac+","+addr.String())
	}
	// The lab has a gateway that leads out, too: a guest that takes it has the internet.
	addrs := []string{
		fmt.Sprintf("%s/%d", t.NameServer, bits),
		fmt.Sprintf("10.0.1.1/%d", bits),
		fmt.Sprintf("%s/%d", harness, bits),
	}
	if t.NTPServer != t.NameServer {
		addrs = append(addrs, fmt.Sprintf("%s/%d", t.NTPServer, bits))
	}
	err = w.newSite(ctx, t.LabNetwork, dir, repo, addrs, internet, append(lab, names...))
	if err != nil {
		return nil, err
	}
	return w, w.newSite(
		ctx,
		t.ExternalNetwork,
		dir,
		repo,
		[]string{"192.168.50.1/24", "2001:db8:50::1/64"},
		internet,
		append([]string{
			"--dhcp-range=192.168.50.130,192.168.50.250,1h",
			"--enable-ra", "--ra-param=" + siteIF + ",5,1800", "--dhcp-range=2001:db8:50::,ra-only,64",
		}, names...),
	)
}

func (w *wire) close() {
	for _, s := range w.sites {
		s.close()
	}
	w.namespace.close()
}

// plug puts one end of a new cable into a port group and the other, as the interface name, into a
// namespace. It returns the end in the port group.
func (w *wire) plug(
	group string,
	into *namespace,
	name string,
	mac net.HardwareAddr,
) (netlink.Link, error) {
	b := w.bridges[group]
	if b == nil {
		return nil, fmt.Errorf("no port group %q", group)
	}
	w.mu.Lock()
	w.serial++
	v := &netlink.Veth{
		LinkAttrs:        netlink.NewLinkAttrs(),
		PeerName:         name,
		PeerHardwareAddr: mac,
		PeerMTU:          1500,
		PeerNamespace:    netlink.NsFd(into.fd),
	}
	v.Name, v.MTU, v.MasterIndex = fmt.Sprintf("port%d", w.serial), 9000, b.Index
	w.mu.Unlock()
	if err := w.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("plug %s into port group %q: %w", name, group, err)
	}
	return v, w.connect(v, true)
}

// connect plugs the cable in, or pulls it.
func (w *wire) connect(port netlink.Link, on bool) error {
	if on {
		return w.LinkSetUp(port)
	}
	return w.LinkSetDown(port)
}

// unplug removes a cable, and the interface at its other end with it.
func (w *wire) unplug(port netlink.Link) error {
	if err := w.LinkDel(port); err != nil {
		return fmt.Errorf("unplug %s: %w", port.Attrs().Name, err)
	}
	return nil
}

// harness is the address in the lab of the machine that runs the tests.
var harness = netip.MustParseAddr("10.0.1.5")

const siteIF = "site0"

// A site is a namespace that stands for all that is reached on a port group and is no guest.
type site struct {
	*namespace
	dnsmasq *exec.Cmd
	closers []func() error
	served  sync.WaitGroup
}

func (w *wire) newSite(
	ctx context.Context,
	group, dir, repo string,
	addrs, internet, dnsmasq []string,
) error {
	n, err := newNamespace()
	if err != nil {
		return err
	}
	s := &site{namespace: n}
	w.sites = append(w.sites, s)
	if _, err := w.plug(group, n, siteIF, nil); err != nil {
		return err
	}
	errs := []error{
		s.sysctl(
			"ipv4/conf/all/arp_ignore",
			"1",
		), // the internet is behind a router, not on the wire
		s.up(siteIF),
	}
	for _, a := range addrs {
		errs = append(errs, s.address(siteIF, a))
	}
	for _, a := range internet {
		errs = append(errs, s.address("lo", a))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := s.serve(ctx, append(addrs, internet...), repo); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "dnsmasq-"+strings.ReplaceAll(group, " ", "-")+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	// dnsmasq changes its capabilities, on which the kernel forgets that it is to die with its
	// parent: that is a shell with a PID namespace.
	s.dnsmasq = exec.CommandContext(ctx, "/bin/sh", append([]string{
		"-c", `"$@" & wait`, "sh",
		"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
		"--pid-file=" + log.Name() + ".pid", "--log-facility=-",
		"--no-resolv", "--no-hosts", "--no-ping",
		"--dhcp-authoritative", "--leasefile-ro",
	}, dnsmasq...)...)
	s.dnsmasq.Stdout, s.dnsmasq.Stderr = log, log
	if err := s.start(s.dnsmasq, syscall.CLONE_NEWPID); err != nil {
		s.dnsmasq = nil
		return fmt.Errorf("start dnsmasq: %w", err)
	}
	return nil
}

func (s *site) close() {
	for _, f := range s.closers {
		_ = f()
	}
	s.served.Wait()
	if s.dnsmasq != nil {
		_ = s.dnsmasq.Process.Kill()
		_ = s.dnsmasq.Wait()
	}
	s.namespace.close()
}

// serve answers on all addresses with pages and the time. All that does not exist is the repository
// of packages.
func (s *site) serve(ctx context.Context, addrs []string, repo string) error {
	packages := http.FileServer(http.Dir(repo))
	pages := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == mirrorName {
			packages.ServeHTTP(w, r)
			return
		}
		fmt.Fprintln(w, "a page")
	})}
	s.closers = append(s.closers, pages.Close)
	cert, err := selfSigned()
	if err != nil {
		return err
	}
	return s.do(func() error {
		var l net.ListenConfig
		plain, err := l.Listen(ctx, "tcp", ":80")
		if err != nil {
			return err
		}
		secure, err := l.Listen(ctx, "tcp", ":443")
		if err != nil {
			plain.Close()
			return err
		}
		s.served.Go(func() { _ = pages.Serve(plain) })
		s.served.Go(func() { _ = pages.Serve(tlsListener(secure, cert)) })
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a)
			if err != nil {
				return err
			}
			// One socket per address: the answer has to come from the address that was asked.
			c, err := l.ListenPacket(ctx, "udp", netip.AddrPortFrom(p.Addr(), 123).String())
			if err != nil {
				return err
			}
			s.closers = append(s.closers, c.Close)
			s.served.Go(func() { serveTime(c) })
		}
		return nil
	})
}
