package lease

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A claim is the lease of the process that builds the set, as it is written down.
type claim struct {
	Format int    `json:"poolready"`
	Lease  *Lease `json:"lease,omitempty"`
	// Covers are pools without a shard that are the holder's: they were never held.
	Covers numbers `json:"covers,omitempty"`
	// Unmade are pools that earlier claims covered and whose shards their holders have not made, as
	// far as this is known: one that has none was never held.
	Unmade numbers `json:"unmade,omitempty"`
	// Until is when the holder of a claim that was lost must have written it again.
	Until time.Time `json:"until,omitzero"`

	holderGone bool
}

// Holder returns the lease in force, or nil.
func (c *claim) Holder(now time.Time) *Lease {
	if c.Lease != nil && now.Before(c.Lease.ExpiresAt) && !c.holderGone {
		return c.Lease
	}
	return nil
}

// neverHeld reports whether a claim covered a pool and made no shard for it, as far as is known.
func (c *claim) neverHeld(n int) bool { return c.Covers.has(n) || c.Unmade.has(n) }

// why says in words why it cannot be taken, or returns "".
func (c *claim) why(now time.Time) string {
	if l := c.Holder(now); l != nil {
		return fmt.Sprintf("held by %s, until %s unless renewed", l, clock(l.ExpiresAt))
	}
	if now.Before(c.Until) {
		return fmt.Sprintf("%s until %s: the claim was lost, and its holder may still build", Recovering, clock(c.Until))
	}
	return ""
}

func (c claim) text() (string, error) {
	c.Format = format
	c.Lease = c.Lease.short()
	return encode(c)
}

// numbers are numbers of pools, in order. As JSON they are a text such as "1-3,7".
type numbers []int

func (n numbers) has(pool int) bool {
	_, ok := slices.BinarySearch(n, pool)
	return ok
}

func (n numbers) with(more []int) numbers {
	all := slices.Concat(n, more)
	slices.Sort(all)
	return slices.Compact(all)
}

func (n numbers) without(less []int) numbers {
	return slices.DeleteFunc(slices.Clone(n), func(pool int) bool { return slices.Contains(less, pool) })
}

// MarshalJSON implements json.Marshaler.
func (n numbers) MarshalJSON() ([]byte, error) {
	var words []string
	for i := 0; i < len(n); {
		j := i
		for j+1 < len(n) && n[j+1] == n[j]+1 {
			j++
		}
		word := strconv.Itoa(n[i])
		if j > i {
			word += "-" + strconv.Itoa(n[j])
		}
		words, i = append(words, word), j+1
	}
	return json.Marshal(strings.Join(words, ","))
}

// maxNumber bounds what is read, since what vCenter has may be anything.
const maxNumber = 100_000

// UnmarshalJSON implements json.Unmarshaler.
func (n *numbers) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	*n = nil
	for word := range strings.SplitSeq(text, ",") {
		first, last, _ := strings.Cut(word, "-")
		a, err := strconv.Atoi(first)
		b, err2 := strconv.Atoi(cmp.Or(last, first))
		if err != nil || err2 != nil || a < 1 || b < a || b > maxNumber || len(*n) > 0 && a <= (*n)[len(*n)-1] {
			return fmt.Errorf("%q are no numbers of pools", text)
		}
		for i := a; i <= b; i++ {
			*n = append(*n, i)
		}
	}
	return nil
}
