package lease

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Ticket is a process's place in the queue for pools. There is one for each process that waits,
// however many of its tests do: with each pool that it gets it goes to the end of the queue. So
// tests are served in the order in which they came within a process, and processes take turns.
//
// Tickets lie in shards of a few, so that waiters do not hinder each other, and expire, like
// leases, when they are not renewed.
type Ticket struct {
	Holder    string    `json:"holder"`
	Purpose   string    `json:"purpose"`
	Pools     []int     `json:"pools"` // usable: any of them
	At        time.Time `json:"at"`
	ExpiresAt time.Time `json:"expiresAt"`
	Process   *Process  `json:"process,omitempty"`

	token string
}

const (
	ticketPrefix = "ticket."
	ticketsEach  = 8 // in one shard
)

func decodeTickets(s Shard) map[string]Ticket {
	all := map[string]Ticket{}
	for k, v := range s.Values {
		token, ok := strings.CutPrefix(k, ticketPrefix)
		var t Ticket
		if ok && json.Unmarshal([]byte(v), &t) == nil { // else its writer loses its place, no more
			t.token = token
			all[token] = t
		}
	}
	return all
}

// inForce reports whether a ticket counts.
func (s *Snapshot) inForce(t Ticket) bool {
	return s.Now.Before(t.ExpiresAt) && !s.l.ended(t.Process)
}

// Queue returns the tickets in force, in the order in which they are served.
func (s *Snapshot) Queue() []Ticket {
	var all []Ticket
	for name, shard := range s.Shards {
		if !strings.HasPrefix(name, queuePrefix) {
			continue
		}
		for _, t := range decodeTickets(shard) {
			if s.inForce(t) {
				all = append(all, t)
			}
		}
	}
	slices.SortFunc(all, func(a, b Ticket) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.token, b.token)) })
	return all
}

// A Waiter is a ticket of this process.
type Waiter struct {
	l       *Ledger
	t       Ticket
	shard   string // where it lies; "" when it does not
	renewed time.Time
	pools   []int // as written
}

// Wait returns a Waiter for any of some pools, which has no place in the queue yet.
func (l *Ledger) Wait(purpose string, pools []int) *Waiter {
	return &Waiter{l: l, t: Ticket{Holder: Shorten(l.By), Purpose: Shorten(purpose), Pools: pools, Process: l.self, token: newToken()}}
}

// Choose returns the pool, of those that are free, that this waiter may take: the waiters before it
// choose before, and so do all if it has no place yet. free is in the order of preference; 0 means
// that none is left.
func (w *Waiter) Choose(s *Snapshot, free, pools []int) int {
	return choose(free, s.Queue(), w.t.token, pools)
}

func choose(free []int, queue []Ticket, token string, pools []int) int {
	free = slices.Clone(free)
	pick := func(from []int) int {
		i := slices.IndexFunc(free, func(n int) bool { return slices.Contains(from, n) })
		if i < 0 {
			return 0
		}
		n := free[i]
		free = slices.Delete(free, i, i+1)
		return n
	}
	for _, t := range queue {
		if t.token == token {
			break
		}
		pick(t.Pools)
	}
	return pick(pools)
}

// Keep puts the ticket in the queue, or renews it when a third of its time is over or other pools
// are usable. s is a reading of the whole ledger, or nil.
func (w *Waiter) Keep(ctx context.Context, s *Snapshot, pools []int) error {
	if s == nil {
		var err error
		if s, err = w.l.Read(ctx); err != nil {
			return err
		}
	}
	w.t.Pools = pools
	if w.shard != "" && s.Now.Before(w.renewed.Add(w.l.Term/3)) && slices.Equal(pools, w.pools) {
		return nil
	}
	if w.shard == "" {
		w.shard = s.roomyShard()
	}
	return w.l.change(ctx, w.shard, nil, func(s *Snapshot) (map[string]string, error) {
		values := map[string]string{}
		for token, old := range decodeTickets(s.Shards[w.shard]) {
			if !s.inForce(old) {
				values[ticketPrefix+token] = ""
			}
		}
		if w.t.At.IsZero() {
			w.t.At = s.Now
		}
		w.t.ExpiresAt, w.renewed, w.pools = s.Now.Add(w.l.Term), s.Now, pools
		text, err := json.Marshal(w.t)
		if err == nil && len(text) > entryLimit {
			err = fmt.Errorf("a ticket for %d pools does not fit in the ledger", len(pools))
		}
		values[ticketPrefix+w.t.token] = string(text)
		return values, err
	})
}

