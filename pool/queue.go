package pool

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

// A ticket is a process's place in the line for a pool. There is one for each process that waits,
// however many of its tests do: with each pool that it gets it goes to the end of the line. So
// tests are served in the order they came within a process, and processes take turns.
//
// Tickets lie in shards of a few, so that those who wait do not hinder each other
// either, and are over, like leases, when they are not renewed.
type ticket struct {
	Owner string    `json:"owner"`
	For   string    `json:"for"`
	Pools []int     `json:"pools"` // that will do
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`

	token string
}

const (
	queuePrefix  = "queue-"
	ticketPrefix = "ticket."
	ticketsEach  = 8 // in one shard
)

func decodeTickets(s Shard) map[string]ticket {
	all := map[string]ticket{}
	for k, v := range s.Values {
		token, ok := strings.CutPrefix(k, ticketPrefix)
		var t ticket
		if ok && json.Unmarshal([]byte(v), &t) == nil { // else its writer loses its place, no more
			t.token = token
			all[token] = t
		}
	}
	return all
}

// line returns the tickets in force, in the order in which they are served.
func (b books) line() []ticket {
	var all []ticket
	for name, s := range b.Shards {
		if !strings.HasPrefix(name, queuePrefix) {
			continue
		}
		for _, t := range decodeTickets(s) {
			if b.Now.Before(t.Until) {
				all = append(all, t)
			}
		}
	}
	slices.SortFunc(all, func(a, b ticket) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.token, b.token)) })
	return all
}

// choose returns the pool, of those that are free, that is the turn of the ticket with that
// token, or of who has none and comes last: those who were there before choose before. free is in
// the order of preference; 0 means that none is left.
func choose(free []int, line []ticket, token string, pools []int) int {
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
	for _, t := range line {
		if t.token == token {
			break
		}
		pick(t.Pools)
	}
	return pick(pools)
}

// A place is our own ticket.
type place struct {
	l     *ledger
	t     ticket
	shard string // where it lies; "" when it does not
	held  time.Time
	pools []int // as written
}

func (l *ledger) place(what string, pools []int) *place {
	return &place{l: l, t: ticket{Owner: cut(l.by), For: cut(what), Pools: pools, token: newToken()}}
}

// join is keep with a reading of its own.
func (p *place) join(ctx context.Context) error {
	b, err := p.l.read(ctx)
	if err != nil {
		return err
	}
	return p.keep(ctx, b)
}

// keep puts the ticket in the line, or renews it when a third of its time is over or other pools
// will do.
func (p *place) keep(ctx context.Context, b books) error {
	if p.shard != "" && b.Now.Before(p.held.Add(p.l.term/3)) && slices.Equal(p.t.Pools, p.pools) {
		return nil
	}
	if p.shard == "" {
		p.shard = b.roomyShard()
	}
	err := p.l.change(ctx, p.shard, nil, func(b books) (map[string]string, error) {
		values := map[string]string{}
		for token, old := range decodeTickets(b.Shards[p.shard]) {
			if !b.Now.Before(old.Until) {
				values[ticketPrefix+token] = ""
			}
		}
		if p.t.At.IsZero() {
			p.t.At = b.Now
		}
		p.t.Until, p.held, p.pools = b.Now.Add(p.l.term), b.Now, p.t.Pools
		text, err := json.Marshal(p.t)
		if err == nil && len(text) > entryLimit {
			err = fmt.Errorf("a ticket for %d pools does not fit in the ledger", len(p.t.Pools))
		}
		values[ticketPrefix+p.t.token] = string(text)
		return values, err
	})
	return err
}

// roomyShard is the first shard of the line in which there is room.
func (b books) roomyShard() string {
	for i := 1; ; i++ {
		name := queuePrefix + strconv.Itoa(i)
		live := 0
		for _, t := range decodeTickets(b.Shards[name]) {
			if b.Now.Before(t.Until) {
				live++
			}
		}
		if live < ticketsEach {
			return name
		}
	}
}

// abandon is leave when ctx may have ended; if it fails, the ticket runs out.
func (p *place) abandon(ctx context.Context) {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	_ = p.leave(ctx)
}

// leave takes the ticket out of the line.
func (p *place) leave(ctx context.Context) error {
	if p.shard == "" {
		return nil
	}
	err := p.l.change(ctx, p.shard, nil, func(b books) (map[string]string, error) {
		if _, ok := b.Shards[p.shard].Values[ticketPrefix+p.t.token]; !ok {
			return nil, nil
		}
		return map[string]string{ticketPrefix + p.t.token: ""}, nil
	})
	if err == nil {
		p.shard = ""
	}
	return err
}
