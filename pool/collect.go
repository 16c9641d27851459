package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/poolready/poolready/sshx"
)

// A collection is what is collected of one host.
type collection struct {
	e     Evidence
	h     *Host
	dir   string
	since time.Time
	max   int64
}

// asRoot makes $root of what lets a script run programs as root, if anything does.
const asRoot = `root=
if test "$(id -u)" != 0 && sudo -n true 2>/dev/null; then root='sudo -n'; fi
`

// scripts are what every host is asked, by the name of the file. Each says itself what it lacks.
func (c *collection) scripts() map[string]string {
	seconds := int(time.Since(c.since).Seconds()) + 60 // clocks differ, and the script may start late
	scripts := map[string]string{
		"journal.txt": fmt.Sprintf(`if command -v journalctl >/dev/null; then $root journalctl --no-pager -o short-precise --since=-%ds 2>&1 | tail -c %d
else echo 'no journalctl; the ends of syslog and messages:'; $root tail -c %d /var/log/syslog /var/log/messages 2>&1; fi
`, seconds, c.max, c.max/2),
		"processes.txt": "ps -e -o pid,ppid,user,args 2>&1\n",
		"ports.txt": `if command -v ss >/dev/null; then $root ss -tulpn 2>&1
elif command -v netstat >/dev/null; then $root netstat -tulpn 2>&1
else echo 'neither ss nor netstat'; fi
`,
		"space.txt":  "df -h 2>&1\ncat /proc/meminfo 2>/dev/null || true\n",
		"kernel.txt": fmt.Sprintf("$root dmesg -T --level=err,crit,alert,emerg 2>&1 | tail -c %d\n", c.max),
	}
	for name, text := range scripts {
		scripts[name] = asRoot + text
	}
	return scripts
}

// collect writes all files. The error says that the host could not be asked.
func (c *collection) collect(ctx context.Context) error {
	var g sync.WaitGroup
	defer g.Wait()
	g.Go(func() { c.screenshot(ctx) })
	if err := c.answers(ctx); err != nil {
		text := err.Error()
		if d, derr := c.diagnose(ctx); derr == nil {
			text += "\n" + d.String()
		}
		c.write("unreachable.txt", []byte(text+"\n"), nil)
		return err
	}
	for name, script := range c.scripts() {
		g.Go(func() { c.script(ctx, name, script) })
	}
	for _, own := range c.e.Collectors {
		g.Go(func() {
			if own.Script != "" {
				c.script(ctx, own.Name, own.Script)
				return
			}
			ctx, cancel := context.WithTimeout(ctx, evidenceEach)
			defer cancel()
			text, err := protect2(func() (string, error) { return own.Do(ctx, c.h) })
			c.write(own.Name, []byte(text), err)
		})
	}
	if len(c.e.Files) > 0 {
		g.Go(func() { c.files(ctx) })
	}
	return nil
}

// answers reports why the host does not run a command within a few seconds.
func (c *collection) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, evidenceLogin, fmt.Errorf("no answer within %s", evidenceLogin))
	defer cancel()
	if !c.h.Addr().IsValid() {
		return errors.New("it has no address")
	}
	if _, err := c.h.Run(ctx, "true"); err != nil {
		return err
	}
	return nil
}

// A Screenshotter is a Provider that can take a picture of a VM's console, as evidence.
type Screenshotter interface {
	// Screenshot returns the picture, as PNG. The VM must be on.
	Screenshot(ctx context.Context, id string) ([]byte, error)
}

// screenshot writes the picture of the host's console, if the Provider can take it.
func (c *collection) screenshot(ctx context.Context) {
	p, ok := c.h.provider.(Screenshotter)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, evidenceEach, fmt.Errorf("not done within %s", evidenceEach))
	defer cancel()
	picture, err := p.Screenshot(ctx, c.h.id)
	if err != nil {
		c.write("console.txt", []byte("no picture of the console: "+err.Error()), nil)
		return
	}
	_ = os.WriteFile(filepath.Join(c.dir, "console.png"), picture, 0o600) // there is nowhere left to report it
}

