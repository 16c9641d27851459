package lease

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// What is different of leases under a claim, which are not renewed.

// underClaim is how long a lease under a claim lasts for versions that do not know of such.
const underClaim = 24 * time.Hour

// expires is when the lease does that is written at a moment of the ledger's clock.
func (x *Held) expires(now time.Time) time.Time {
	if x.under != nil {
		return now.Add(underClaim)
	}
	return now.Add(x.l.Term)
}

// lease is what is written of a new lease.
func (x *Held) lease(now time.Time, purpose string) *Lease {
	l := &Lease{Holder: x.l.By, Purpose: purpose, Token: x.token, AcquiredAt: now, ExpiresAt: x.expires(now), Process: x.l.self}
	if x.under != nil {
		l.Process, l.Claim = nil, x.under.token
	}
	return l
}

// keep lets a lease that was taken last.
func (x *Held) keep() {
	if x.under == nil {
		go x.renew()
		return
	}
	close(x.gone)
	context.AfterFunc(x.under.ctx, func() { x.end(context.Cause(x.under.ctx)) })
	x.under.mu.Lock()
	defer x.under.mu.Unlock()
	x.under.below = append(x.under.below, x)
}

// lookAfter confirms the leases under the claim.
func (x *Held) lookAfter(ctx context.Context) error {
	x.mu.Lock()
	x.below = slices.DeleteFunc(x.below, func(y *Held) bool { return y.ctx.Err() != nil })
	all := slices.Clone(x.below)
	x.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	return x.l.confirm(ctx, all)
}

// mayRestore reports whether a shard that was lost may be written again: no other process can have had it.
func (x *Held) mayRestore() bool {
	if x.under == nil {
		return !x.late()
	}
	x.mu.Lock()
	ends := x.ends
	x.mu.Unlock()
	now := time.Now()
	return x.under.ctx.Err() == nil && !x.under.late() && now.Before(ends) && now.Round(0).Before(ends.Round(0))
}

// seen notes that a reading shows the lease, if it is under a claim.
func (x *Held) seen(s *Snapshot) {
	if x.under == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seenLocked(s)
}

func (x *Held) seenLocked(s *Snapshot) { x.ends = s.Asked.Add(x.l.Term - s.Slack - x.l.Term/10) }

// underClaim is a lease as its claim has it expire, if it is under one: which was read at another moment, so
// that only endClaim proves that the lease is over.
func (s *Snapshot) underClaim(l *Lease) *Lease {
	if l == nil || l.Claim == "" {
		return l
	}
	c, there, _ := s.claim()
	expires := c.Until // the claim was lost until then
	if h := c.Holder(s.Now); h != nil && h.Token == l.Claim {
		expires = h.ExpiresAt
	} else if !there {
		expires = s.Now.Add(s.l.Term)
	}
	return l.renewed(expires, "")
}

// endClaim makes sure, before the lease on e is taken away as it is under a claim that is over, that it is:
// the claim that was read with e was read at another moment, and its holder may renew it meanwhile. It is
// read now, and if it had expired, ended by a write, after which no process can renew it. The error is a
// *BusyError if it is in force.
func (l *Ledger) endClaim(ctx context.Context, pool int, e Entry) error {
	if e.Lease == nil || e.Lease.Claim == "" {
		return nil
	}
	var busy error
	err := l.change(ctx, claimShard, nil, func(s *Snapshot) (map[string]string, error) {
		busy = nil
		c, there, err := s.claim()
		if err != nil {
			return nil, err
		}
		h := c.Holder(s.Now)
		alive := e.Lease.renewed(c.Until, "")
		if h != nil {
			alive.ExpiresAt = h.ExpiresAt
		}
		switch {
		case !there:
			c = claim{Until: s.Now.Add(l.Term)}
			busy = &BusyError{Pool: pool, State: Recovering, Why: c.why(s.Now)}
		case s.Now.Before(c.Until), h != nil && h.Token == e.Lease.Claim:
			return nil, &BusyError{Pool: pool, State: e.Stored, Lease: alive, Why: "held under the claim to build, which is " + c.why(s.Now)}
		case c.Lease == nil && c.Until.IsZero(), c.Lease != nil && c.Lease.Token != e.Lease.Claim:
			return nil, nil // another one came after it, or it was released
		default:
			c.Lease, c.Until = nil, time.Time{}
			c.Covers, c.Unmade = nil, c.Unmade.with(c.Covers)
		}
		text, err := c.text()
		return map[string]string{entryKey: text}, err
	})
	return cmp.Or(err, busy)
}
