package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest"
)

// Units are services whose unit files are on the disk: those of the packages that the simulation
// knows, which do what they do by themselves, and others, whose files say what runs (service). Enabling
// makes the links that systemd makes, and what is enabled starts at boot.
const (
	unitDir  = "/usr/lib/systemd/system/"
	etcUnits = "/etc/systemd/system/" // of the administrator; aliases are here
	wantsDir = etcUnits + "multi-user.target.wants/"
)

// bootOrder is that of the services that the simulation can start: sshd after the network and the
// firewall, and those that follow it while it lets people in. ifupdown comes after networkd:
// if both are enabled, which one wins is unknown, so it is the one that is not wanted.
var bootOrder = []string{"NetworkManager", "systemd-networkd", "networking", "firewalld", "sshd", "systemd-timesyncd", "chronyd", "dnsmasq"}

// enable makes a unit start at boot, and returns what systemctl says.
func (o *distro) enable(d *sshtest.Disk, unit string) (said []string) {
	links := []string{wantsDir + unit}
	if a := o.alias(unit); a != "" {
		links = append(links, etcUnits+a)
	}
	for _, l := range links {
		if _, err := d.Lstat(l + ".service"); err == nil {
			continue
		}
		_ = d.MkdirAll(wantsDir, 0o755)
		file := unitDir + unit + ".service"
		if i, err := d.Lstat(etcUnits + unit + ".service"); err == nil && i.Mode().IsRegular() {
			file = etcUnits + unit + ".service"
		}
		_ = d.Symlink(file, l+".service")
		said = append(said, fmt.Sprintf("Created symlink %s.service → %s.", l, file))
	}
	return said
}

// disable undoes what enable did, and returns what systemctl says.
func (o *distro) disable(d *sshtest.Disk, unit string) (said []string) {
	for _, l := range []string{wantsDir + unit, etcUnits + o.alias(unit)} {
		if d.Remove(l+".service") == nil {
			said = append(said, fmt.Sprintf("Removed %q.", l+".service"))
		}
	}
	return said
}

// resolve returns the unit that a name stands for: itself, or the one that it is an alias of.
func (g *Guest) resolve(name string) string {
	if to, err := g.disk.Readlink(etcUnits + name + ".service"); err == nil {
		return strings.TrimSuffix(strings.TrimPrefix(to, unitDir), ".service")
	}
	return name
}

func (g *Guest) unitExists(unit string) bool {
	_, ok := g.unitPath(unit)
	return ok
}

func (g *Guest) enabled(unit string) bool {
	_, err := g.disk.Lstat(wantsDir + unit + ".service")
	return err == nil
}

func (g *Guest) isActive(unit string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.active[unit]
}

