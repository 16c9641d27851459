package vspheretest

import (
	"context"
	"time"
)

// Latency is how long a Server's operations take. Each field is the time of one operation that
// waits for no other; 0 takes none. The zero Latency, as a whole, stands for [Brisk].
type Latency struct {
	RPC            time.Duration // every SOAP call, before it is looked at
	FullClone      time.Duration // a clone that copies disks
	LinkedClone    time.Duration // a clone whose disks depend on a snapshot
	Create         time.Duration // a VM made from nothing
	PowerOn        time.Duration // until the task is done and the firmware starts
	Boot           time.Duration // from there until the guest answers on its network
	Tools          time.Duration // from there until vCenter sees the guest's tools run
	Address        time.Duration // from there until vCenter shows addresses
	GuestPoll      time.Duration // from a change in the running guest until vCenter shows it
	GuestShutdown  time.Duration // from ShutdownGuest until the guest begins to halt
	PowerOff       time.Duration
	Snapshot       time.Duration // without memory
	Memory         time.Duration // more for each GiB of RAM, with memory: it is written to the datastore
	RemoveSnapshot time.Duration
	Revert         time.Duration
	Resume         time.Duration // more for each GiB of RAM, if the snapshot has memory: it is read
	Reconfigure    time.Duration
	Destroy        time.Duration
	Other          time.Duration // rename, mark as template, move, ...
	NoRoute        time.Duration // until a dial to an address without a machine is given up

	// Scale multiplies all of the above; 0 means 1.
	Scale float64
}

// Brisk is the default: every stage of a VM's life takes its time and the stages are in
// proportion, but seven VMs are made in a few seconds.
func Brisk() Latency {
	return Latency{
		RPC:       500 * time.Microsecond,
		FullClone: 400 * time.Millisecond, LinkedClone: 60 * time.Millisecond, Create: 30 * time.Millisecond,
		PowerOn: 30 * time.Millisecond, Boot: 150 * time.Millisecond, Tools: 50 * time.Millisecond,
		Address: 50 * time.Millisecond, GuestPoll: 50 * time.Millisecond,
		GuestShutdown: 60 * time.Millisecond, PowerOff: 20 * time.Millisecond,
		Snapshot: 40 * time.Millisecond, RemoveSnapshot: 40 * time.Millisecond, Revert: 40 * time.Millisecond,
		Memory: 40 * time.Millisecond, Resume: 10 * time.Millisecond,
		Reconfigure: 20 * time.Millisecond, Destroy: 30 * time.Millisecond, Other: 10 * time.Millisecond,
		NoRoute: 300 * time.Millisecond,
	}
}

// Fast is for tests that make many VMs and look at outcomes: no stage is instantaneous, and
// none takes longer than a few milliseconds.
func Fast() Latency {
	return Latency{
		FullClone: 4 * time.Millisecond, LinkedClone: 2 * time.Millisecond, Create: time.Millisecond,
		PowerOn: time.Millisecond, Boot: 3 * time.Millisecond, Tools: 2 * time.Millisecond,
		Address: 2 * time.Millisecond, GuestPoll: 2 * time.Millisecond,
		GuestShutdown: 2 * time.Millisecond, PowerOff: time.Millisecond,
		Snapshot: time.Millisecond, RemoveSnapshot: time.Millisecond, Revert: time.Millisecond,
		Memory: time.Millisecond, Resume: time.Millisecond,
		Reconfigure: time.Millisecond, Destroy: time.Millisecond, Other: time.Millisecond,
		NoRoute: 20 * time.Millisecond,
	}
}

// Realistic is what users of real vCenters report: a linked clone in seconds, a full clone in
// minutes, an address half a minute after the guest has it.
func Realistic() Latency {
	return Latency{
		RPC:       10 * time.Millisecond,
		FullClone: 120 * time.Second, LinkedClone: 6 * time.Second, Create: 2 * time.Second,
		PowerOn: 2 * time.Second, Boot: 25 * time.Second, Tools: 10 * time.Second,
		Address: 15 * time.Second, GuestPoll: 30 * time.Second,
		GuestShutdown: 10 * time.Second, PowerOff: 1500 * time.Millisecond,
		Snapshot: 1500 * time.Millisecond, RemoveSnapshot: 2 * time.Second, Revert: 2500 * time.Millisecond,
		Memory: 8 * time.Second, Resume: 1 * time.Second,
		Reconfigure: time.Second, Destroy: 2 * time.Second, Other: 500 * time.Millisecond,
		NoRoute: 3 * time.Second,
	}
}

// scaled returns l with Scale applied, and Brisk's for the zero value.
func (l Latency) scaled() Latency {
	scale := l.Scale
	l.Scale = 0
	if l == (Latency{}) {
		l = Brisk()
	}
	if scale == 0 {
		scale = 1
	}
	for _, d := range []*time.Duration{
		&l.RPC, &l.FullClone, &l.LinkedClone, &l.Create, &l.PowerOn, &l.Boot, &l.Tools, &l.Address,
		&l.GuestPoll, &l.GuestShutdown, &l.PowerOff, &l.Snapshot, &l.Memory, &l.Resume, &l.RemoveSnapshot, &l.Revert,
		&l.Reconfigure, &l.Destroy, &l.Other, &l.NoRoute,
	} {
		*d = time.Duration(float64(*d) * scale)
	}
	l.Scale = 1
	return l
}

// sleep waits for d, or until ctx ends, and then returns why.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
