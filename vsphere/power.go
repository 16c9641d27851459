package vsphere

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/poolready/poolready/pool"
)

// powerProps say whether a VM runs and since when.
var powerProps = []string{"runtime.powerState", "runtime.bootTime"}

// PowerOn implements pool.Provider.
func (p *Provider) PowerOn(ctx context.Context, id string) error {
	vm := vmRef(id)

	// What tools and addresses say must be told from what they said before this power on, so
	// the state before it has to be known.
	off := false
	p.watcher.state(vm, func(s *vmState) { off = s.off })
	if !off {
		power, err := p.readPower(ctx, vm)
		if err != nil {
			return p.errorf(err, "power on %s", p.label(id))
		}
		if power == types.VirtualMachinePowerStatePoweredOn {
			return nil
		}
		off = power == types.VirtualMachinePowerStatePoweredOff // and not suspended
	}
	if off {
		p.watcher.state(vm, (*vmState).poweringOn)
	}
	_, err := p.perform(ctx, operation{
		name: "power on", object: p.label(id), entity: vm,
		submit: func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
			res, err := methods.PowerOnVM_Task(ctx, c, &types.PowerOnVM_Task{This: vm})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		},
		look: func(ctx context.Context) (bool, types.AnyType, error) {
			power, err := p.readPower(ctx, vm)
			return power == types.VirtualMachinePowerStatePoweredOn, nil, err
		},
		accept: func(_ context.Context, err error, lost bool) (bool, types.AnyType, error) {
			f, ok := fault[*types.InvalidPowerState](err)
			ok = ok && f.ExistingState == types.VirtualMachinePowerStatePoweredOn
			if ok && !lost { // it ran already, so it did not boot now
				p.watcher.state(vm, func(s *vmState) { s.ours = false })
			}
			return ok, nil, nil
		},
		watch: []types.ManagedObjectReference{vm},
	})
	return err
}

// readPower reads whether the VM runs.
func (p *Provider) readPower(ctx context.Context, vm types.ManagedObjectReference) (types.VirtualMachinePowerState, error) {
	read, err := p.readVM(ctx, vm, powerProps...)
	if err != nil {
		return "", err
	}
	p.heard(read)
	return read.Runtime.PowerState, nil
}

// heard tells the watcher of a reading.
func (p *Provider) heard(vm mo.VirtualMachine) {
	var boot time.Time
	if vm.Runtime.BootTime != nil {
		boot = *vm.Runtime.BootTime
	}
	p.watcher.state(vm.Self, func(s *vmState) { s.heard(vm.Runtime.PowerState, boot) })
}

// ShutDown implements pool.Provider.
func (p *Provider) ShutDown(ctx context.Context, id string, grace time.Duration) (forced bool, err error) {
	vm := vmRef(id)
	if grace > 0 {
		why, err := p.shutDownGuest(ctx, vm, grace)
		if err != nil {
			return false, p.errorf(err, "shut down %s", p.label(id))
		}
		if why == "" {
			return false, nil
		}
		pool.Notice(ctx, "%s: cutting the power: %s", p.label(id), why)
	}
	return p.powerOff(ctx, id)
}

// errNoTools is why a guest cannot be asked to shut down.
var errNoTools = errors.New("its guest tools do not run")

// maxAsks is how often a guest is asked to shut down whose answer was lost.
const maxAsks = 3

// shutDownGuest asks the guest to shut down and waits up to grace, first for its tools and then for
// the power to be off. why is "" if it is, and else says why the power is still on.
func (p *Provider) shutDownGuest(ctx context.Context, vm types.ManagedObjectReference, grace time.Duration) (why string, err error) {
	inTime, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	b := backoff{limit: grace}
	late := func(format string) (string, error) {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return fmt.Sprintf(format, brief(grace)), nil
	}
	var asked time.Time
	for asks := 1; ; asks++ {
		asked = time.Now()
		err := p.s.do(inTime, func(c *conn) error {
			_, err := methods.ShutdownGuest(inTime, c, &types.ShutdownGuest{This: vm})
			return err
		})
		if err == nil {
			break
		}
		if f, ok := fault[*types.InvalidPowerState](err); ok {
			if f.ExistingState == types.VirtualMachinePowerStatePoweredOff {
				return "", nil
			}
			return "it is " + string(f.ExistingState), nil
		}
		switch c := classify(err); {
		case inTime.Err() != nil:
			return late("it could not be asked to shut down within %s")
		case has[*types.NotSupported](err):
			return "its guest cannot be asked to shut down", nil
		case has[*types.ToolsUnavailable](err):
			// After a power on or a reboot they take a while to start.
			off, err := p.awaitTools(inTime, vm)
			switch {
			case off:
				return "", nil
			case inTime.Err() != nil:
				return late("its guest tools did not run within %s")
			case err != nil:
				return "", err
			case !b.wait(inTime, errNoTools):
				return late("its guest tools did not run within %s")
			}
		case c == unknown && asks < maxAsks, c == busy, c == again: // asking twice does no harm
			if !b.wait(inTime, err) {
				return late("it could not be asked to shut down within %s")
			}
		case c == unknown:
			return fmt.Sprintf("it could not be asked to shut down: %v", explain(err, p.nameOf)), nil
		default:
			return "", err
		}
	}
	believed := types.VirtualMachinePowerState("")
	p.watcher.state(vm, func(s *vmState) { believed = s.power })
	if believed != types.VirtualMachinePowerStatePoweredOn {
		p.watcher.mistrust(vm) // for it was on just now
	}
	err = p.watcher.watchOf(inTime, "shut down", asked, vm, func(s *vmState) bool { return s.power == types.VirtualMachinePowerStatePoweredOff })
	switch {
	case err == nil:
		return "", nil
	case inTime.Err() != nil:
		return late("its guest, asked to shut down, was still on after %s")
	case errors.Is(err, errVanished):
		return "", refuse("it no longer exists")
	}
	return "", err
}

