package lab

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/e2e/internal/netsim"
	"github.com/poolready/poolready/sshx/sshtest"
)

// ping knows: [-4|-6] [-c N] [-W SECONDS] [-I DEV] [-q] HOST. It does not wait.
func (g *Guest) ping(ctx context.Context, p *sshtest.Proc) int {
	args, dev, host, six := p.Args[1:], "", "", false
	count := 0
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "-4", a == "-q":
		case a == "-6":
			six = true
		case (a == "-c" || a == "-W" || a == "-I") && len(args) > 0:
			if a == "-I" {
				dev = args[0]
			} else if n, err := strconv.Atoi(args[0]); err != nil || n < 1 {
				return p.Fail(2, "invalid argument: '%s'", args[0])
			} else if a == "-c" {
				count = n
			}
			args = args[1:]
		case strings.HasPrefix(a, "-"), host != "":
			return p.NotSimulated(a)
		default:
			host = a
		}
	}
	if host == "" || count == 0 {
		return p.NotSimulated("without -c or host")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		six = a.Is6()
	}
	list, err := g.lookup(ctx, host, six)
	if err != nil {
		return p.Fail(2, "%s: %v", host, err)
	}
	err = g.node.Ping(list[0], dev)
	if errors.Is(err, netsim.ErrNoRoute) {
		return p.Fail(2, "connect: Network is unreachable")
	}
	received, loss, code := count, 0, 0
	if err != nil {
		received, loss, code = 0, 100, 1
	}
	fmt.Fprintf(p.Stdout, "PING %s (%s) 56(84) bytes of data.\n\n--- %s ping statistics ---\n%d packets transmitted, %d received, %d%% packet loss, time 0ms\n",
		host, list[0], host, count, received, loss)
	return code
}

// curl knows: [-s] [-S] [-f] [-k] [-4|-6] [-o FILE] [--noproxy LIST] [--connect-timeout S] [-m S]
// URL, short options in one word, too. It minds the proxy variables as curl does.
func (g *Guest) curl(ctx context.Context, p *sshtest.Proc) int {
	args, target, out, noproxy := p.Args[1:], "", "", p.Env["no_proxy"]
	var insecure, fail, six bool
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case slices.Contains([]string{"--noproxy", "--connect-timeout", "-m", "--max-time"}, a) && len(args) > 0:
			if a == "--noproxy" {
				noproxy = args[0]
			}
			args = args[1:]
		case strings.HasPrefix(a, "--"), a == "-":
			return p.NotSimulated(a)
		case strings.HasPrefix(a, "-"):
			for i, c := range a[1:] {
				switch c {
				case 's', 'S', '4':
				case 'f':
					fail = true
				case 'k':
					insecure = true
				case '6':
					six = true
				case 'o':
					if i != len(a)-2 || len(args) == 0 {
						return p.NotSimulated(a)
					}
					out, args = args[0], args[1:]
				default:
					return p.NotSimulated(a)
				}
			}
		case target == "":
			target = a
		default:
			return p.NotSimulated(a)
		}
	}
	if target == "" {
		return p.NotSimulated("no URL")
	}
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return p.Fail(1, "(1) Protocol not supported: %s", target)
	}
	body, code, err := g.fetch(ctx, u, proxyFor(p, u, noproxy), insecure, fail, six)
	if err != nil { // said without -S too
		return p.Fail(code, "(%d) %v", code, err)
	}
	if out == "" {
		_, _ = p.Stdout.Write(body)
	} else if err := p.WriteFile(out, body, 0o644); err != nil && out != "/dev/null" {
		return p.Fail(23, "(23) %v", err)
	}
	return 0
}

func proxyFor(p *sshtest.Proc, u *url.URL, noproxy string) string {
	if noproxy == "*" {
		return ""
	}
	for _, no := range strings.Split(noproxy, ",") {
		if no != "" && (u.Hostname() == no || strings.HasSuffix(u.Hostname(), no)) {
			return ""
		}
	}
	for _, name := range []string{u.Scheme + "_proxy", strings.ToUpper(u.Scheme) + "_PROXY", "all_proxy", "ALL_PROXY"} {
		if v := p.Env[name]; v != "" && name != "HTTP_PROXY" { // curl ignores that one
			return v
		}
	}
	return ""
}

