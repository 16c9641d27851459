package sshtest

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// StartSSHD starts sshd, or starts it again: it reads sshd_config and the host keys anew, for
// connections that come from now on. If they are wrong sshd does not run and the error says why,
// as sshd -t would. Boot does this; simulations of systemctl do for start, restart and reload.
func (h *Host) StartSSHD() error {
	d, err := readDaemon(h.disk)
	h.refused(err, "")
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up == nil {
		return errHalted
	}
	h.up.sshd, h.up.sshdErr = d, err
	return err
}

// StopSSHD lets no new connection in. Those that are there stay, as under systemd.
func (h *Host) StopSSHD() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up != nil {
		h.up.sshd, h.up.sshdErr = nil, errors.New("sshd is stopped")
	}
}

// SSHDRunning reports whether there is somebody to connect to; a network refuses if not.
func (h *Host) SSHDRunning() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.up != nil && h.up.sshd != nil
}

// DropConnections ends all SSH connections at once, with no word of what becomes of the commands
// on them, which run on.
func (h *Host) DropConnections() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.up != nil {
		for c := range h.up.conns {
			_ = c.Conn.Close()
		}
	}
}

// A guestConn is sshd's end of one connection.
type guestConn struct {
	net.Conn
	b       *boot
	d       *daemon
	started time.Time
	heard   atomic.Int64 // nanoseconds from started to the last read
	who     *loginUser
	forced  string // command="..." of the key that let the user in

	mu       sync.Mutex
	sessions int // open ones
	ending   int // closed ones whose slot is not free yet
}

// Read waits while Faults.Frozen, and notes when something came.
func (c *guestConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.b.thaw()
	if n > 0 {
		c.heard.Store(int64(time.Since(c.started)))
	}
	return n, err
}

func (c *guestConn) Write(b []byte) (int, error) {
	c.b.thaw()
	return c.Conn.Write(b)
}

// thaw returns when the machine is not frozen, or its power is cut.
func (b *boot) thaw() {
	b.h.mu.Lock()
	defer b.h.mu.Unlock()
	for b.h.faults.Frozen && b.h.up == b {
		b.h.cond.Wait()
	}
}

// ServeConn is sshd on one TCP connection, which it closes. It returns when the connection has
// ended: the client hangs up, somebody closes conn, or Halt does. If the machine is off, or sshd
// does not run, that is at once; a network model asks SSHDRunning first, and refuses.
func (h *Host) ServeConn(conn net.Conn) {
	defer conn.Close()
	c, why := h.admit(conn)
	if c == nil {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // there is room for a line
		_, _ = io.WriteString(conn, why)
		return
	}
	b := c.b
	anonymous := true
	defer func() {
		h.mu.Lock()
		if anonymous {
			b.waiting--
			h.failed++
		}
		delete(b.conns, c)
		b.running--
		h.cond.Broadcast()
		h.mu.Unlock()
	}()
	f := h.Faults()
	if f.Silent {
		<-c.gone(b.ctx)
		return
	}
	if !sleep(b.ctx, f.SlowKeyExchange) {
		return
	}
	sc, chans, reqs, err := c.handshake()
	if err != nil {
		return
	}
	h.mu.Lock()
	b.waiting--
	anonymous = false
	h.mu.Unlock()
	c.serve(sc, chans, reqs)
}

// admit takes a connection in, or returns nil and, if MaxStartups or a fault turns it away, what
// sshd says to that.
func (h *Host) admit(conn net.Conn) (c *guestConn, why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.up
	if b == nil || b.sshd == nil {
		return nil, ""
	}
	if h.faults.DropAfter > 0 && h.failed >= h.faults.DropAfter {
		return nil, "Not allowed at this time\r\n"
	}
	// Beyond start, sshd drops rate percent by chance, rising to all at full. Here every
	// so-manieth.
	n, _ := parseStartups(b.sshd.get("maxstartups", nil))
	if start, rate, full := n[0], n[1], n[2]; b.waiting >= full {
		return nil, "Exceeded MaxStartups\r\n"
	} else if b.waiting >= start && full > start {
		b.dropped += (float64(rate) + float64(100-rate)*float64(b.waiting-start)/float64(full-start)) / 100
		if b.dropped >= 1 {
			b.dropped--
			return nil, "Exceeded MaxStartups\r\n"
		}
	}
	c = &guestConn{Conn: conn, b: b, d: b.sshd, started: time.Now()}
	b.conns[c] = true
	b.running++
	b.waiting++
	return c, ""
}

