package pool

import (
	"context"
	"errors"
	"fmt"
)

// Look calls f for the hosts of the set that are ready and on, one after the other, for a person
// who wants to look at them: it takes no lease, so a host may be in use, or kept, and f must change
// nothing on it. Hosts end with f. Errors are joined; a host that is not ready, or off, is one.
func Look(ctx context.Context, spec Spec, f func(ctx context.Context, h *Host) error) error {
	if err := spec.validate(); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	s := spec.withDefaults()
	work, _, _, err := plan(ctx, s)
	if err != nil {
		return fmt.Errorf("pool: look at set %q: %w", s.Name, err)
	}
	var errs []error
	for _, n := range s.numbers() {
		for _, h := range work.poolHosts(n) {
			if !h.ready() || !h.info.On {
				errs = append(errs, fmt.Errorf("%s: %w", h.VM, h.unfit()))
				continue
			}
			host := h.host(s)
			if err := host.probe(ctx); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", h.VM, err))
			} else {
				errs = append(errs, protect(func() error { return f(ctx, host) }))
			}
			host.drop()
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pool: look at set %q: %w", s.Name, err)
	}
	return nil
}
