package pool

import "golang.org/x/sync/errgroup"

// forAll calls f for all items, at most limit at once, and returns when every call has.
func forAll[E any](items []E, limit int, f func(E)) {
	var g errgroup.Group
	g.SetLimit(max(limit, 1))
	for _, e := range items {
		g.Go(func() error { f(e); return nil })
	}
	_ = g.Wait() // there are no errors
}
