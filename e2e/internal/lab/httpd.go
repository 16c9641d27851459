package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest"
)

// python3 knows: -m http.server PORT [--directory DIR]. That serves files, with the rights of who
// started it, until it is killed.
func (g *Guest) python3(ctx context.Context, p *sshtest.Proc) int {
	args, dir := p.Args[1:], "."
	if len(args) == 5 && args[3] == "--directory" {
		args, dir = args[:3], args[4]
	}
	if len(args) != 3 || args[0] != "-m" || args[1] != "http.server" {
		return p.NotSimulated(strings.Join(p.Args[1:], " "))
	}
	n, err := strconv.ParseUint(args[2], 10, 16)
	switch port := uint16(n); {
	case err != nil || port == 0:
		return p.NotSimulated(args[2])
	case port < 1024 && p.User != "root":
		return p.Fail(1, "PermissionError: [Errno 13] Permission denied")
	case slices.Contains(g.node.Listening("tcp"), port):
		return p.Fail(1, "OSError: [Errno 98] Address already in use")
	default:
		g.node.HandleTCP(port, func(conn net.Conn, _ netip.AddrPort) { serveFile(p, dir, conn) })
		fmt.Fprintf(p.Stdout, "Serving HTTP on 0.0.0.0 port %d (http://0.0.0.0:%d/) ...\n", port, port)
		<-ctx.Done()
		g.node.HandleTCP(port, nil)
		return 1
	}
}

// serveFile answers one request, as HTTP/1.0 does, and says so on p's stderr.
func serveFile(p *sshtest.Proc, dir string, conn net.Conn) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	data, err := p.ReadFile(path.Join(p.Path(dir), path.Clean("/"+req.URL.Path)))
	code := http.StatusOK
	switch {
	case req.Method != http.MethodGet:
		code, data = http.StatusNotImplemented, []byte("Unsupported method\n")
	case err != nil:
		code, data = http.StatusNotFound, []byte("File not found\n") // listings of directories are not simulated
	}
	res := http.Response{
		StatusCode: code, ProtoMajor: 1, Close: true, Header: http.Header{"Server": {"SimpleHTTP/0.6 Python/3.9.18"}},
		ContentLength: int64(len(data)), Body: io.NopCloser(bytes.NewReader(data)), Request: req,
	}
	if res.Write(conn) == nil {
		fmt.Fprintf(p.Stderr, "%q %d -\n", req.Method+" "+req.URL.Path, code)
	}
}
