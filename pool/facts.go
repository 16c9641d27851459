package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/sshx"
)

// A Fact is something that there is on a host: a package, a listening port, a user.
type Fact struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
}

// A Change is a difference between the facts of one host at two times, or of two hosts.
type Change struct {
	Host, Kind, Name string
	// Was and Is are the values; nil is a fact that was not there, or is not.
	Was, Is *string
}

func (c Change) String() string {
	what := strings.TrimSpace(c.Kind + " " + c.Name)
	switch {
	case c.Was == nil:
		return strings.TrimSpace(fmt.Sprintf("%s: new: %s %s", c.Host, what, *c.Is))
	case c.Is == nil:
		return strings.TrimSpace(fmt.Sprintf("%s: gone: %s %s", c.Host, what, *c.Was))
	}
	return fmt.Sprintf("%s: changed: %s: %s -> %s", c.Host, what, *c.Was, *c.Is)
}

// Diff returns what changed from one list of facts to another, by kind and name. host is who they
// are of.
func Diff(host string, was, is []Fact) []Change {
	old := map[[2]string]string{}
	for _, f := range was {
		old[[2]string{f.Kind, f.Name}] = f.Value
	}
	var all []Change
	for _, f := range is {
		key := [2]string{f.Kind, f.Name}
		before, there := old[key]
		delete(old, key)
		switch {
		case !there:
			all = append(all, Change{Host: host, Kind: f.Kind, Name: f.Name, Is: &f.Value})
		case before != f.Value:
			all = append(all, Change{Host: host, Kind: f.Kind, Name: f.Name, Was: &before, Is: &f.Value})
		}
	}
	for key, before := range old {
		all = append(all, Change{Host: host, Kind: key[0], Name: key[1], Was: &before})
	}
	slices.SortFunc(all, func(a, b Change) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return all
}

// parseFacts reads what the script of Spec.Facts printed. What is printed twice counts once, with a
// count.
func parseFacts(out string) ([]Fact, error) {
	var all []Fact
	seen := map[[2]string]int{}
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		parts := strings.SplitN(line, "\t", 3)
		if len(parts) < 2 || parts[0] == "" || parts[1] == "" {
			return nil, fmt.Errorf("the script of Spec.Facts printed %q, which is not kind, name and value with tabs between them", lease.Shorten(line))
		}
		f := Fact{Kind: parts[0], Name: parts[1]}
		if len(parts) == 3 {
			f.Value = parts[2]
		}
		key := [2]string{f.Kind, f.Name}
		if seen[key]++; seen[key] > 1 {
			f.Name = fmt.Sprintf("%s (%d)", f.Name, seen[key])
		}
		all = append(all, f)
	}
	return all, nil
}

// Facts runs the script of Spec.Facts on the host.
func (h *Host) Facts(ctx context.Context) ([]Fact, error) {
	if h.facts == "" {
		return nil, fmt.Errorf("%s: Spec.Facts is empty", h.Name)
	}
	out, err := h.printFacts(ctx, h.facts)
	if err != nil {
		return nil, fmt.Errorf("%s: facts: %w", h.Name, err)
	}
	all, err := parseFacts(out)
	if err != nil {
		return nil, fmt.Errorf("%s: facts: %w", h.Name, err)
	}
	return all, nil
}

// printFacts returns what the script prints on its standard output.
func (h *Host) printFacts(ctx context.Context, script string) (string, error) {
	res, err := h.run(ctx, sshx.Cmd{Name: "facts", Script: script, Env: h.VM.Env, Separate: true})
	return strings.TrimRight(string(res.Stdout), " \t\r\n"), err
}

// factsDir is where the disk of a host has the facts of when it became ready, and, as it was
// cloned, of when its golden did.
const factsDir = "/var/lib/poolready"

func factsFile(layer string) string { return fmt.Sprintf("%s/facts-%s", factsDir, layer) }

// FactsWhenReady returns the facts of the host when it became ready, or of layer "golden", the
// golden that it was cloned from, as they were noted on its disk before the snapshot. One that
// became ready with another Spec.Facts, or none, has those, or none, which is an error.
func (h *Host) FactsWhenReady(ctx context.Context, layer string) ([]Fact, error) {
	out, err := h.Run(ctx, "cat", factsFile(layer))
	if err != nil {
		return nil, fmt.Errorf("%s: facts when %s became ready (were they noted? Spec.Facts may be newer): %w", h.Name, layer, err)
	}
	all, err := parseFacts(out)
	if err != nil {
		return nil, fmt.Errorf("%s: facts when %s became ready: %w", h.Name, layer, err)
	}
	return all, nil
}

// noteFacts notes the facts on the host's disk.
func (h *Host) noteFacts(ctx context.Context, script string) error {
	if script == "" {
		return nil
	}
	out, err := h.printFacts(ctx, script)
	if err == nil {
		_, err = parseFacts(out)
	}
	if err == nil {
		_, err = h.Run(ctx, "mkdir", "-p", factsDir)
	}
	if err == nil {
		err = h.Put(ctx, factsFile(h.Role), strings.NewReader(out+"\n"), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note the facts (Spec.Facts): %w", err)
	}
	return nil
}

// Watch makes t fail if, when it ends, the facts of the pool's hosts are not as they are now: it
// names every package, port, file or whatever Spec.Facts tells of that the test left. The pool is
// reset all the same; what is outside of it is not. allow are the changes that are meant, as "kind"
// or "kind name", where a "*" at the end stands for any rest: "file /var/log/*". Call it after
// Acquire.
func (p *Pool) Watch(t T, allow ...string) {
	t.Helper()
	was, err := p.facts(t.Context())
	if err != nil {
		t.Fatalf("pool: watch pool %d: %v", p.Number, err)
	}
	t.Cleanup(func() {
		t.Helper()
		ctx, cancel := lease.Afterwards(p.Context())
		defer cancel()
		is, err := p.facts(ctx)
		if err != nil {
			t.Errorf("pool: watch pool %d: %v", p.Number, err)
			return
		}
		var left []string
		for i, h := range p.hosts {
			for _, c := range Diff(h.Name, was[i], is[i]) {
				if !c.allowed(allow) {
					left = append(left, "\n  "+c.String())
				}
			}
		}
		if len(left) > 0 {
			t.Errorf("pool: this test left %d changes in pool %d:%s", len(left), p.Number, strings.Join(left, ""))
		}
	})
}

func (c Change) allowed(allow []string) bool {
	return slices.ContainsFunc(allow, func(a string) bool {
		if start, any := strings.CutSuffix(a, "*"); any {
			return strings.HasPrefix(c.Kind+" "+c.Name, start)
		}
		return a == c.Kind || a == c.Kind+" "+c.Name
	})
}

// facts are those of the hosts, in their order.
func (p *Pool) facts(ctx context.Context) ([][]Fact, error) {
	all := make([][]Fact, len(p.hosts))
	errs := make([]error, len(p.hosts))
	forAll(p.hosts, len(p.hosts), func(h *Host) {
		i := slices.Index(p.hosts, h)
		all[i], errs[i] = h.Facts(ctx)
	})
	return all, errors.Join(errs...)
}
