package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest"
)

// chrony is what chronyd knows: its configuration, as it read it when it started, and whether it has
// taken the time from a server since then. Having done so it takes itself to be right, whatever
// becomes of the clock: as a real one does until its next measurement, which is minutes later.
type chrony struct {
	servers []string
	allow   []netip.Prefix
	synced  bool
}

// chronyStart knows the directives server, pool, allow, driftfile, makestep, rtcsync, keyfile,
// leapsectz, logdir, ntsdumpdir, sourcedir, confdir and maxupdateskew of chrony.conf.
func (g *Guest) chronyStart() error {
	data, err := g.disk.ReadFile(g.os.chronyConf)
	if err != nil {
		return fmt.Errorf("could not open %s: %w", g.os.chronyConf, err)
	}
	var c chrony
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		f := strings.Fields(line)
		if len(f) == 0 || strings.ContainsAny(f[0][:1], "#!;%") {
			continue
		}
		switch f[0] {
		case "server", "pool":
			if len(f) < 2 {
				return fmt.Errorf("could not parse %s directive at line %d", f[0], n)
			}
			c.servers = append(c.servers, f[1])
		case "allow":
			pfx := netip.MustParsePrefix("0.0.0.0/0")
			if len(f) > 1 {
				if pfx, err = netip.ParsePrefix(f[1]); err != nil {
					return fmt.Errorf("could not parse allow directive at line %d", n)
				}
			}
			c.allow = append(c.allow, pfx)
		case "driftfile", "makestep", "rtcsync", "keyfile", "leapsectz", "logdir", "ntsdumpdir", "sourcedir", "confdir", "maxupdateskew":
		default:
			return errNotSimulated(fmt.Sprintf("the directive %q in line %d of %s", f[0], n, g.os.chronyConf))
		}
	}
	g.mu.Lock()
	g.time = c
	g.mu.Unlock()
	if len(c.allow) > 0 {
		g.node.HandleUDP(123, func(ctx context.Context, from, to netip.AddrPort, q []byte) []byte {
			if !c.serves(from.Addr()) {
				return nil
			}
			return ntpAnswer(ctx, from, to, q)
		})
	}
	return nil
}

func (c chrony) serves(a netip.Addr) bool {
	return slices.ContainsFunc(c.allow, func(p netip.Prefix) bool { return p.Contains(a) })
}

// sources returns the address of each server that has one, and whether it answers now.
func (g *Guest) sources(ctx context.Context) (list []netip.Addr, answers []bool) {
	g.mu.Lock()
	servers := g.time.servers
	g.mu.Unlock()
	for _, s := range servers {
		found, err := g.lookup(ctx, s, false)
		if err != nil || len(found) == 0 {
			continue
		}
		reply, err := g.node.Exchange(ctx, netip.AddrPortFrom(found[0], 123), ntpQuestion())
		list = append(list, found[0])
		answers = append(answers, err == nil && len(reply) >= 48 && reply[0]&7 == 4)
	}
	return list, answers
}

// synchronise sets the clock by a server that answers, once after a start, as "makestep 1.0 3" has
// it, and reports whether it was ever set so.
func (g *Guest) synchronise(ctx context.Context) bool {
	g.mu.Lock()
	synced := g.time.synced
	g.mu.Unlock()
	if synced {
		return true
	}
	if _, answers := g.sources(ctx); !slices.Contains(answers, true) {
		return false
	}
	now := time.Now
	if g.host.Now != nil {
		now = g.host.Now
	}
	g.host.SetClock(now())
	g.mu.Lock()
	defer g.mu.Unlock()
	g.time.synced = true
	return true
}

