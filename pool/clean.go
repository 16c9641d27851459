package pool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// errUnfit says that a pool is not, or no longer, what this process's Spec asks for.
var errUnfit = errors.New("it is no longer what this Spec asks for")

// canary is a file that is on the disks of a pool's hosts while it is lent: one that has it was not reverted.
const canary = "/var/tmp/.poolready-lent"

const (
	markScript = `set -e
mkdir -p /var/tmp
echo lent > ` + canary + `
cat /proc/sys/kernel/random/boot_id
`
	proofScript = `set -e
cat /proc/sys/kernel/random/boot_id
if test -e ` + canary + `; then echo lent; else echo clean; fi
date +%s
`
)

// mark leaves the canary on the pool's hosts and returns their boot ids.
func (p *Pool) mark(ctx context.Context) ([]string, error) {
	boots := make([]string, len(p.hosts))
	g, ctx := errgroup.WithContext(ctx)
	for i, h := range p.hosts {
		g.Go(func() error {
			if err := h.probe(ctx); err != nil {
				return hostError(h, "lend", err)
			}
			out, err := h.Script(ctx, markScript)
			boots[i] = out
			return hostError(h, "lend", err)
		})
	}
	return boots, g.Wait()
}

// reset puts the pool, which x holds, back to its ready snapshots, and proves that it is clean: every host has
// booted anew since old was read, its disk does not have the canary, its clock is right, what it needs
// answers, and the role's AfterReset checks pass. It returns the proof and the new boot ids.
func (s *Set) reset(ctx context.Context, x *lease, p *Pool, old []string) (*proof, []string, error) {
	ctx, stop := x.bind(ctx)
	defer stop()
	start := time.Now()
	if err := x.confirm(ctx); err != nil {
		return nil, nil, err
	}
	if err := p.reset(ctx, x); err != nil {
		return nil, nil, err
	}
	b, err := s.ledger.read(ctx, x.shard)
	if err != nil {
		return nil, nil, err
	}
	found, boots, err := s.prove(ctx, p, b, old)
	if err == nil {
		s.log.linef("pool %d: reset in %s, and clean", p.Number, round(time.Since(start)))
	}
	return found, boots, err
}

// clockTime is how long a clock may take to be set right after a boot.
var clockTime = 30 * time.Second

// prove shows that the pool is clean. b has the hypervisor's clock.
func (s *Set) prove(ctx context.Context, p *Pool, b books, old []string) (*proof, []string, error) {
	skews := make([]time.Duration, len(p.hosts))
	boots := make([]string, len(p.hosts))
	now := func(t time.Time) time.Time { return b.Now.Add(t.Sub(b.asked)) }
	g, gctx := errgroup.WithContext(ctx)
	for i, h := range p.hosts {
		before := ""
		if i < len(old) {
			before = old[i]
		}
		g.Go(func() (err error) {
			boots[i], skews[i], err = s.proveHost(gctx, h, before, now, b.Slack)
			if err == nil {
				_, err = runChecks(gctx, h, p.roles[i].AfterReset)
			}
			return hostError(h, "prove clean", err)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	skew := slices.Max(skews).Seconds()
	return &proof{At: b.Now.UTC().Truncate(time.Second), By: s.ledger.by, Skew: skew}, boots, nil
}

func (s *Set) proveHost(ctx context.Context, h *Host, old string, now func(time.Time) time.Time, slack time.Duration) (boot string, skew time.Duration, err error) {
	for end := time.Now().Add(clockTime); ; {
		asked := time.Now()
		out, err := h.Script(ctx, proofScript)
		answered := time.Now()
		if err != nil {
			return "", 0, err
		}
		lines := strings.Fields(out)
		if len(lines) != 3 {
			return "", 0, fmt.Errorf("the host answers %q to a question of three lines", out)
		}
		seconds, err := strconv.ParseInt(lines[2], 10, 64)
		switch {
		case err != nil:
			return "", 0, fmt.Errorf("the host's clock says %q", lines[2])
		case lines[0] == old:
			return "", 0, fmt.Errorf("it was not rebooted: its boot id is still %s", old)
		case lines[1] != "clean":
			return "", 0, fmt.Errorf("its disk was not reverted: %s, which only a lent host has, is there", canary)
		}
		skew = distance(time.Unix(seconds, 0), now(asked), now(answered).Add(slack))
		if limit := s.spec.Limits.ClockSkew; limit >= 0 && skew > limit {
			if time.Now().Before(end) && sleep(ctx, 500*time.Millisecond) == nil {
				continue // it may be being set
			}
			return "", 0, fmt.Errorf("its clock is %s from the hypervisor's, more than Limits.ClockSkew (%s)", round(skew), limit)
		}
		return lines[0], skew, nil
	}
}

// distance is the least by which a clock can be wrong that said second some time between from and to.
func distance(second, from, to time.Time) time.Duration {
	switch {
	case second.After(to):
		return second.Sub(to)
	case second.Add(time.Second).Before(from):
		return from.Sub(second.Add(time.Second))
	}
	return 0
}

// find looks in the inventory for a pool that somebody has rebuilt, and makes it known to the set.
func (s *Set) find(ctx context.Context, old *Pool) (*Pool, error) {
	work, _, _, err := plan(ctx, s.spec)
	if err != nil {
		return nil, err
	}
	p := &Pool{Number: old.Number, set: s, roles: s.spec.Roles}
	peers := map[string]*Host{}
	for _, h := range work.poolHosts(old.Number) {
		if h.Action != Reuse && h.Action != PowerOn {
			err := fmt.Errorf("%s: %s: %s", h.VM, h.Action, h.Reason)
			if _, _, _, is := readySnapshot(h.info, h.role.Snapshot); h.Action != Refuse && errors.Is(is, errUnfinished) {
				return nil, err // who built it died
			}
			return nil, fmt.Errorf("%w: %w", errUnfit, err)
		}
		host := h.host(s.spec)
		host.peers = maps.Clone(peers)
		peers[h.Role] = host
		p.hosts = append(p.hosts, host)
		p.snaps = append(p.snaps, h.snap)
		p.builds = append(p.builds, h.rec.Build)
	}
	p.build = hash(p.builds...)
	if p.build == old.build {
		return old, nil
	}
	s.setPool(p)
	return p, nil
}
