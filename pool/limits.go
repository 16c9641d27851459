package pool

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Limits limit time and parallelism. Zero values mean the defaults. Those of parallelism grow with the
// hosts of the hypervisor that can run the set's VMs, in one resource pool or several; where these are
// not known, they are those of one. What beyond them a hypervisor cannot do at once it queues itself.
type Limits struct {
	// Clones is how many VMs are cloned at once; 0 means 8 on one ESXi host, and 16 on each of several,
	// which is what a host does of linked clones. Of full clones, as of a golden's template, there are no
	// more than 4 on each host.
	Clones int
	// Hosts is how many VMs of the set boot, are configured or checked at once; 0 means 16 on one ESXi
	// host, and 20 more for each other one, but not more than 200.
	Hosts int
	// Snapshots is how many snapshots are taken or reverted at once; 0 means 10 on one ESXi host, and
	// 16 on each of several.
	Snapshots int
	// Checks is how many checks run at once on one host; 0 means 4. More than 6, the sessions of a
	// connection, gain nothing.
	Checks int
	// Boot limits the time from power on, or a reboot, until the host has started: it accepts a login, and
	// systemd, where there is one, has no job left. At least 1 second; 0 means 10 minutes.
	Boot time.Duration
	// Lease is how long a pool stays leased after the process that holds it died, and how long vCenter
	// may be unreachable before a pool is lost, at least 1 second; 0 means 3 minutes. A process that
	// holds a pool, builds or waits writes to the ledger, which is one small task in vCenter, three
	// times in that time: once a minute.
	Lease time.Duration
	// ClockSkew is how far the clock of a host may be from the hypervisor's after a reset; 0 means
	// 2 seconds. A negative value means that clocks are neither checked nor set.
	ClockSkew time.Duration
	// Shutdown limits an orderly shutdown, after which the VM is powered off; 0 means 1 minute.
	Shutdown time.Duration
}

// withDefaults fills in the defaults that depend on nothing.
func (l Limits) withDefaults() Limits {
	l.Checks = cmp.Or(l.Checks, 4)
	l.Boot = cmp.Or(l.Boot, 10*time.Minute)
	l.Shutdown = cmp.Or(l.Shutdown, time.Minute)
	l.Lease = cmp.Or(l.Lease, 3*time.Minute)
	l.ClockSkew = cmp.Or(l.ClockSkew, 2*time.Second)
	return l
}

// What one ESXi host does at once: it has 16 units for provisioning, of which a linked clone takes one
// and a full one four.
const (
	hostUnits     = 16
	fullCloneCost = 4
	mostHosts     = 200 // made ready at once by default: each has an SSH connection of this process
)

// A Concurrency is how much is done at once, and why no more.
type Concurrency struct {
	// Hypervisors is how many hosts of the hypervisor can run VMs of the set; 0 is not known.
	Hypervisors int `json:"hypervisors"`
	// Clones are linked ones.
	Clones     int `json:"clones"`
	FullClones int `json:"fullClones"`
	Hosts      int `json:"hosts"`
	Snapshots  int `json:"snapshots"`

	by Limits // what the Spec says
}

func (c Concurrency) String() string {
	var parts []string
	add := func(n int, what, field string, by int) {
		text := fmt.Sprintf("%d %s", n, what)
		if by > 0 {
			text += " (Limits." + field + ")"
		}
		parts = append(parts, text)
	}
	add(c.Clones, "linked clones", "Clones", c.by.Clones)
	add(c.FullClones, "full clones", "", 0)
	add(c.Hosts, "hosts made ready", "Hosts", c.by.Hosts)
	add(c.Snapshots, "snapshots or reverts", "Snapshots", c.by.Snapshots)
	on := "one hypervisor host, as it is not known how many there are"
	if c.Hypervisors == 1 {
		on = "one hypervisor host"
	} else if c.Hypervisors > 1 {
		on = fmt.Sprintf("%d hypervisor hosts", c.Hypervisors)
	}
	return fmt.Sprintf("at once, for %s: %s", on, strings.Join(parts, ", "))
}

// on returns how much is done at once on so many hosts of the hypervisor; 0 is not known.
func (l Limits) on(hypervisors int) Concurrency {
	c := Concurrency{
		Hypervisors: hypervisors, by: l, FullClones: hostUnits / fullCloneCost * max(hypervisors, 1),
		Clones: 8, Hosts: 16, Snapshots: 10, // what a lab of one host bears
	}
	if hypervisors > 1 {
		c.Clones, c.Snapshots = hostUnits*hypervisors, hostUnits*hypervisors
		c.Hosts = min(16+20*(hypervisors-1), mostHosts)
	}
	c.Clones = cmp.Or(l.Clones, c.Clones)
	c.FullClones = min(c.FullClones, c.Clones)
	c.Hosts = cmp.Or(l.Hosts, c.Hosts)
	c.Snapshots = cmp.Or(l.Snapshots, c.Snapshots)
	return c
}

// gates bound what is done at once to the VMs of one Spec, however many of its runs and resets go on
// in this process.
type gates struct {
	limits Limits

	once                           sync.Once // guards what follows
	concurrency                    Concurrency
	clones, full, boots, snapshots gate

	connections connections
}

// size makes the gates for so many hosts of the hypervisor, when it is first called, and returns how
// much they let through.
func (g *gates) size(hypervisors int) Concurrency {
	g.once.Do(func() {
		c := g.limits.on(hypervisors)
		g.concurrency = c
		g.clones, g.full = make(gate, c.Clones), make(gate, c.FullClones)
		g.boots, g.snapshots = make(gate, c.Hosts), make(gate, c.Snapshots)
	})
	return g.concurrency
}

// clone calls f, which makes a linked or a full clone, when there is room.
func (g *gates) clone(ctx context.Context, linked bool, f func() error) error {
	g.size(0)
	if linked {
		return g.clones.do(ctx, f)
	}
	return g.full.do(ctx, f)
}

// boot calls f, which has a VM start and waits until it is up, when there is room.
func (g *gates) boot(ctx context.Context, f func() error) error {
	g.size(0)
	return g.boots.do(ctx, f)
}

// change calls f, which takes or reverts to a snapshot, when there is room.
func (g *gates) change(ctx context.Context, f func() error) error {
	g.size(0)
	return g.snapshots.do(ctx, f)
}

// A gate lets a number of operations through at once.
type gate chan struct{}

func (g gate) do(ctx context.Context, f func() error) error {
	select {
	case g <- struct{}{}:
		defer func() { <-g }()
		return f()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