// startUnit starts a service, by its name in this package, that is not active. Its error is what
// the journal would say.
func (g *Guest) startUnit(unit string) error {
	if !slices.Contains(bootOrder, unit) {
		err := g.startService(unit, false)
		g.refusal(err)
		return err
	}
	if g.isActive(unit) {
		return nil
	}
	var err error
	switch unit {
	case "sshd":
		if err = g.host.StartSSHD(); err == nil {
			g.node.HandleTCP(22, func(conn net.Conn, _ netip.AddrPort) { g.host.ServeConn(conn) })
		}
	case "NetworkManager":
		defer g.networkUp()
	case "systemd-networkd":
		if err = g.networkdLoad(); err == nil {
			defer g.networkdUp()
		}
	case "networking":
		if err = g.ifupdownFault(); err == nil {
			defer g.ifupdownUp()
		}
	case "firewalld":
		err = g.firewallLoad()
	case "chronyd":
		err = g.chronyStart()
	case "dnsmasq":
		err = g.dnsmasqStart()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.active[unit], g.failed[unit] = err == nil, err != nil
	g.apply()
	return err
}

func (g *Guest) stopUnit(unit string) {
	if !slices.Contains(bootOrder, unit) {
		g.stopService(unit)
		return
	}
	if !g.isActive(unit) {
		return
	}
	switch unit {
	case "sshd":
		g.host.StopSSHD() // sessions go on
		g.node.HandleTCP(22, nil)
	case "chronyd":
		g.node.HandleUDP(123, nil)
	case "dnsmasq":
		g.node.HandleUDP(53, nil)
		g.node.HandleTCP(53, nil)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.active[unit] = false
	g.apply()
}

// systemctl knows: enable|disable [--now] UNIT..., start|stop|restart|try-restart|reload UNIT...,
// is-active|is-enabled|is-failed [--quiet] UNIT, status|cat UNIT..., is-system-running, list-jobs
// --no-legend, add-wants multi-user.target network-online.target, daemon-reload, reboot, poweroff,
// reset-failed [UNIT...], and what unitList does.
func (g *Guest) systemctl(ctx context.Context, p *sshtest.Proc) int {
	if slices.ContainsFunc(p.Args[1:], func(a string) bool { return a == "list-units" || a == "list-unit-files" }) {
		return g.unitList(p, p.Args[1:])
	}
	if slices.Contains(p.Args[1:], "show") {
		return g.unitShow(p, p.Args[1:])
	}
	var words []string
	now, quiet := false, false
	for _, a := range p.Args[1:] {
		switch {
		case a == "--now":
			now = true
		case a == "--quiet" || a == "-q":
			quiet = true
		case a == "--no-pager":
		case a == "--no-legend" && slices.Contains(p.Args, "list-jobs"):
		case strings.HasPrefix(a, "-"):
			return p.NotSimulated(a)
		default:
			words = append(words, a)
		}
	}
	if len(words) == 0 {
		return p.NotSimulated("no verb")
	}
	verb, units := words[0], words[1:]
	switch {
	case verb == "list-jobs" && len(units) == 0:
		g.mu.Lock()
		defer g.mu.Unlock()
		for i, u := range g.pending() {
			fmt.Fprintf(p.Stdout, "%d %s start waiting\n", 100+i, u)
		}
		return 0
	case verb == "add-wants" && slices.Equal(units, []string{multiUser, networkOnline}):
		if p.User != "root" {
			return p.Fail(1, "access denied")
		}
		said, err := g.addWants(units[0], units[1])
		if err != nil {
			return p.Fail(1, "Failed to add dependency on unit: %v", err)
		}
		fmt.Fprint(p.Stderr, said)
		return 0
	}
	for i, u := range units {
		units[i] = strings.TrimSuffix(u, ".service")
		if to := g.resolve(units[i]); to != units[i] && (verb == "enable" || verb == "disable") {
			return p.Fail(1, "Failed to %s unit: Refusing to operate on alias name or linked unit file: %s.service", verb, units[i])
		} else if verb != "is-enabled" {
			units[i] = to
		}
	}
	if !quiet && now && verb != "enable" && verb != "disable" {
		return p.NotSimulated("--now with " + verb)
	}
	switch verb {
	case "daemon-reload":
		return 0
	case "status":
		return g.unitStatus(p, units)
	case "cat":
		return g.unitCat(p, units)
	case "is-system-running":
		return g.systemState(p)
	case "reboot", "poweroff":
		return p.Run(ctx, verb)
	case "is-active", "is-enabled", "is-failed":
		return g.unitState(p, verb, units, quiet)
	case "reset-failed":
		g.resetFailed(units)
		return 0
	case "enable", "disable", "start", "stop", "restart", "try-restart", "reload":
	default:
		return p.NotSimulated(verb)
	}
	if p.User != "root" {
		return p.Fail(1, "access denied")
	}
	if len(units) == 0 {
		return p.Fail(1, "too few arguments")
	}
	for _, u := range units {
		if code := g.unitVerb(p, verb, u, now); code != 0 {
			return code
		}
	}
	return 0
}

func (g *Guest) unitVerb(p *sshtest.Proc, verb, unit string, now bool) int {
	if !g.unitExists(unit) {
		if verb == "try-restart" {
			return 0
		}
		return p.Fail(5, "Unit %s.service not found.", unit)
	}
	service := g.os.service(unit)
	if !slices.Contains(bootOrder, service) {
		return g.serviceVerb(p, verb, unit, now)
	}
	var err error
	switch verb {
	case "enable":
		for _, line := range g.os.enable(g.disk, unit) {
			fmt.Fprintln(p.Stderr, line)
		}
		if now {
			err = g.startUnit(service)
		}
	case "disable":
		for _, line := range g.os.disable(g.disk, unit) {
			fmt.Fprintln(p.Stderr, line)
		}
		if now {
			g.stopUnit(service)
		}
	case "start":
		err = g.startUnit(service)
	case "stop":
		g.stopUnit(service)
	case "try-restart", "restart":
		if verb == "try-restart" && !g.isActive(service) {
			return 0
		}
		g.stopUnit(service)
		err = g.startUnit(service)
	case "reload":
		if !g.isActive(service) {
			return p.Fail(1, "%s.service is not active, cannot reload.", unit)
		}
		switch service {
		case "NetworkManager":
			g.networkReload()
		case "firewalld":
			err = g.firewallLoad()
		default:
			return p.NotSimulated("reload " + unit)
		}
	}
	if what, ok := errors.AsType[errNotSimulated](err); ok {
		return p.NotSimulated(string(what))
	}
	if r, ok := errors.AsType[*sshtest.Refusal](err); ok {
		return p.NotSimulated(r.Command + ": " + r.What)
	}
	if err != nil {
		return p.Fail(1, "Job for %s.service failed: %v", unit, err)
	}
	return 0
}

func (g *Guest) unitState(p *sshtest.Proc, verb string, units []string, quiet bool) int {
	if len(units) != 1 {
		return p.NotSimulated(fmt.Sprintf("%s with %d units", verb, len(units)))
	}
	u := units[0]
	service := g.os.service(u)
	g.mu.Lock()
	isActive, failed := g.active[service], g.failed[service]
	g.mu.Unlock()
	state, code := "inactive", 3
	switch {
	case verb == "is-enabled" && g.resolve(u) != u:
		state, code = "alias", 0
	case verb == "is-enabled" && !g.unitExists(u):
		return p.Fail(1, "Failed to get unit file state for %s.service: No such file or directory", u)
	case verb == "is-enabled" && g.enabled(u):
		state, code = "enabled", 0
	case verb == "is-enabled":
		state, code = "disabled", 1
	case isActive:
		state, code = "active", 0
	case failed:
		state = "failed"
	}
	if verb == "is-failed" {
		code = 1
		if failed {
			code = 0
		}
	}
	if !quiet {
		fmt.Fprintln(p.Stdout, state)
	}
	return code
}

func (g *Guest) systemState(p *sshtest.Proc) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.pending()) > 0 {
		fmt.Fprintln(p.Stdout, "starting")
		return 1
	}
	for _, failed := range g.failed {
		if failed {
			fmt.Fprintln(p.Stdout, "degraded")
			return 1
		}
	}
	fmt.Fprintln(p.Stdout, "running")
	return 0
}
