package pooltest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/poolready/poolready/pool"
	"github.com/poolready/poolready/pool/internal/wait"
	"github.com/poolready/poolready/sshx/sshtest"
)

// errClosed is what a Provider answers that is closed.
var errClosed = errors.New("the provider is closed")

// A guest is the machine that runs on a VM, from power on to power off. Its fields are guarded by
// Provider.mu.
type guest struct {
	host    *sshtest.Host
	life    context.Context // ends when the power goes
	kill    context.CancelFunc
	work    sync.WaitGroup
	dead    bool
	up      bool                  // booted, and on the network
	reverts int                   // of the VM when it got its addresses
	addrs   map[string]netip.Addr // by MAC
}

// newGuest returns a guest on the VM's disk; with p.mu held.
func (p *Provider) newGuest(v *vm) *guest {
	g := &guest{host: sshtest.NewHost(v.disk), reverts: v.reverts, addrs: map[string]netip.Addr{}}
	g.life, g.kill = context.WithCancel(p.life)
	g.host.Commands = p.Commands
	name := v.name
	g.host.OnNotSimulated = func(r sshtest.Refusal) {
		if p.t != nil {
			p.t.Errorf("%s: %v; simulate it with Provider.Commands", name, &r)
		}
	}
	g.host.OnReboot = func() {
		p.goGuest(g, func() {
			p.mu.Lock()
			g.up = false
			p.mu.Unlock()
			g.host.Halt()
			p.boot(v, g)
		})
	}
	g.host.OnPowerOff = func() {
		p.goGuest(g, func() {
			g.host.Halt() // in order: connections are closed, not cut
			p.mu.Lock()
			defer p.mu.Unlock()
			g.dead, g.up = true, false
			g.kill()
			if v.guest == g {
				v.guest, v.on, v.fresh = nil, false, false
			}
			p.broadcast()
		})
	}
	v.guest = g
	return g
}

// goGuest runs f as long as the guest lives, at most.
func (p *Provider) goGuest(g *guest, f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !g.dead && !p.closed {
		g.work.Go(f)
	}
}

// boot boots the machine, and has its tools report afterwards.
func (p *Provider) boot(v *vm, g *guest) {
	if wait.Sleep(g.life, p.Boot) != nil {
		return
	}
	p.mu.Lock()
	g.reverts = v.reverts
	nics := slices.Clone(v.nics)
	p.mu.Unlock()
	g.host.Boot()
	for i, n := range nics {
		g.host.ShowNIC(fmt.Sprint("eth", i), n.mac)
	}
	p.tend(v, g)
}

// tend puts a machine that runs on the network, and has its tools report.
func (p *Provider) tend(v *vm, g *guest) {
	p.mu.Lock()
	for _, n := range v.nics {
		g.addrs[n.mac] = p.lease(n.mac, g.reverts)
	}
	g.up = !g.dead
	p.broadcast()
	p.mu.Unlock()
	if wait.Sleep(g.life, p.Boot) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !g.dead {
		p.report(v)
		p.broadcast()
	}
}

// report is what the tools of a VM that runs say; with p.mu held.
func (p *Provider) report(v *vm) {
	if !v.guest.up {
		return
	}
	v.fresh = true
	v.reported = map[string][]netip.Addr{}
	for _, n := range v.nics {
		if a, ok := v.guest.addrs[n.mac]; ok && n.state.Connected {
			v.reported[n.mac] = []netip.Addr{a}
		}
	}
}

// lease returns the address of a NIC: the same one until the VM is reverted, as the DHCP server may
// have given it to somebody else by then; with p.mu held.
func (p *Provider) lease(mac string, reverts int) netip.Addr {
	key := fmt.Sprint(mac, " ", reverts)
	a, ok := p.leases[key]
	if !ok {
		n := len(p.leases) + 10
		a = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		p.leases[key] = a
	}
	return a
}

// resume has the guest of a snapshot go on; with p.mu held.
func (p *Provider) resume(v *vm, s snapshot) error {
	g := p.newGuest(v)
	g.reverts = s.reverts
	if err := g.host.Resume(s.memory); err != nil {
		return err
	}
	if !p.closed {
		g.work.Go(func() { p.tend(v, g) })
	}
	return nil
}

