package sshx

import (
	"archive/tar"
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// FuzzQuote sends words through a real /bin/sh, as arguments and as a preamble.
func FuzzQuote(f *testing.F) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		f.Skip("no /bin/sh on this machine")
	}
	for _, s := range []string{"", "a b", "it's", `\`, `\\'`, "$HOME", "`x`", "!x", "\n\n", "-n", "~", "*", "\xff\xfe", "#end", " #end", `"'"`} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsRune(a+b, 0) || len(a)+len(b) > 64<<10 {
			t.Skip()
		}
		want := a + "|" + b + "|"
		for _, script := range []string{
			"printf '%s|' " + Quote(a) + " " + Quote(b),
			wire.Preamble(map[string]string{"A": a}, "", []string{"x", b}) + "\nprintf '%s|' \"$A\" \"$2\"",
		} {
			out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", script).CombinedOutput()
			if err != nil || string(out) != want {
				t.Errorf("sh -c %q: %q, %v; want %q", script, out, err, want)
			}
		}
		direct := wire.Call{Text: wire.Exec, Direct: true, Name: "sshx", Args: []string{b, a}}
		if got, ok := wire.Parse(direct.Command()); !ok || !slices.Equal(got.Args, direct.Args) {
			t.Errorf("%q: parsed as %+v, %t", direct.Command(), got, ok)
		}
		call := wire.Call{Text: wire.Run, Lead: true, User: a, Name: "sshx", Args: []string{b, a}}
		if got, ok := wire.Parse(call.Command()); !ok && a != "" || ok && (got.User != a || got.Args[0] != b || got.Args[1] != a) {
			t.Errorf("Parse(Command()) of %q, %q is %+v, %v", a, b, got, ok)
		}
	})
}

// FuzzUnpack gives foreign names and links, and foreign bytes, to the side that unpacks.
func FuzzUnpack(f *testing.F) {
	f.Add("a/b", "c", byte(tar.TypeReg), []byte(nil))
	f.Add("../x", "/etc/passwd", byte(tar.TypeSymlink), []byte("x"))
	f.Add("l", "..", byte(tar.TypeSymlink), []byte("garbage"))
	f.Add("l/../../x", "secret", byte(tar.TypeLink), []byte(nil))
	f.Fuzz(func(t *testing.T, name, to string, kind byte, raw []byte) {
		top := t.TempDir()
		dst := filepath.Join(top, "dst")
		if err := os.Mkdir(dst, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dst)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		for _, h := range []*tar.Header{
			{Name: name, Linkname: to, Typeflag: kind, Mode: 0o755},
			{Name: to, Linkname: name, Typeflag: tar.TypeSymlink, Mode: 0o755},
			{Name: name + "/evil", Typeflag: tar.TypeReg, Mode: 0o644},
		} {
			_ = tw.WriteHeader(h)
		}
		_ = tw.Flush()
		buf.Write(raw)
		_ = untar(root, &buf)
		left, err := os.ReadDir(top)
		if err != nil || len(left) != 1 {
			t.Fatalf("beside dst there is %v, %v", left, err)
		}
		noWayOut(t, dst)
	})
}

// FuzzServerText lets a server say anything before the key exchange: version, banner lines, or
// noise; the handshake must end, and errors must be fit for one line of a log.
func FuzzServerText(f *testing.F) {
	f.Add([]byte("SSH-2.0-OpenSSH_9.2p1\r\n"))
	f.Add([]byte("hello\r\nSSH-1.5-old\n"))
	f.Add([]byte("SSH-2.0-\x1b[2J\x00\r\n\x00\x00\x00\x0c"))
	f.Add([]byte("220 mail.example.com ESMTP\r\n"))
	bye := ssh.Marshal(struct {
		Reason        uint32 `sshtype:"1"`
		Message, Lang string
	}{2, "go\n\x1b[2Jaway", ""})
	packet := slices.Concat([]byte{0, 0, 0, byte(1 + len(bye) + 8), 8}, bye, make([]byte, 8))
	f.Add(append([]byte("SSH-2.0-x\r\n"), packet...))
	f.Fuzz(func(t *testing.T, text []byte) {
		if s := clean(string(text)); !utf8.ValidString(s) || len(s) > 510 || strings.ContainsFunc(s, unicode.IsControl) {
			t.Errorf("clean(%q) is %q", text, s)
		}
		server, client := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer server.Close()
			go func() { _, _ = io.Copy(io.Discard, server) }()
			_, _ = server.Write(text)
		}()
		cfg := Config{Name: "m", Address: "h", Keys: []ssh.Signer{fuzzKey}, HostKeys: HostKeys{InsecureIgnore: true}, Timeout: 5 * time.Second}.filled()
		if c, err := handshake(t.Context(), cfg, client); err == nil {
			c.Close()
			t.Error("logged in")
		} else if strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("the error is %q", err)
		}
		<-done
	})
}

var fuzzKey = func() ssh.Signer {
	k, err := ParseKey([]byte(fuzzPEM), "")
	if err != nil {
		panic(err)
	}
	return k
}()

// fuzzPEM is a key that opens nothing.
const fuzzPEM = `-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACCC5fvuSLy/bFMoHRfuNGGbXuCmZgQv60m8EtiQC34XtAAAAIgqOzTOKjs0
zgAAAAtzc2gtZWQyNTUxOQAAACCC5fvuSLy/bFMoHRfuNGGbXuCmZgQv60m8EtiQC34XtA
AAAEBX7FL+QtMCPX44+tM59q9JHROwVjYrTNkGYNFnHsgvgoLl++5IvL9sUygdF+40YZte
4KZmBC/rSbwS2JALfhe0AAAAAAECAwQF
-----END OPENSSH PRIVATE KEY-----
`

// FuzzPoll reads what a machine says of a job.
func FuzzPoll(f *testing.F) {
	f.Add([]byte("run - 5\nhello"))
	f.Add([]byte("noise\ndone 0 99999999999999999999\n"))
	f.Add([]byte("done 999999999999999999999 1\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		p, ok := parseReport(out)
		if ok && (p.size < 0 || len(p.log) > len(out) || p.state == "") {
			t.Errorf("parseReport(%q) is %+v", out, p)
		}
	})
}