// fetch gets a page and returns curl's exit code with an error.
func (g *Guest) fetch(ctx context.Context, u *url.URL, proxy string, insecure, fail, six bool) (body []byte, code int, err error) {
	to, port := u, map[string]string{"http": "80", "https": "443"}[u.Scheme]
	if proxy != "" {
		if to, err = url.Parse(proxy); err != nil {
			return nil, 5, fmt.Errorf("Unsupported proxy %s", proxy)
		}
		port = "3128"
	}
	if p := to.Port(); p != "" {
		port = p
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, 3, fmt.Errorf("URL using bad/illegal format: %s", u)
	}
	if a, err := netip.ParseAddr(to.Hostname()); err == nil {
		six = a.Is6()
	}
	conn, err := g.dial(ctx, to.Hostname(), uint16(n), six)
	if le, ok := errors.AsType[*lookupError](err); ok {
		return nil, 6, fmt.Errorf("Could not resolve host: %s", le.host)
	}
	if err != nil {
		code = 7
		if errors.Is(err, netsim.ErrTimeout) {
			code = 28
		}
		return nil, code, fmt.Errorf("Failed to connect to %s port %s: %w", to.Hostname(), port, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var rw net.Conn = conn
	if u.Scheme == "https" && proxy == "" {
		if !insecure {
			return nil, 60, errors.New("SSL certificate problem: unable to get local issuer certificate")
		}
		t := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, 35, err
		}
		rw = t
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 3, err
	}
	req.Close = true
	if err := req.Write(rw); err != nil {
		return nil, 55, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(rw), req)
	if err != nil {
		return nil, 52, errors.New("Empty reply from server")
	}
	defer resp.Body.Close()
	if fail && resp.StatusCode >= http.StatusBadRequest {
		return nil, 22, fmt.Errorf("The requested URL returned error: %d", resp.StatusCode)
	}
	body, err = io.ReadAll(resp.Body)
	return body, 56, err
}

// ss knows -l and -n, with -t or -u, -H, and "sport = :PORT"; and -tulpn, though without the processes.
func (g *Guest) ss(_ context.Context, p *sshtest.Proc) int {
	args := p.Args[1:]
	if slices.Equal(args, []string{"-tulpn"}) {
		fmt.Fprintln(p.Stdout, "Netid State  Recv-Q Send-Q Local Address:Port Peer Address:Port Process")
		for _, proto := range []string{"udp", "tcp"} {
			ports := g.node.Listening(proto)
			slices.Sort(ports)
			for _, port := range ports {
				state := map[string]string{"udp": "UNCONN", "tcp": "LISTEN"}[proto]
				fmt.Fprintf(p.Stdout, "%-5s %-6s 0      128          0.0.0.0:%d        0.0.0.0:*\n", proto, state, port)
			}
		}
		return 0
	}
	letters := ""
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && !strings.HasPrefix(args[0], "--") {
		letters, args = letters+args[0][1:], args[1:]
	}
	has := func(c string) bool { return strings.Contains(letters, c) }
	if strings.Trim(letters, "Hltun") != "" || !has("l") || !has("n") || has("t") == has("u") || len(args) > 1 {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	proto, state := "tcp", "LISTEN"
	if has("u") {
		proto, state = "udp", "UNCONN"
	}
	only := ""
	if len(args) == 1 {
		var ok bool
		if only, ok = strings.CutPrefix(args[0], "sport = :"); !ok {
			return p.NotSimulated(args[0])
		}
	}
	if !has("H") {
		fmt.Fprintln(p.Stdout, "State  Recv-Q Send-Q Local Address:Port Peer Address:PortProcess")
	}
	ports := g.node.Listening(proto)
	slices.Sort(ports)
	for _, port := range ports {
		at := netip.IPv4Unspecified()
		if proto == "tcp" && g.node.ListenAddr(port).IsValid() {
			at = g.node.ListenAddr(port)
		}
		if only == "" || only == strconv.Itoa(int(port)) {
			fmt.Fprintf(p.Stdout, "%s 0      128    %15s:%d        0.0.0.0:*\n", state, at, port)
		}
	}
	return 0
}