// roomyShard is the first shard of the queue in which there is room.
func (s *Snapshot) roomyShard() string {
	for i := 1; ; i++ {
		name := queuePrefix + strconv.Itoa(i)
		live := 0
		for _, t := range decodeTickets(s.Shards[name]) {
			if s.inForce(t) {
				live++
			}
		}
		if live < ticketsEach {
			return name
		}
	}
}

// Leave takes the ticket out of the queue, also when ctx has ended; if that fails, it expires.
func (w *Waiter) Leave(ctx context.Context) {
	if w.shard == "" {
		return
	}
	ctx, cancel := Afterwards(ctx)
	defer cancel()
	err := w.l.change(ctx, w.shard, nil, func(s *Snapshot) (map[string]string, error) {
		if _, ok := s.Shards[w.shard].Values[ticketPrefix+w.t.token]; !ok {
			return nil, nil
		}
		return map[string]string{ticketPrefix + w.t.token: ""}, nil
	})
	if err == nil {
		w.shard = ""
	}
}

// A process that keeps a pool first notes so in a shard of its own, by which two that end at once are told
// apart: under the pool's number, the token of the lease under which it is kept.
const keptPrefix = poolPrefix

// MayKeep reports whether the pool that x holds may be kept, if no more than most may be at a time,
// and notes that it will be. kept is how many there are if not.
func (x *Held) MayKeep(ctx context.Context, most int) (may bool, kept int, now time.Time, err error) {
	mine := keptPrefix + strconv.Itoa(x.Pool)
	err = x.l.change(ctx, keptShard, nil, func(s *Snapshot) (map[string]string, error) {
		all, err := x.l.Read(ctx)
		if err != nil {
			return nil, err
		}
		kept, now = 0, all.Now
		for key, token := range s.Shards[keptShard].Values {
			n, err := strconv.Atoi(strings.TrimPrefix(key, keptPrefix))
			if err != nil || key == mine {
				continue
			}
			e, there, err := all.stored(n)
			if err != nil || !there {
				continue
			}
			// Or its holder died before it wrote so.
			willBe := e.Lease != nil && e.Lease.Token == token
			if e.State(all.Now) == Kept || willBe {
				kept++
			}
		}
		if may = kept < most; may {
			return map[string]string{mine: x.token}, nil
		}
		return nil, nil
	})
	return may, kept, now, err
}

// Free makes a pool usable that is kept or quarantined, or whose holder was a process of this
// machine that has ended, or had it under a claim that is over: its lease is returned. A pool that somebody
// holds is not taken away: the error is a *BusyError. A pool that has no entry is left alone.
func (l *Ledger) Free(ctx context.Context, pool int) (gone *Lease, err error) {
	err = l.change(ctx, poolShard(pool), nil, func(s *Snapshot) (map[string]string, error) {
		e, there, err := s.pool(pool)
		if err != nil {
			return nil, err
		}
		gone = nil
		state := e.State(s.Now)
		_, claimed := s.Shards[claimShard]
		if h := e.Holder(s.Now); h != nil && (claimed || h.Claim == "") {
			return nil, &BusyError{pool, state, h, e.Why(s.Now)}
		}
		if !there || state == Recovering {
			return nil, nil // its last holder may still have it
		}
		if gone = e.Gone(s.Now); e.Lease != nil && e.Lease.Claim != "" {
			if err := l.endClaim(ctx, pool, e); err != nil {
				return nil, err
			}
			gone = e.Lease
		}
		if gone == nil && !state.Excluded() && e.Failures == 0 || state == Clean {
			return nil, nil // it is free
		}
		if err := Free().Apply(&e, s.Now); err != nil {
			return nil, err
		}
		text, err := e.text()
		return map[string]string{entryKey: text}, err
	})
	return gone, err
}

// Prolong keeps a pool that is kept already for another time. The error is a *BusyError if it is
// not kept.
func (l *Ledger) Prolong(ctx context.Context, pool int, reason string, d time.Duration) error {
	return l.change(ctx, poolShard(pool), nil, func(s *Snapshot) (map[string]string, error) {
		e, _, err := s.pool(pool)
		if err != nil {
			return nil, err
		}
		if state := e.State(s.Now); state != Kept {
			return nil, &BusyError{pool, state, e.Holder(s.Now), e.Why(s.Now)}
		}
		if err := Keep(reason, s.Now.Add(d), "").Apply(&e, s.Now); err != nil {
			return nil, err
		}
		text, err := e.text()
		return map[string]string{entryKey: text}, err
	})
}