// awaitTools waits until the guest tools run, or the power is off.
func (p *Provider) awaitTools(ctx context.Context, vm types.ManagedObjectReference) (off bool, err error) {
	p.watcher.mistrust(vm) // for they do not run now
	err = p.watcher.watch(ctx, vm, func(s *vmState) bool {
		off = s.power == types.VirtualMachinePowerStatePoweredOff
		return off || s.toolsRunning()
	})
	if errors.Is(err, errVanished) {
		err = refuse("it no longer exists")
	}
	return off && err == nil, err
}

// powerOff cuts the power. forced is false if it was off already.
func (p *Provider) powerOff(ctx context.Context, id string) (forced bool, err error) {
	vm := vmRef(id)
	forced = true
	_, err = p.perform(ctx, operation{
		name: "power off", object: p.label(id), entity: vm,
		submit: func(ctx context.Context, c *conn) (types.ManagedObjectReference, error) {
			res, err := methods.PowerOffVM_Task(ctx, c, &types.PowerOffVM_Task{This: vm})
			if err != nil {
				return types.ManagedObjectReference{}, err
			}
			return res.Returnval, nil
		},
		look: func(ctx context.Context) (bool, types.AnyType, error) {
			power, err := p.readPower(ctx, vm)
			return power == types.VirtualMachinePowerStatePoweredOff, nil, err
		},
		accept: func(_ context.Context, err error, lost bool) (bool, types.AnyType, error) {
			f, ok := fault[*types.InvalidPowerState](err)
			if !ok || f.ExistingState != types.VirtualMachinePowerStatePoweredOff {
				return false, nil, nil
			}
			forced = lost
			return true, nil, nil
		},
	})
	if err != nil {
		return false, err
	}
	p.watcher.state(vm, func(s *vmState) { s.off = true })
	return forced, nil
}

// Address implements pool.Provider. The MAC "" stands for that of the VM's first NIC. An address
// is at most a second old. For as long as guest tools run again but have not reported yet, up to 30
// s, vCenter has only the address of the boot before: ask again before each attempt to connect, and
// let the host key prove whose it is. When ctx ends first, the error says how far the guest had
// come.
func (p *Provider) Address(ctx context.Context, id, mac string, except netip.Addr, subnets ...netip.Prefix) (netip.Addr, error) {
	vm := vmRef(id)
	want := normalMAC(mac)
	if want == "" {
		var err error
		if want, err = p.firstMAC(ctx, vm); err != nil {
			return netip.Addr{}, p.errorf(err, "address of %s", p.label(id))
		}
	}
	addr, err := p.address(ctx, vm, want, except, subnets)
	if errors.Is(err, errVanished) {
		err = refuse("%s does not exist", p.label(id))
	} else if err != nil && !errors.As(err, new(*twinError)) {
		var so string
		p.watcher.state(vm, func(s *vmState) { so = s.describe() })
		err = fmt.Errorf("%w; last seen: %s", err, so)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = p.blame(ctx, id, true, err)
		}
	}
	return addr, p.errorf(err, "address of %s on the NIC %s", p.label(id), want)
}

// address waits for an address that no other running VM reports. For a while it may be one of before
// that another VM has got since.
func (p *Provider) address(ctx context.Context, vm types.ManagedObjectReference, mac string, except netip.Addr, subnets []netip.Prefix) (addr netip.Addr, err error) {
	var since time.Time // another VM has it
	for {
		there := func(s *vmState) (ok bool) {
			addr, ok = s.address(mac, subnets...)
			return ok && addr != except
		}
		var booted time.Time // by us, just now
		p.watcher.state(vm, func(s *vmState) {
			if s.ours && !except.IsValid() && since.IsZero() {
				booted = s.at
			}
		})
		var err error
		if booted.IsZero() {
			err = p.watcher.watch(ctx, vm, there)
		} else {
			err = p.watcher.watchOf(ctx, "address", booted, vm, there)
		}
		if err != nil {
			return netip.Addr{}, err
		}
		other, err := p.twin(ctx, vm, mac, addr)
		if err != nil || other == nil {
			return addr, err
		}
		twins := &twinError{addr, *other}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) >= p.intervals.twins {
			return netip.Addr{}, twins
		}
		if !sleep(ctx, p.intervals.near) {
			return netip.Addr{}, fmt.Errorf("%w; %w", context.Cause(ctx), twins)
		}
	}
}

// firstMAC returns the MAC of the VM's first NIC.
func (p *Provider) firstMAC(ctx context.Context, vm types.ManagedObjectReference) (string, error) {
	var mac string
	p.watcher.state(vm, func(s *vmState) { mac = s.firstMAC })
	if mac != "" {
		return mac, nil
	}
	read, err := p.readVM(ctx, vm, "config.hardware.device")
	if err != nil {
		return "", err
	}
	macs := macsOf(read)
	if len(macs) == 0 {
		return "", refuse("the VM has no NIC")
	}
	p.watcher.state(vm, func(s *vmState) { s.firstMAC = macs[0] })
	return macs[0], nil
}

// macsOf returns the MACs of the VM's NICs in device order.
func macsOf(vm mo.VirtualMachine) (macs []string) {
	if vm.Config == nil {
		return nil
	}
	for _, dev := range vm.Config.Hardware.Device {
		if nic, ok := dev.(types.BaseVirtualEthernetCard); ok {
			macs = append(macs, normalMAC(nic.GetVirtualEthernetCard().MacAddress))
		}
	}
	return macs
}
