package sshd

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

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// A Daemon is sshd on a machine.
type Daemon struct {
	h      *machine.Host
	up     atomic.Pointer[listening] // nil while it does not run
	failed atomic.Bool               // to start

	mu        sync.Mutex
	conns     map[*guestConn]bool
	waiting   int     // connections not logged in yet
	anonymous int     // connections that ended without login, for Faults.DropAfter
	dropped   float64 // see MaxStartups
}

// New returns the sshd of a machine, which does not run.
func New(h *machine.Host) *Daemon { return &Daemon{h: h, conns: map[*guestConn]bool{}} }

// listening is a daemon that was started: in which boot, and as what it was configured.
type listening struct {
	b *machine.Boot
	c *Config
}

// Start starts it, or starts it again, with the configuration that is on the disk now. If that is
// wrong it does not run, and the error says why.
func (d *Daemon) Start() error {
	c, err := ReadConfig(d.h.Disk)
	d.h.Refused(err, "")
	b := d.h.Booted()
	switch {
	case b == nil:
		return machine.ErrHalted
	case err != nil:
		d.Stop()
		d.failed.Store(true)
		return err
	}
	d.failed.Store(false)
	d.up.Store(&listening{b, c})
	return nil
}

// Stop lets no new connection in.
func (d *Daemon) Stop() {
	d.failed.Store(false)
	d.up.Store(nil)
}

// Failed reports whether the last Start found it wrongly configured.
func (d *Daemon) Failed() bool { return d.failed.Load() }

// RunsIn reports whether it runs in a boot.
func (d *Daemon) RunsIn(b *machine.Boot) bool {
	l := d.up.Load()
	return l != nil && l.b == b
}

// Running reports whether there is somebody to connect to.
func (d *Daemon) Running() bool {
	b := d.h.Booted()
	return b != nil && d.RunsIn(b)
}

// Forget starts counting failed logins from 0.
func (d *Daemon) Forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.anonymous = 0
}

// Drop ends all connections.
func (d *Daemon) Drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.conns {
		_ = c.Conn.Close()
	}
}

// A guestConn is sshd's end of one connection.
type guestConn struct {
	net.Conn
	b       *machine.Boot
	d       *Config
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
	c.b.Thaw()
	if n > 0 {
		c.heard.Store(int64(time.Since(c.started)))
	}
	return n, err
}

func (c *guestConn) Write(b []byte) (int, error) {
	c.b.Thaw()
	return c.Conn.Write(b)
}

// Serve is one TCP connection, which it closes. It returns when the connection has ended.
func (d *Daemon) Serve(conn net.Conn) {
	defer conn.Close()
	c, why := d.admit(conn)
	if c == nil {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second)) // there is room for a line
		_, _ = io.WriteString(conn, why)
		return
	}
	b := c.b
	defer b.Leave()
	defer context.AfterFunc(b.Ctx, func() { _ = conn.Close() })()
	anonymous := true
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if anonymous {
			d.waiting--
			d.anonymous++
		}
		delete(d.conns, c)
	}()
	f := d.h.Faults()
	if f.Silent {
		<-c.gone(b.Ctx)
		return
	}
	if !machine.Sleep(b.Ctx, f.SlowKeyExchange) {
		return
	}
	sc, chans, reqs, err := c.handshake()
	if err != nil {
		return
	}
	d.mu.Lock()
	d.waiting--
	anonymous = false
	d.mu.Unlock()
	c.serve(sc, chans, reqs)
}