// gone returns a channel that is closed when the peer hangs up, or ctx ends. It reads what comes.
func (c *guestConn) gone(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = c.Conn.Close() })
	go func() {
		defer close(done)
		defer stop()
		buf := make([]byte, 1024)
		for {
			if _, err := c.Conn.Read(buf); err != nil {
				return
			}
		}
	}()
	return done
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// handshake exchanges keys and lets the user in, or not.
func (c *guestConn) handshake() (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	var pre ssh.ServerPreAuthConn
	cfg := &ssh.ServerConfig{
		ServerVersion:       "SSH-2.0-" + cmp.Or(c.b.h.Version, "OpenSSH_8.7"),
		MaxAuthTries:        cmp.Or(c.d.number("maxauthtries", nil), 6),
		PreAuthConnCallback: func(p ssh.ServerPreAuthConn) { pre = p },
		BannerCallback: func(ssh.ConnMetadata) string {
			if file := c.d.get("banner", nil); file != "none" {
				data, _ := c.b.h.disk.ReadFile(file)
				return string(data)
			}
			return ""
		},
		PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) { return c.accepts(m.User(), key) },
		VerifiedPublicKeyCallback: func(m ssh.ConnMetadata, _ ssh.PublicKey, perms *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			return perms, c.account(pre, m.User())
		},
	}
	for _, k := range c.d.keys {
		cfg.AddHostKey(k)
	}
	if grace := c.d.time("logingracetime"); grace > 0 {
		defer time.AfterFunc(grace, func() { _ = c.Conn.Close() }).Stop()
	}
	sc, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err == nil {
		c.who = c.lookup(sc.User())
		c.forced = sc.Permissions.CriticalOptions["force-command"]
		if f := c.d.get("forcecommand", c.who); f != "none" {
			c.forced = f
		}
	}
	return sc, chans, reqs, err
}

// account is PAM's last word, after the key has proved right: pam_nologin.
func (c *guestConn) account(pre ssh.ServerPreAuthConn, user string) error {
	f := c.b.h.Faults()
	text, closed := f.Booting, f.Booting != ""
	for _, file := range []string{"/var/run/nologin", "/etc/nologin"} {
		if data, err := c.b.h.disk.ReadFile(file); err == nil && c.d.is("usepam", c.lookup(user)) {
			text, closed = cmp.Or(text, string(data)), true
		}
	}
	if !closed {
		return nil
	}
	if pre != nil && text != "" {
		_ = pre.SendAuthBanner(text)
	}
	if user == "root" && f.Booting == "" {
		return nil
	}
	_ = c.Conn.Close()
	return errors.New("access denied by PAM account configuration")
}

func (c *guestConn) lookup(user string) *loginUser {
	acc := c.b.h.disk.accounts()
	u, ok := acc.user(user)
	if !ok {
		return nil
	}
	who := &loginUser{account: u}
	for _, g := range acc.gids(u) {
		who.groups = append(who.groups, acc.groupName(g))
	}
	return who
}

var errRefused = errors.New("key refused")

// accepts decides on a public key, as sshd does from the user's authorized_keys.
func (c *guestConn) accepts(user string, key ssh.PublicKey) (*ssh.Permissions, error) {
	who := c.lookup(user)
	f := c.b.h.Faults()
	if who == nil || f.RefuseAuth || time.Now().Before(f.RefuseAuthUntil) || !c.d.is("pubkeyauthentication", who) || !c.d.allowed(who) {
		return nil, errRefused
	}
	root := c.d.get("permitrootlogin", who)
	if who.uid == 0 && root == "no" {
		return nil, errRefused
	}
	for file := range strings.FieldsSeq(c.d.get("authorizedkeysfile", who)) {
		file = strings.NewReplacer("%h", who.home, "%u", who.name, "%%", "%").Replace(file)
		if !path.IsAbs(file) {
			file = path.Join(who.home, file)
		}
		if c.d.is("strictmodes", who) && !c.b.h.disk.trusted(file, who.account) {
			continue
		}
		data, err := c.b.h.disk.ReadFile(file)
		if err != nil {
			continue
		}
		forced, ok, err := findKey(data, key)
		c.b.h.refused(err, "")
		if ok {
			if who.uid == 0 && root == "forced-commands-only" && forced == "" {
				return nil, errRefused
			}
			return &ssh.Permissions{CriticalOptions: map[string]string{"force-command": forced}}, nil
		}
	}
	return nil, errRefused
}

// findKey looks for key in an authorized_keys file, and returns its forced command. A line with
// options that are not simulated lets nobody in, and is the error.
func findKey(data []byte, key ssh.PublicKey) (forced string, ok bool, refusal error) {
lines:
	for line := range strings.Lines(string(data)) {
		k, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil || k.Type() != key.Type() || string(k.Marshal()) != string(key.Marshal()) {
			continue
		}
		forced = ""
		for _, o := range options {
			name, value, _ := strings.Cut(o, "=")
			switch name = strings.ToLower(name); {
			case name == "command":
				if s, err := strconv.Unquote(value); err == nil {
					value = s
				}
				forced = value
			case name == "restrict" || strings.HasPrefix(name, "no-"):
			default:
				refusal = &Refusal{Command: "sshd", What: "authorized_keys option " + name}
				continue lines
			}
		}
		return forced, true, nil
	}
	return "", false, refusal
}

// trusted is StrictModes: a file and the directories up to the user's home belong to the user or
// root, and nobody else may write to them.
func (d *Disk) trusted(file string, u account) bool {
	real, err := d.root().realpath(file, true)
	if err != nil {
		return false
	}
	home, err := d.root().realpath(u.home, true)
	if err != nil {
		home = "/"
	}
	if i, err := d.root().stat(real); err != nil || !i.mode.IsRegular() {
		return false
	}
	for p := real; ; p = path.Dir(p) {
		i, err := d.root().stat(p)
		if err != nil || i.mode&0o022 != 0 || !slices.Contains([]int{0, u.uid}, i.uid) {
			return false
		}
		if p == home || p == "/" {
			return true
		}
	}
}