func (c *collection) diagnose(ctx context.Context) (Diagnosis, error) {
	ctx, cancel := context.WithTimeout(ctx, evidenceLogin)
	defer cancel()
	return c.h.provider.Diagnose(ctx, c.h.id)
}

// script writes what a script prints.
func (c *collection) script(ctx context.Context, name, script string) {
	ctx, cancel := context.WithTimeoutCause(ctx, evidenceEach, fmt.Errorf("not done within %s", evidenceEach))
	defer cancel()
	out := &tail{max: c.max}
	_, err := c.h.run(ctx, sshx.Cmd{Name: "evidence " + name, Script: script, Env: c.h.VM.Env, Stdout: out})
	c.write(name, out.text(), err)
}

// files copies the ends of the files that the Spec names.
func (c *collection) files(ctx context.Context) {
	var list strings.Builder
	list.WriteString("for f in")
	for _, p := range c.e.Files {
		list.WriteString(" " + quotePattern(p))
	}
	list.WriteString("; do if $root test -f \"$f\"; then echo \"$f\"; fi; done\n")
	lister, cancel := context.WithTimeout(ctx, evidenceEach)
	defer cancel()
	out, err := c.h.run(lister, sshx.Cmd{Name: "evidence files", Script: asRoot + list.String(), Separate: true})
	found := strings.Split(strings.TrimRight(string(out.Stdout), "\n"), "\n")
	if err != nil || found[0] == "" {
		c.write("files.txt", []byte("no file matches "+strings.Join(c.e.Files, " ")), err)
		return
	}
	if len(found) > evidenceFiles {
		c.write("files.txt", fmt.Appendf(nil, "%d files match; these were left out:\n%s", len(found), strings.Join(found[evidenceFiles:], "\n")), nil)
		found = found[:evidenceFiles]
	}
	forAll(found, 3, func(file string) {
		clean := filepath.Clean("/" + file) // no way out of the directory
		if os.MkdirAll(filepath.Join(c.dir, "files", filepath.Dir(clean)), 0o700) == nil {
			c.script(ctx, filepath.Join("files", clean), asRoot+fmt.Sprintf("$root tail -c %d %s\n", c.max, sshx.Quote(file)))
		}
	})
}

// quotePattern quotes a pattern for a shell, but for *, ? and what is in brackets.
func quotePattern(p string) string {
	var b strings.Builder
	for _, r := range p {
		switch {
		case strings.ContainsRune("*?[]", r):
			b.WriteRune(r)
		case strings.ContainsRune("/-_.", r), r >= '0' && r <= '9', r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z':
			b.WriteRune(r)
		default:
			b.WriteString(sshx.Quote(string(r)))
		}
	}
	return b.String()
}

// write writes a file, and at its end why it is not whole.
func (c *collection) write(name string, data []byte, err error) {
	if int64(len(data)) > c.max {
		data = data[int64(len(data))-c.max:]
	}
	if err != nil {
		data = fmt.Appendf(bytes.Clone(data), "\n[%s]\n", firstLine(err))
	}
	_ = os.WriteFile(filepath.Join(c.dir, name), data, 0o600) // there is nowhere left to report it
}

// A tail keeps the end of what is written to it.
type tail struct {
	max  int64
	data []byte
	cut  int64
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if n := int64(len(t.data)) - t.max; n > t.max { // seldom, as it copies
		t.cut += n
		t.data = append(t.data[:0:0], t.data[n:]...)
	}
	return len(p), nil
}

func (t *tail) text() []byte {
	if n := int64(len(t.data)) - t.max; n > 0 {
		t.cut, t.data = t.cut+n, t.data[n:]
	}
	if t.cut > 0 {
		return fmt.Appendf(nil, "... %d bytes are left out ...\n%s", t.cut, t.data)
	}
	return t.data
}

const (
	evidenceTime  = 30 * time.Second
	evidenceBytes = 1 << 20
	// evidenceLogin is how long a host may take to answer, and evidenceEach one command.
	evidenceLogin = 5 * time.Second
	evidenceEach  = 10 * time.Second
	// evidenceFiles is how many files are copied of one host.
	evidenceFiles = 100
)
