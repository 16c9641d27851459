package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/sshx"
)

// wanted reports whether evidence is to be collected of something that failed, or did not.
func (e Evidence) wanted(failed bool) bool {
	when := cmp.Or(e.When, "failed")
	if w := os.Getenv("POOLREADY_EVIDENCE"); slices.Contains([]string{"never", "failed", "always"}, w) {
		when = w
	}
	return when == "always" || when == "failed" && failed
}

// dir makes the directory for evidence of what, a test or a host. t may be nil.
func (e Evidence) dir(t T, what string) (string, error) {
	base := cmp.Or(e.Dir, os.Getenv("POOLREADY_DIR"))
	if a, ok := beyond[interface{ ArtifactDir() string }](t); ok && testFlag("artifacts") == "true" {
		dir := filepath.Join(a.ArtifactDir(), "pool")
		if a, again := t.(*attempt); again && a.number > 1 {
			dir += "-retry"
		}
		return dir, os.MkdirAll(dir, 0o700)
	}
	if base == "" {
		var err error
		if base, err = temporaryDir(); err != nil {
			return "", err
		}
	}
	base = filepath.Join(base, "evidence")
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", err
	}
	name := strings.Trim(regexp.MustCompile(`[^A-Za-z0-9._-]+`).ReplaceAllString(what, "-"), "-.")
	return os.MkdirTemp(base, fmt.Sprintf("%.80s-%s-*", name, time.Now().Format("150405")))
}

// temporaryDir returns a directory of this process for evidence that is to stay.
var temporaryDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "poolready-*") })

// gather collects evidence of hosts into dir, since when they began to be used. It returns what
// could not be collected of hosts that do not answer.
func (s Spec) gather(ctx context.Context, dir string, hosts []*Host, since time.Time) []string {
	limit := cmp.Or(s.Evidence.Timeout, evidenceTime)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within Evidence.Timeout (%s)", limit))
	defer cancel()
	var mu sync.Mutex
	var absent []string
	forAll(hosts, len(hosts), func(h *Host) {
		c := &collection{e: s.Evidence, h: h, dir: filepath.Join(dir, h.Name), since: since, max: cmp.Or(s.Evidence.MaxBytes, evidenceBytes)}
		if err := os.MkdirAll(c.dir, 0o700); err != nil {
			return
		}
		c.write("transcript.txt", []byte(h.transcript.String()), nil)
		if err := c.collect(ctx); err != nil {
			mu.Lock()
			defer mu.Unlock()
			absent = append(absent, fmt.Sprintf("%s: %s", h.Name, firstLine(err)))
		}
	})
	slices.Sort(absent)
	return absent
}

// evidenceOf collects the evidence of a test that used p, and returns what its log should say.
func (s *Set) evidenceOf(t T, p *Pool, failed bool) string {
	if !s.spec.Evidence.wanted(failed) {
		return ""
	}
	if err := context.Cause(p.ctx); err != nil {
		return fmt.Sprintf("\n    no evidence: %v", err)
	}
	dir, err := s.spec.Evidence.dir(t, fmt.Sprintf("%s-pool%d", p.test, p.Number))
	if err != nil {
		return fmt.Sprintf("\n    no evidence: %v", err)
	}
	var g sync.WaitGroup
	ctx := context.WithoutCancel(p.ctx) // the hosts end with the lease by themselves
	g.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, evidenceEach)
		defer cancel()
		text := ""
		if st, err := readStatus(ctx, s.spec.only(p.Number)); err != nil {
			text = fmt.Sprintf("not read: %v\n", err)
		} else {
			text = st.String() + "\n\n" + st.JSON() + "\n"
		}
		_ = os.WriteFile(filepath.Join(dir, "status.txt"), []byte(text), 0o600) // told by its absence
	})
	absent := s.spec.gather(ctx, dir, p.hosts, p.since)
	g.Wait()
	p.span.Set(func(e *events.Event) { e.Evidence = dir })
	text := "\n    evidence: " + dir
	for _, a := range absent {
		text += "\n    evidence is incomplete: " + a
	}
	return text
}

// lastFailure is the last command on the pool's hosts that did not end well, for people, or "".
func (p *Pool) lastFailure() string {
	var last sshx.Observation
	for _, h := range p.hosts {
		all, _ := h.transcript.entries()
		for _, o := range all {
			if o.Fault != nil && o.At.After(last.At) {
				last = o
			}
		}
	}
	if last.Fault == nil {
		return ""
	}
	text := fmt.Sprintf("\n    last failed command: %s: %s: %s after %s", last.Host, firstLineOf(last.What), outcome(last), round(last.Took))
	lines := strings.Split(strings.TrimSpace(string(last.Out)), "\n")
	for _, l := range lines[max(0, len(lines)-5):] {
		if l != "" {
			text += fmt.Sprintf("\n      | %.160s", l)
		}
	}
	return text
}

func firstLineOf(s string) string {
	line, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more || len(line) > 160 {
		line = fmt.Sprintf("%.160s ...", line)
	}
	return line
}

// evidence adds to the error of a host that could not be made ready where its evidence is.
func (r *run) evidence(ctx context.Context, h *Host, took time.Duration, err error) error {
	he, ok := err.(*HostError) //nolint:errorlint // only the error itself can be added to
	if !ok || h == nil || ctx.Err() != nil || !r.spec.Evidence.wanted(true) {
		return err
	}
	dir, dirErr := r.spec.Evidence.dir(nil, fmt.Sprintf("%s-%s", he.Stage, h.Name))
	if dirErr != nil {
		r.log.linef("%s: no evidence: %v", h.Name, dirErr)
		return err
	}
	r.spec.gather(ctx, dir, []*Host{h}, time.Now().Add(-took))
	_ = os.WriteFile(filepath.Join(dir, "error.txt"), []byte(err.Error()+"\n"), 0o600) // it is told anyway
	he.Evidence = dir
	return he
}

// ended records the end of a test's use of the pool. err says that the test had lost it.
func (p *Pool) ended(failed bool, kept time.Time, err error) {
	if failed && err == nil {
		err = errors.New("the test failed" + strings.ReplaceAll(p.lastFailure(), "\n    ", "; "))
	}
	p.span.Set(func(e *events.Event) {
		if e.Text = "reset"; !kept.IsZero() {
			e.Text = "kept until " + stamp(kept)
		}
	})
	p.span.End(err)
}

// story is what the log of a test says of its pool: what became of it, what is told of its last failed
// command and its evidence, and how to log in.
func (p *Pool) story(failed bool, told string, kept time.Time) string {
	var b strings.Builder
	what, after := "passed", "it is reset now"
	if failed {
		what, after = "failed", "it is reset now; Spec.Keep keeps pools of failed tests"
	}
	if !kept.IsZero() {
		after = fmt.Sprintf("it is kept as it is until %s; pool.Release frees it", stamp(kept))
	}
	fmt.Fprintf(&b, "pool: pool %d of set %q: its test %s; %s", p.Number, p.set.Name, what, after)
	if !failed {
		return b.String() + told
	}
	b.WriteString(told)
	for _, h := range p.hosts {
		fmt.Fprintf(&b, "\n    log in to %s: %s", h.Name, h.Look())
	}
	return b.String()
}
