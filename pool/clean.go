package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// errUnfit says that a pool is not, or no longer, what this process's Spec asks for.
var errUnfit = errors.New("it is no longer what this Spec asks for")

// canary is a file that is on the disks of a pool's hosts while it is lent: one that has it was not
// reverted. What was resumed has no boot id of its own: stamped, which is in memory, has in its
// place what the proof wrote there.
const (
	canary  = "/var/tmp/.poolready-lent"
	stamped = "/dev/shm/.poolready-proved"
)

const (
	markScript = `set -e
mkdir -p /var/tmp
echo lent > ` + canary + `
cat /proc/sys/kernel/random/boot_id
if test -e ` + stamped + `; then cat ` + stamped + `; fi
`
	proofScript = `set -e
cat /proc/sys/kernel/random/boot_id
if test -e ` + canary + `; then echo lent; elif test -e ` + stamped + `; then echo stamped; else echo clean; fi
date +%s
`
)

// mark leaves the canary on the pool's hosts and returns their boot ids, with the stamps of those
// that have one.
func (p *Pool) mark(ctx context.Context) ([]string, error) {
	boots := make([]string, len(p.hosts))
	g, ctx := errgroup.WithContext(ctx)
	for i, h := range p.hosts {
		g.Go(func() error {
			if err := h.probe(ctx); err != nil {
				return hostError(h, "lend", err)
			}
			out, err := h.Script(ctx, markScript)
			boots[i] = strings.Join(strings.Fields(out), "/")
			return hostError(h, "lend", err)
		})
	}
	return boots, g.Wait()
}

// reset puts the pool, which x holds, back to its ready snapshots, and proves that it is clean:
// every host has booted anew since old was read, or goes on from the boot of its snapshot and lacks
// the stamp of an earlier proof; its disk does not have the canary, its clock is right, what it
// needs answers, and the role's AfterReset checks pass. It returns the proof and the new boot ids.
func (s *Set) reset(ctx context.Context, x *lease, p *Pool, old []string) (*proof, []string, error) {
	ctx, stop := x.bind(ctx)
	defer stop()
	start := time.Now()
	if err := x.confirm(ctx); err != nil {
		return nil, nil, err
	}
	b, err := s.ledger.read(ctx, x.shard)
	if err != nil {
		return nil, nil, err
	}
	if err := p.reset(ctx, x, b); err != nil {
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
	g, gctx := errgroup.WithContext(ctx)
	for i, h := range p.hosts {
		before := ""
		if i < len(old) {
			before = old[i]
		}
		g.Go(func() (err error) {
			if boots[i], skews[i], err = s.proveHost(gctx, h, before, b); err == nil {
				err = h.unplugged(gctx)
			}
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

func (s *Set) proveHost(ctx context.Context, h *Host, old string, b books) (boot string, skew time.Duration, err error) {
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
		case h.frozen == "" && lines[0] == old:
			return "", 0, fmt.Errorf("it was not rebooted: its boot id is still %s", old)
		case h.frozen != "" && lines[0] != h.frozen:
			return "", 0, fmt.Errorf("it does not go on from its snapshot: its boot id is %s, that of the snapshot is %s", lines[0], h.frozen)
		case lines[1] == "stamped":
			return "", 0, fmt.Errorf("its memory was not reverted: %s, which an earlier proof wrote, is there", stamped)
		case lines[1] != "clean":
			return "", 0, fmt.Errorf("its disk was not reverted: %s, which only a lent host has, is there", canary)
		}
		skew = distance(time.Unix(seconds, 0), b.at(asked), b.at(answered).Add(b.Slack))
		if limit := s.spec.Limits.ClockSkew; limit >= 0 && skew > limit {
			if time.Now().Before(end) && sleep(ctx, 500*time.Millisecond) == nil {
				continue // it may be being set
			}
			return "", 0, fmt.Errorf("its clock is %s from the hypervisor's, more than Limits.ClockSkew (%s)", round(skew), limit)
		}
		if h.frozen == "" {
			return lines[0], skew, nil
		}
		boot, err = h.stamp(ctx, lines[0])
		return boot, skew, err
	}
}

// distance is the least by which a clock can be wrong that said second some time between from and
// to.
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
	hosts := work.poolHosts(old.Number)
	for _, h := range hosts {
		if !h.ready() {
			err := fmt.Errorf("%s: %s: %s", h.VM, h.Action, h.Reason)
			if _, _, _, is := readySnapshot(h.info, h.role.Snapshot); h.Action != Refuse && errors.Is(is, errUnfinished) {
				return nil, err // who built it died
			}
			return nil, fmt.Errorf("%w: %w", errUnfit, err)
		}
	}
	p := fromPlan(s.spec, hosts)
	p.set = s
	if p.build == old.build {
		return old, nil
	}
	s.setPool(p)
	return p, nil
}