// chronyc knows: [-c] [-n] sources, waitsync [TRIES [CORRECTION [SKEW [INTERVAL]]]], makestep,
// accheck ADDRESS. waitsync does not wait: what does not answer now is taken not to answer later.
func (g *Guest) chronyc(ctx context.Context, p *sshtest.Proc) int {
	args, csv := p.Args[1:], false
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-c":
			csv = true
		case "-n":
		default:
			return p.NotSimulated(args[0])
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return p.NotSimulated("interactive use")
	}
	if !g.isActive("chronyd") {
		fmt.Fprintln(p.Stdout, "506 Cannot talk to daemon")
		return 1
	}
	verb, args := args[0], args[1:]
	switch {
	case verb == "sources" && len(args) == 0:
		g.synchronise(ctx)
		if !csv {
			return p.NotSimulated("sources without -c")
		}
		list, answers := g.sources(ctx)
		best := slices.Index(answers, true)
		for i, a := range list {
			state, reach := "?", 0
			if answers[i] {
				state, reach = "+", 377
			}
			if i == best {
				state = "*"
			}
			fmt.Fprintf(p.Stdout, "^,%s,%s,2,6,%d,12,0.000012,0.000012,0.000300\n", state, a, reach)
		}
	case verb == "waitsync" && len(args) <= 4:
		if !g.synchronise(ctx) {
			fmt.Fprintln(p.Stdout, "try: 1, refid: 00000000, correction: 0.000000000, skew: 0.000")
			return 1
		}
		fmt.Fprintln(p.Stdout, "try: 1, refid: 0A000108, correction: 0.000000012, skew: 0.010")
	case verb == "makestep" && len(args) == 0:
		if p.User != "root" {
			fmt.Fprintln(p.Stdout, "501 Not authorised")
			return 1
		}
		fmt.Fprintln(p.Stdout, "200 OK")
	case verb == "accheck" && len(args) == 1:
		a, err := netip.ParseAddr(args[0])
		if err != nil {
			return p.NotSimulated("accheck " + args[0])
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.time.serves(a) {
			fmt.Fprintln(p.Stdout, "209 Access denied")
			return 0
		}
		fmt.Fprintln(p.Stdout, "208 Access allowed")
	default:
		return p.NotSimulated(verb)
	}
	return 0
}

// timezones are those that the simulated zoneinfo has.
var timezones = []string{"UTC", "Asia/Singapore", "America/New_York", "Europe/Berlin", "Europe/London"}

// timedatectl knows: show -p Timezone --value, set-timezone ZONE.
func (g *Guest) timedatectl(_ context.Context, p *sshtest.Proc) int {
	g.wake(timedated, busIdle)
	switch args := p.Args[1:]; {
	case slices.Equal(args, []string{"show", "-p", "Timezone", "--value"}):
		target, err := g.disk.Readlink("/etc/localtime")
		_, zone, ok := strings.Cut(target, "zoneinfo/")
		if err != nil || !ok {
			zone = "UTC"
		}
		fmt.Fprintln(p.Stdout, zone)
	case len(args) == 2 && args[0] == "set-timezone":
		if p.User != "root" {
			return p.Fail(1, "Failed to set time zone: Access denied")
		}
		if !slices.Contains(timezones, args[1]) {
			return p.Fail(1, "Failed to set time zone: Invalid or not installed time zone '%s'", args[1])
		}
		_ = g.disk.Remove("/etc/localtime")
		if err := g.disk.Symlink("../usr/share/zoneinfo/"+args[1], "/etc/localtime"); err != nil {
			return p.Fail(1, "Failed to set time zone: %v", err)
		}
	default:
		return p.NotSimulated(strings.Join(args, " "))
	}
	return 0
}

// hostnamectl knows: --static, set-hostname NAME.
func (g *Guest) hostnamectl(_ context.Context, p *sshtest.Proc) int {
	g.wake(hostnamed, busIdle)
	switch args := p.Args[1:]; {
	case slices.Equal(args, []string{"--static"}):
		data, _ := g.disk.ReadFile("/etc/hostname")
		fmt.Fprintln(p.Stdout, strings.TrimSpace(string(data)))
	case len(args) == 2 && args[0] == "set-hostname":
		if p.User != "root" {
			return p.Fail(1, "Could not set static hostname: Access denied")
		}
		if args[1] == "" {
			_ = g.disk.Remove("/etc/hostname") // the name is the default one, localhost
			g.machine.Changed()
			return 0
		}
		if err := g.disk.WriteFile("/etc/hostname", []byte(args[1]+"\n"), 0o644); err != nil {
			return p.Fail(1, "Could not set static hostname: %v", err)
		}
		g.machine.Changed()
	default:
		return p.NotSimulated(strings.Join(args, " "))
	}
	return 0
}
