package pool

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/sshx"
)

// operating is the operation that the process is run for, or nil.
var operating atomic.Pointer[operation]

// Operation returns the name of the operation that the process was started for (see Main), or "", as when
// it runs tests: for a setup that calls Ensure only then. It may be called once Main has called setup.
func Operation() string {
	if o := operating.Load(); o != nil {
		return o.kind.name
	}
	return ""
}

// An operation is what a test binary does instead of running tests.
type operation struct {
	*commandLine
	t    *mainT
	seen []string // names of other sets

	ctx  context.Context
	spec Spec
	w    io.Writer // for people, or for JSON
	done bool
	err  error
}

// ensure is Ensure for an operation, which it does, and ends setup. For other sets than -set it
// returns one that is closed.
func (o *operation) ensure(spec Spec) *Set {
	if o.set != "" && o.set != spec.Name {
		o.seen = append(o.seen, fmt.Sprintf("%q", spec.Name))
		r := newRun(spec.withDefaults(), nil, nil, func(error) {})
		s := r.newSet()
		_ = s.Close() // it never fails
		return s
	}
	o.done = true
	ctx, stop := untilInterrupted(o.t.Context())
	defer stop()
	o.ctx = ctx
	o.err = o.operate(spec)
	o.t.quiet()
	runtime.Goexit()
	return nil
}

func (o *operation) operate(spec Spec) (err error) {
	if spec, err = o.commandLine.spec(spec); err != nil {
		return err
	}
	if spec.Logf == nil {
		spec.Logf = o.t.Logf
	}
	if err := spec.validate(); err != nil {
		return err
	}
	if err := o.checkRole(spec); err != nil {
		return err
	}
	out, err := o.output()
	if err != nil {
		return err
	}
	o.w, o.spec = out, spec
	return errors.Join(o.run(), out.Close())
}

// run carries out the operation.
func (o *operation) run() error {
	switch o.kind.name {
	case "plan":
		return o.plan()
	case "status":
		return o.status()
	case "verify":
		return o.verify()
	case "diff":
		return o.diff()
	case "keep":
		return o.keep()
	case "release":
		return o.release()
	case "reset":
		return o.reset()
	case "rebuild":
		return o.rebuild()
	case "sweep":
		return o.sweep()
	case "destroy":
		return o.destroy()
	case "ssh":
		return o.ssh()
	case "exec":
		return o.exec()
	case "logs":
		return o.logs()
	}
	panic("pool: operation " + o.kind.name + " is listed and not done") // a test does each
}

// finish says how the operation ended, and returns the exit code.
func (o *operation) finish() int {
	switch {
	case !o.done && len(o.seen) > 0:
		o.t.Logf("%s: -set %s: unknown set; want one of %s", o.kind.name, o.set, strings.Join(o.seen, ", "))
	case !o.done && o.t.Failed():
		o.t.Logf("%s: nothing was done: setup failed before", o.kind.name)
	case !o.done:
		o.t.Logf("%s: nothing was done: setup did not call pool.Ensure", o.kind.name)
	case o.err != nil:
		o.t.Logf("%s", strings.TrimPrefix(o.err.Error(), "pool: "))
		if errors.As(o.err, new(*usageError)) {
			return 2
		}
	case !o.t.Failed():
		return 0
	}
	return 1
}

// print writes v as JSON if that is wanted, else text.
func (o *operation) print(text string, v any) {
	if o.json {
		text = asJSON(v)
	}
	fmt.Fprintln(o.w, text)
}

func (o *operation) plan() error {
	p, err := MakePlan(o.ctx, o.spec)
	if p != nil {
		o.print(p.String(), p)
	}
	return err
}

func (o *operation) status() error {
	st, err := ReadStatus(o.ctx, o.spec)
	if err == nil {
		o.print(st.String(), st)
	}
	return err
}

