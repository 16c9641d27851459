package lab

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// A startup is the part of a boot that a login does not wait for. sshd runs as soon as there is a
// network to configure: beside it, services start that it is not ordered after, and the daemons that
// configure the network make VLANs. Until systemd-user-sessions.service has run, only root may log in.
type startup struct {
	jobs   []string // units that are still to start; guarded by Guest.mu
	cancel context.CancelFunc
	done   chan struct{} // closed at the end
}

const (
	nologin       = "/run/nologin"
	multiUser     = "multi-user.target"
	networkOnline = "network-online.target"
)

// besideSSHD are the services that start while sshd does.
func besideSSHD() []string { return bootOrder[slices.Index(bootOrder, "sshd")+1:] }

// startRest begins the rest of the boot, which goes on by itself.
func (g *Guest) startRest() {
	ctx, cancel := context.WithCancel(g.life)
	s := &startup{cancel: cancel, done: make(chan struct{})}
	var services []string
	for _, service := range besideSSHD() {
		if u := g.os.unit(service); g.unitExists(u) && g.enabled(u) {
			services = append(services, service)
			s.jobs = append(s.jobs, u+".service")
		}
	}
	own := g.userUnits()
	for _, u := range own {
		s.jobs = append(s.jobs, u+".service")
	}
	s.jobs = append(s.jobs, "systemd-user-sessions.service")
	// Without it, systemd is done before the network is.
	if g.wants(multiUser, networkOnline) {
		s.jobs = append(s.jobs, networkOnline)
	}
	s.jobs = append(s.jobs, multiUser)
	g.mu.Lock()
	g.rest, g.early = s, false
	g.mu.Unlock()
	g.lab.mu.Lock()
	half := g.lab.startup / 2
	g.lab.mu.Unlock()
	pause := func() bool {
		select {
		case <-time.After(half):
			return true
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		defer close(s.done)
		defer cancel()
		if !pause() {
			return
		}
		for _, service := range services {
			g.refusal(g.startUnit(service))
		}
		for _, unit := range own {
			started := make(chan struct{})
			g.work.Go(func() { // it may not end before the machine does
				defer close(started)
				g.refusal(g.startService(unit, false))
			})
			select {
			case <-started:
			case <-ctx.Done():
				return
			}
		}
		_ = g.disk.Remove(nologin)
		g.mu.Lock()
		s.jobs = slices.DeleteFunc(s.jobs, func(u string) bool { return u != networkOnline && u != multiUser })
		if len(s.jobs) == 1 {
			s.jobs = nil
		}
		g.mu.Unlock()
		if !pause() {
			return
		}
		g.vlansUp()
		g.mu.Lock()
		s.jobs = nil
		g.mu.Unlock()
	}()
}

// endStartup ends what is left of a boot, as a power failure does.
func (g *Guest) endStartup() {
	g.mu.Lock()
	s := g.rest
	g.mu.Unlock()
	if s != nil {
		s.cancel()
		<-s.done
	}
}

// AwaitStartup waits until the guest has started whatever it starts.
func (g *Guest) AwaitStartup() {
	g.mu.Lock()
	s := g.rest
	g.mu.Unlock()
	if s != nil {
		<-s.done
	}
}

// booting reports whether the boot has not got to sshd yet.
func (g *Guest) booting() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.early
}

// pending are the units that are still to start. The caller holds mu.
func (g *Guest) pending() []string {
	if g.rest == nil {
		return nil
	}
	return g.rest.jobs
}

// vlansUp is what NetworkManager and networkd do last.
func (g *Guest) vlansUp() {
	if g.isActive("NetworkManager") {
		g.networkVLANs()
	}
	if g.isActive("systemd-networkd") {
		g.networkdVLANs()
	}
}

func wantsLink(target, unit string) string { return etcUnits + target + ".wants/" + unit }

// wants reports whether an administrator has had a target want a unit.
func (g *Guest) wants(target, unit string) bool {
	_, err := g.disk.Lstat(wantsLink(target, unit))
	return err == nil
}

// addWants is systemctl add-wants TARGET UNIT of targets, and returns what it says.
func (g *Guest) addWants(target, unit string) (said string, err error) {
	link := wantsLink(target, unit)
	if g.wants(target, unit) {
		return "", nil
	}
	_ = g.disk.MkdirAll(etcUnits+target+".wants", 0o755)
	return fmt.Sprintf("Created symlink %s → %s%s.\n", link, unitDir, unit), g.disk.Symlink(unitDir+unit, link)
}