// admit takes a connection in, or returns nil and, if MaxStartups or a fault turns it away, what
// sshd says to that.
func (d *Daemon) admit(conn net.Conn) (c *guestConn, why string) {
	b, l, f := d.h.Booted(), d.up.Load(), d.h.Faults()
	if b == nil || l == nil || l.b != b {
		return nil, ""
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.DropAfter > 0 && d.anonymous >= f.DropAfter {
		return nil, "Not allowed at this time\r\n"
	}
	// Beyond start, sshd drops rate percent by chance, rising to all at full; here in
	// turns, at the same rate.
	n, _ := parseStartups(l.c.get("maxstartups", nil))
	if start, rate, full := n[0], n[1], n[2]; d.waiting >= full {
		return nil, "Exceeded MaxStartups\r\n"
	} else if d.waiting >= start && full > start {
		d.dropped += (float64(rate) + float64(100-rate)*float64(d.waiting-start)/float64(full-start)) / 100
		if d.dropped >= 1 {
			d.dropped--
			return nil, "Exceeded MaxStartups\r\n"
		}
	}
	if !b.Enter() {
		return nil, ""
	}
	c = &guestConn{Conn: conn, b: b, d: l.c, started: time.Now()}
	d.conns[c] = true
	d.waiting++
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

// handshake exchanges keys and lets the user in, or not.
func (c *guestConn) handshake() (*ssh.ServerConn, <-chan ssh.NewChannel, <-chan *ssh.Request, error) {
	var pre ssh.ServerPreAuthConn
	cfg := &ssh.ServerConfig{
		ServerVersion:       "SSH-2.0-" + cmp.Or(c.b.Host.Config().Version(), "OpenSSH_8.7"),
		MaxAuthTries:        cmp.Or(c.d.number("maxauthtries", nil), 6),
		PreAuthConnCallback: func(p ssh.ServerPreAuthConn) { pre = p },
		BannerCallback: func(ssh.ConnMetadata) string {
			if file := c.d.get("banner", nil); file != "none" {
				data, _ := c.b.Host.Disk.ReadFile(file)
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
	f := c.b.Host.Faults()
	text, closed := f.Booting, f.Booting != ""
	for _, file := range []string{"/var/run/nologin", "/etc/nologin"} {
		if data, err := c.b.Host.Disk.ReadFile(file); err == nil && c.d.is("usepam", c.lookup(user)) {
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
	acc := c.b.Host.Disk.Accounts()
	u, ok := acc.User(user)
	if !ok {
		return nil
	}
	who := &loginUser{Account: u}
	for _, g := range acc.GIDs(u) {
		who.groups = append(who.groups, acc.GroupName(g))
	}
	return who
}

var errRefused = errors.New("key refused")

// accepts decides on a public key, as sshd does from the user's authorized_keys.
func (c *guestConn) accepts(user string, key ssh.PublicKey) (*ssh.Permissions, error) {
	who := c.lookup(user)
	f := c.b.Host.Faults()
	if who == nil || f.RefuseAuth || time.Now().Before(f.RefuseAuthUntil) || !c.d.is("pubkeyauthentication", who) || !c.d.allowed(who) {
		return nil, errRefused
	}
	root := c.d.get("permitrootlogin", who)
	if who.UID == 0 && root == "no" {
		return nil, errRefused
	}
	for file := range strings.FieldsSeq(c.d.get("authorizedkeysfile", who)) {
		file = strings.NewReplacer("%h", who.Home, "%u", who.Name, "%%", "%").Replace(file)
		if !path.IsAbs(file) {
			file = path.Join(who.Home, file)
		}
		if c.d.is("strictmodes", who) && !trusted(c.b.Host.Disk, file, who.Account) {
			continue
		}
		data, err := c.b.Host.Disk.ReadFile(file)
		if err != nil {
			continue
		}
		forced, ok, err := findKey(data, key)
		c.b.Host.Refused(err, "")
		if ok {
			if who.UID == 0 && root == "forced-commands-only" && forced == "" {
				return nil, errRefused
			}
			return &ssh.Permissions{CriticalOptions: map[string]string{"force-command": forced}}, nil
		}
	}
	return nil, errRefused
}

// findKey looks for key in an authorized_keys file, and returns its forced command. A line with
// options that are not simulated refuses all logins, and is the error.
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
				refusal = &machine.Refusal{Command: "sshd", What: "authorized_keys option " + name}
				continue lines
			}
		}
		return forced, true, nil
	}
	return "", false, refusal
}

// trusted is StrictModes: a file and the directories up to the user's home belong to the user or
// root, and no other user may write to them.
func trusted(d *disk.Disk, file string, u disk.Account) bool {
	real, err := d.Root().Realpath(file, true)
	if err != nil {
		return false
	}
	home, err := d.Root().Realpath(u.Home, true)
	if err != nil {
		home = "/"
	}
	if i, err := d.Root().Stat(real); err != nil || !i.Mode().IsRegular() {
		return false
	}
	for p := real; ; p = path.Dir(p) {
		i, err := d.Root().Stat(p)
		if err != nil || i.Mode()&0o022 != 0 || !slices.Contains([]int{0, u.UID}, i.UID) {
			return false
		}
		if p == home || p == "/" {
			return true
		}
	}
}