func (o *operation) verify() error {
	r, err := Verify(o.ctx, o.spec)
	if err != nil {
		return err
	}
	o.print(r.String(), r)
	if n := len(r.Failed()); n > 0 {
		return fmt.Errorf("verify: %d checks failed", n)
	}
	return nil
}

func (o *operation) diff() error {
	type difference struct {
		Host  string  `json:"host"`
		Since string  `json:"since"` // "golden" or "ready"
		Kind  string  `json:"kind"`
		Name  string  `json:"name"`
		Was   *string `json:"was"`
		Is    *string `json:"is"`
	}
	all := []difference{}
	var text strings.Builder
	err := Visit(o.ctx, o.spec, func(ctx context.Context, h *Host) error {
		golden, err := h.FactsWhenReady(ctx, "golden")
		if err != nil {
			return err
		}
		ready, err := h.FactsWhenReady(ctx, h.Role)
		if err != nil {
			return err
		}
		now, err := h.Facts(ctx)
		if err != nil {
			return err
		}
		for _, part := range []struct {
			since, what string
			changes     []Change
		}{
			{"golden", "since golden was ready", Diff(h.Name, golden, ready)},
			{"ready", "since it became ready", Diff(h.Name, ready, now)},
		} {
			fmt.Fprintf(&text, "%s: %d changes %s\n", h.Name, len(part.changes), part.what)
			for _, c := range part.changes {
				fmt.Fprintf(&text, "  %s\n", c)
				all = append(all, difference{c.Host, part.since, c.Kind, c.Name, c.Was, c.Is})
			}
		}
		return nil
	})
	o.print(strings.TrimRight(text.String(), "\n"), all)
	return err
}

func (o *operation) keep() error {
	if err := Keep(o.ctx, o.spec, KeepOptions{For: o.keepFor}); err != nil {
		return err
	}
	if err := o.status(); err != nil || o.json {
		return err
	}
	fmt.Fprintln(o.w, "release -pools N frees a pool; to log in:")
	return o.eachHost(false, nil, func(_ context.Context, _ *poolPlan, h *Host) error {
		fmt.Fprintf(o.w, "  %s: %s\n", h.Name, h.Look())
		return nil
	})
}

func (o *operation) release() error {
	if err := Release(o.ctx, o.spec); err != nil {
		return err
	}
	return o.status()
}

func (o *operation) reset() error {
	if err := Reset(o.ctx, o.spec); err != nil {
		return err
	}
	return o.status()
}

func (o *operation) rebuild() error {
	if err := Rebuild(o.ctx, o.spec, RebuildOptions{Layer: o.role}); err != nil {
		return err
	}
	return o.status()
}

