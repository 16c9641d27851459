package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A newborn pool is one that nobody has held since its first VM was made. It has no shard of its
// own: making one takes a write for each pool, and they would be most of what a build asks of the
// ledger. Its entry lies in the shard of who builds, under poolKey, where it is written together
// with the claim. Its first holder writes its lease there, by which no second one can do the same,
// then makes the pool's shard; after that the entry there says no more than that.
func poolKey(n int) string { return poolKeyPrefix + strconv.Itoa(n) }

const poolKeyPrefix = "pool."

// newborn returns the entry of a newborn pool; errMissing says that it is none.
func (b books) newborn(n int) (entry, error) {
	build := b.Shards[buildShard]
	text := build.Values[poolKey(n)]
	if n == 0 || text == "" {
		return entry{}, errMissing
	}
	e, err := decodeEntry(text)
	if errors.Is(err, errDamaged) {
		return entry{}, fmt.Errorf("%w: %w", errMissing, err)
	}
	if err != nil {
		return entry{}, fmt.Errorf("%s: %w", poolShard(n), err)
	}
	if e.Lease != nil && e.holder(b.Now) == nil {
		return entry{}, errMissing // it was held, and its shard is lost, or was never made
	}
	if e.Building == "" {
		return e, nil
	}
	if claim, err := decodeEntry(build.Values[entryKey]); err == nil {
		if t := claim.holder(b.Now); t != nil && t.Token == e.Building {
			builder := *t
			builder.For = "being built"
			e.Lease = &builder
		}
	}
	return e, nil
}

// pools are the numbers of those that the ledger knows.
func (b books) pools() []int {
	var all []int
	for name := range b.Shards {
		if n := shardPool(name); n > 0 {
			all = append(all, n)
		}
	}
	for key := range b.Shards[buildShard].Values {
		rest, ok := strings.CutPrefix(key, poolKeyPrefix)
		if n, err := strconv.Atoi(rest); ok && err == nil && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

// bear makes x the first holder of a newborn pool, as far as the shard of who builds goes, and
// returns its entry.
func (l *ledger) bear(ctx context.Context, x *lease, what string) (*entry, error) {
	var born entry
	err := l.change(ctx, buildShard, nil, func(b books) (map[string]string, error) {
		e, err := b.newborn(shardPool(x.shard))
		if err != nil {
			return nil, err
		}
		if e.Lease != nil && e.Lease.Token == x.token {
			return nil, nil // the answer was lost
		}
		if e.busy(b.Now) != "" {
			return nil, e.busyError(b.Now)
		}
		e.Building = ""
		born = e
		e.Lease = x.tenure(b.Now, what)
		text, err := e.text()
		return map[string]string{poolKey(shardPool(x.shard)): text}, err
	})
	if err != nil {
		return nil, err
	}
	return &born, nil
}

// cover returns what is to be written in the shard of who builds, with the claim of that token, of
// the newborn pools among those that are to be built.
func (b *build) cover(now books, todo []int, token string) (map[string]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	values := map[string]string{}
	for _, n := range todo {
		if _, there := b.books.Shards[poolShard(n)]; there {
			continue
		}
		e, err := now.newborn(n)
		if err != nil && !errors.Is(err, errMissing) {
			return nil, err
		}
		if e.busy(now.Now) != "" || err != nil && !b.isNew(n) {
			continue // it is in use, or its shard is lost
		}
		text, err := entry{Building: token}.text()
		if err != nil {
			return nil, err
		}
		values[poolKey(n)] = text
	}
	return values, nil
}

// uncover returns what is to be written of the newborn pools when the claim of that token is given
// back. A pool that somebody holds since, because the claim was over, is theirs.
func (b *build) uncover(now books, token string) map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	values := map[string]string{}
	for n, ours := range b.covered {
		if !ours {
			continue
		}
		if old, err := decodeEntry(now.Shards[buildShard].Values[poolKey(n)]); err == nil && old.Building != token {
			continue
		}
		var e entry
		if f := b.after[n]; f != nil {
			f(now.Now, &e)
		}
		if text, err := e.text(); err == nil { // else it stays as one whose builder died
			values[poolKey(n)] = text
		}
	}
	return values
}