// PowerOn implements [pool.Provider].
func (p *Provider) PowerOn(ctx context.Context, id string) error {
	return p.onVM(ctx, "PowerOn", id, func(v *vm) error {
		if v.on {
			return nil
		}
		if p.closed {
			return errClosed
		}
		v.on, v.fresh, v.bootedAt = true, false, time.Now()
		for i := range v.nics {
			v.nics[i].state.Connected = v.nics[i].state.AtPowerOn
		}
		g := p.newGuest(v)
		g.work.Go(func() { p.boot(v, g) })
		return nil
	})
}

// cutPower turns a VM off as pulling the plug does. When it returns nothing of the guest runs.
func (p *Provider) cutPower(v *vm) {
	p.mu.Lock()
	g := v.guest
	v.guest, v.on, v.fresh = nil, false, false
	if g != nil {
		g.dead, g.up = true, false
		g.kill()
		p.net.cut(g, "")
	}
	p.broadcast()
	p.mu.Unlock()
	if g != nil {
		g.work.Wait()
		g.host.Halt()
	}
}

// ShutDown implements [pool.Provider].
func (p *Provider) ShutDown(ctx context.Context, id string, grace time.Duration) (bool, error) {
	name := p.nameOf(id)
	forced, err := p.shutDown(ctx, id, grace)
	return forced, p.record("ShutDown", name, err)
}

func (p *Provider) shutDown(ctx context.Context, id string, grace time.Duration) (forced bool, err error) {
	v, done, err := p.vm(ctx, id)
	if err != nil {
		return false, err
	}
	defer done()
	p.mu.Lock()
	on := v.on
	p.mu.Unlock()
	if !on {
		return false, nil
	}
	if err := p.begin(ctx); err != nil {
		return false, err
	}
	forced = grace <= 0
	if !forced {
		waited, stop := context.WithTimeout(ctx, grace)
		defer stop()
		asked := false
		err := p.until(waited, func() (bool, error) { // tools are there; then the guest obeys
			if g := v.guest; g != nil && g.up && v.fresh && !asked {
				asked = true
				g.host.PowerOff()
			}
			return !v.on, nil
		})
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if forced = err != nil; forced {
			pool.Notice(ctx, "%s did not shut down within %s; its power is cut", v.name, grace)
		}
	}
	if forced {
		if err := pool.CheckLease(ctx); err != nil {
			return false, err
		}
	}
	p.cutPower(v)
	return forced, nil
}

// until waits until f, called with p.mu held at every change, is true or fails, or ctx ends.
func (p *Provider) until(ctx context.Context, f func() (bool, error)) error {
	for {
		p.mu.Lock()
		ok, err := f()
		changed := p.changed
		p.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-p.life.Done():
			return errClosed
		}
	}
}

// Address implements [pool.Provider].
func (p *Provider) Address(ctx context.Context, id, mac string, except netip.Addr, subnets ...netip.Prefix) (netip.Addr, error) {
	name := p.nameOf(id)
	var addr netip.Addr
	var taken error // why the address that it has does not count
	err := context.Cause(ctx)
	if err == nil {
		err = p.until(ctx, func() (bool, error) {
			addr, taken = netip.Addr{}, nil
			v := p.vms[id]
			if v == nil {
				return false, errGone
			}
			i := v.nic(mac)
			if !v.on || !v.fresh || i < 0 {
				return false, nil
			}
			for _, a := range v.reported[v.nics[i].mac] {
				if len(subnets) == 0 || slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(a) }) {
					addr = a
				}
			}
			if other := p.twin(v, v.nics[i], addr); other != nil {
				addr, taken = netip.Addr{}, fmt.Errorf("the address %s is reported by VM %s, too, which is powered on", addr, other.path())
			}
			return addr.IsValid() && addr != except, nil
		})
	}
	if err != nil && taken != nil {
		err = fmt.Errorf("%w: %w", taken, err)
	}
	return addr, p.record("Address", name, err)
}

// twin returns another running VM on the NIC's network that reports the address, or nil; with p.mu held.
func (p *Provider) twin(v *vm, of nic, addr netip.Addr) *vm {
	for _, o := range p.vms {
		if o == v || !o.on || !o.fresh {
			continue
		}
		for _, n := range o.nics {
			if n.network == of.network && slices.Contains(o.reported[n.mac], addr) {
				return o
			}
		}
	}
	return nil
}