func (o *operation) sweep() error {
	found, err := Sweep(o.ctx, o.spec, SweepOptions{OlderThan: o.olderThan})
	if err == nil && o.yes && len(found) > 0 {
		found, err = Sweep(o.ctx, o.spec, SweepOptions{OlderThan: o.olderThan, Remove: true})
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%d VMs of set %q are not in its Spec", len(found), o.spec.Name)
	for _, l := range found {
		fmt.Fprintf(&text, "\n  %s", l)
	}
	if len(found) > 0 && !o.yes {
		text.WriteString("\nnothing was removed: -yes removes them")
	}
	o.print(text.String(), slices.Concat([]Leftover{}, found))
	return err
}

func (o *operation) destroy() error {
	if !o.yes {
		st, err := ReadStatus(o.ctx, o.spec)
		if err != nil {
			return err
		}
		answer, err := ask(fmt.Sprintf("%s\nThis removes every VM of set %q. Type its name to go on: ", st, o.spec.Name))
		if err != nil {
			return fmt.Errorf("destroy: nothing was removed: cannot ask for the set's name (-yes skips the question): %w", err)
		}
		if answer != o.spec.Name {
			return fmt.Errorf("destroy: nothing was removed: %q is not the name of set %q", answer, o.spec.Name)
		}
	}
	removed, err := Destroy(o.ctx, o.spec)
	text := fmt.Sprintf("%d VMs of set %q were removed", len(removed), o.spec.Name)
	for _, name := range removed {
		text += "\n  " + name
	}
	o.print(text, slices.Concat([]string{}, removed))
	return err
}

// ask asks at the terminal, which the standard input of go test is not.
func ask(question string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer tty.Close()
	if _, err := fmt.Fprint(tty, question); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(tty).ReadString('\n')
	return strings.TrimSpace(line), err
}

// ssh runs the real ssh, on the terminal if there is one and no command is given.
func (o *operation) ssh() error {
	name, remote := o.args[0], o.args[1:]
	if len(remote) > 0 {
		if remote[0] == "--" {
			remote = remote[1:]
		} else if strings.HasPrefix(remote[0], "-") { // the real ssh would take it for its own
			return &usageError{fmt.Sprintf("ssh: flag %s after the host: flags go before it, and a command that begins with \"-\" after --", remote[0])}
		}
	}
	for i, w := range remote {
		remote[i] = shellWords([]string{w}) // ssh joins them for the login shell
	}
	found := false
	err := o.eachHost(false, []string{name}, func(ctx context.Context, q *poolPlan, h *Host) error {
		found = true
		words, err := h.Login()
		if err != nil {
			return err
		}
		if q.state == lease.Clean || q.state == lease.Dirty {
			o.t.Logf("pool %d is %s: a test may get it at any moment, clean or not; keep -pools %d keeps it", q.number, q.state, q.number)
		}
		tty, ttyErr := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if ttyErr == nil {
			defer tty.Close()
		}
		if o.json || len(remote) == 0 && ttyErr != nil {
			o.print(shellWords(append(words, remote...)), map[string][]string{"command": append(words, remote...)})
			return nil
		}
		cmd := exec.CommandContext(ctx, words[0], append(words[1:], remote...)...)
		cmd.Stdout, cmd.Stderr = o.w, os.Stderr
		if len(remote) == 0 {
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		}
		return cmd.Run()
	})
	if err == nil && !found {
		return &usageError{fmt.Sprintf("ssh: unknown host %q in set %q", name, o.spec.Name)}
	}
	return err
}

// A hostResult is what exec or logs has of one host.
type hostResult struct {
	Host    string  `json:"host"`
	Exit    int     `json:"exit"` // -1 if the command did not run
	Output  string  `json:"output"`
	Err     string  `json:"error,omitempty"`
	Seconds float64 `json:"seconds"`
}

func (o *operation) exec() error {
	if o.args[0] == "--" {
		o.args = o.args[1:]
	} else if vm := o.args[0]; o.spec.hasHost(vm) {
		return &usageError{fmt.Sprintf("exec: %s is a host: ssh %s runs a command on it; exec -- runs a command of that name", vm, vm)}
	}
	return o.onHosts(sshx.Cmd{Args: o.args}, true)
}

func (o *operation) logs() error {
	c := &collection{since: time.Now().Add(-o.since), max: 4 << 20}
	return o.onHosts(sshx.Cmd{Name: "logs", Script: c.scripts()["journal.txt"]}, false)
}

// onHosts runs a command on the hosts, at once, and prints what each said. If it changes them, their
// pools are leased for it, unless they are kept, and count as used from then on.
func (o *operation) onHosts(cmd sshx.Cmd, changes bool) error {
	var mu sync.Mutex
	var all []hostResult
	visit := func(ctx context.Context, _ *poolPlan, h *Host) error {
		begun := time.Now()
		res, err := h.run(ctx, cmd)
		r := hostResult{Host: h.Name, Exit: res.ExitCode, Output: string(res.Stdout), Seconds: time.Since(begun).Seconds()}
		if err != nil {
			if r.Err = firstLine(err); !errors.As(err, new(*sshx.ExitError)) {
				r.Exit = -1
			}
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, r)
		return err
	}
	err := o.eachHost(changes, nil, visit)
	slices.SortFunc(all, func(a, b hostResult) int { return strings.Compare(a.Host, b.Host) })
	var text strings.Builder
	for _, r := range all {
		fmt.Fprintf(&text, "== %s: %s\n%s", r.Host, cmp.Or(r.Err, "ok"), r.Output)
		if r.Output != "" && !strings.HasSuffix(r.Output, "\n") {
			text.WriteString("\n")
		}
	}
	o.print(strings.TrimRight(text.String(), "\n"), slices.Concat([]hostResult{}, all))
	return err
}

// eachHost calls f for the hosts of the pools, at once, that are on and accept a login, whatever the plan
// would do with them; of names and of -role alone, if there are any. leased takes the pools meanwhile.
func (o *operation) eachHost(leased bool, names []string, f func(context.Context, *poolPlan, *Host) error) error {
	s := o.spec.withDefaults()
	l := newLedger(s)
	obs, err := observe(o.ctx, s, l)
	if err != nil {
		return err
	}
	p, err := obs.plan(s, nil)
	if p == nil {
		return err
	}
	errs := make([]error, len(p.pools))
	forAll(p.pools, p.Concurrency.Hosts/len(s.Roles), func(q *poolPlan) {
		i := slices.Index(p.pools, q)
		ctx, done := o.ctx, func() {}
		if leased {
			if ctx, done, errs[i] = o.lease(l, q); errs[i] != nil {
				errs[i] = fmt.Errorf("pool %d: %w", q.number, errs[i])
				return
			}
		}
		defer done()
		hostErrs := make([]error, len(q.hosts))
		forAll(q.hosts, len(q.hosts), func(h *hostPlan) {
			if (len(names) == 0 || slices.Contains(names, h.VM)) && (o.role == "" || h.Role == o.role) {
				hostErrs[slices.Index(q.hosts, h)] = o.visit(ctx, s, q, h, f)
			}
		})
		errs[i] = errors.Join(hostErrs...)
	})
	return errors.Join(errs...)
}

// lease takes a pool to do something with it that a test must not meet. One that is kept is a
// person's anyway.
func (o *operation) lease(l *lease.Ledger, q *poolPlan) (context.Context, func(), error) {
	if q.state == lease.Absent { // a lease would block its builder
		return nil, nil, errNotBuilt
	}
	x, _, err := take(o.ctx, l.Operate, lease.Request{Pool: q.number, Purpose: o.kind.name})
	if busy, ok := errors.AsType[*BusyError](err); ok && busy.State == lease.Kept {
		return o.ctx, func() {}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	guard(x)
	ctx, stop := x.Bind(o.ctx)
	return ctx, func() {
		stop()
		if err := releaseLease(o.ctx, x, lease.Used(o.kind.name+" by hand")); err != nil {
			o.spec.Logf("pool %d: not released, so it is free when its lease expires: %v", q.number, err)
		}
	}, nil
}

func (o *operation) visit(ctx context.Context, s Spec, q *poolPlan, h *hostPlan, f func(context.Context, *poolPlan, *Host) error) error {
	switch {
	case h.info.ID == "":
		return fmt.Errorf("%s: %w", h.VM, errNotBuilt)
	case !h.info.On:
		return fmt.Errorf("%s: it is off", h.VM)
	}
	host := h.newHost(s)
	defer host.drop()
	for _, snap := range h.info.Snapshots { // also of one that is no longer what the Spec asks for
		if rec, err := decodeRecord(snap.Record); err == nil && len(rec.HostKeys) > 0 {
			host.pin(rec.HostKeys)
		}
	}
	if err := host.probe(ctx); err != nil {
		return fmt.Errorf("%s: %w", h.VM, err)
	}
	return f(ctx, q, host)
}
