package pool

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/poolready/poolready/pool/internal/wait"
	"github.com/poolready/poolready/sshx"
)

// reach waits until the host has started: SSH accepts a login, and systemd, where there is one, has
// started all that it starts, as sshd lets root in long before. An address that is known, since the
// host had it before or its NIC.Subnet is a single address, is tried without waiting for the guest
// tools. What these report ends each pause, and each attempt elsewhere.
func (h *Host) reach(ctx context.Context, report func(string)) error {
	f := &finder{h: h, known: make(chan struct{}), moved: make(chan struct{}, 1)}
	h.mu.Lock()
	if keys := h.cfg.HostKeys; len(keys.Pinned) == 0 || keys.TrustOnFirstUse {
		h.addr = netip.Addr{} // another machine could not be told from this one
	} else if s := h.VM.subnets(); !h.addr.IsValid() && len(s) == 1 && s[0].IsSingleIP() {
		h.addr = s[0].Addr()
	}
	h.mu.Unlock()

	asked, stop := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { f.follow(asked) })
	defer following.Wait()
	defer stop()
	if !h.Addr().IsValid() {
		report("waiting for its address")
		if _, err := f.find(ctx); err != nil {
			if ctx.Err() != nil {
				following.Wait()
				err = cmp.Or(f.why(), err) // it says how far the guest had come
			}
			return err
		}
	}
	report("waiting for SSH")
	_, err := h.connect(ctx, sshx.Ready{
		Address: f.find, Moved: f.moved, SystemState: true,
		Report: func(state string) { report("SSH: " + state) },
	}, f)
	if err != nil && ctx.Err() != nil {
		following.Wait() // with ctx, it has ended or will soon
		if why := f.why(); why != nil {
			err = fmt.Errorf("%w; %w", err, why)
		}
	}
	return err
}

// A finder finds where a host is that was powered on or resumed.
type finder struct {
	h     *Host
	moved chan struct{} // has a value when the guest tools have reported an address

	mu       sync.Mutex    // guards what follows
	reported bool          // the guest tools have reported the host's address
	err      error         // why they do not, or nil
	known    chan struct{} // closed when they have, or err is set
}

// follow notes each address that the guest tools report, until ctx ends.
func (f *finder) follow(ctx context.Context) {
	h := f.h
	for last := (netip.Addr{}); ; {
		addr, err := h.provider.Address(ctx, h.id, h.VM.mac(), last, h.VM.subnets()...)
		f.mu.Lock()
		before := h.Addr().IsValid()
		if f.err = err; err == nil {
			f.reported, last = true, addr
			h.setAddr(addr)
		}
		select {
		case <-f.known:
		default:
			close(f.known)
		}
		f.mu.Unlock()
		if err != nil {
			if wait.Sleep(ctx, lastPoll) != nil {
				return
			}
			continue
		}
		if before {
			select {
			case f.moved <- struct{}{}:
			default:
			}
		}
	}
}

// find returns the address to try next, and waits for one if none is known.
func (f *finder) find(ctx context.Context) (string, error) {
	if addr := f.h.Addr(); addr.IsValid() {
		return addr.String(), nil
	}
	select {
	case <-f.known:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.reported {
		return "", f.err
	}
	return f.h.Addr().String(), nil
}

// wrong notes that another machine is at the host's address. If the guest tools have not reported
// that one, it is tried no more, and wrong returns true.
func (f *finder) wrong() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reported {
		return false
	}
	f.h.setAddr(netip.Addr{})
	return true
}

// guessed reports whether the guest tools have not reported the host's address.
func (f *finder) guessed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.reported
}

// why says why the guest tools do not report an address, or is nil.
func (f *finder) why() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reported {
		return nil
	}
	return f.err
}

// poll calls f until it succeeds or ctx ends, and then returns the last error that f had before.
func poll(ctx context.Context, f func(context.Context) error) error {
	var last error
	for wait := 100 * time.Millisecond; ; wait = min(wait*3/2, time.Second) {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // else it only says that time is over
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: last answer: %w", context.Cause(ctx), last)
		case <-time.After(wait):
		}
	}
}
