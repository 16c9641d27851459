package userland

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
	"github.com/poolready/poolready/sshx/sshtest/internal/sshd"
)

// cmdSystemctl is
//
//	systemctl start|stop|restart|try-restart|reload|is-active|is-enabled|is-failed [-q] sshd[.service]
//	systemctl reboot|poweroff
//
// sshd is the one unit of a machine that no embedder has given others; it is enabled.
var cmdSystemctl = parsed("-q --quiet --no-pager", func(_ context.Context, p *machine.Proc, o *options) int {
	line := strings.Join(p.Args[1:], " ")
	if len(o.args) == 1 && (o.args[0] == "reboot" || o.args[0] == "poweroff") {
		if p.User != "root" {
			fmt.Fprintln(p.Stderr, "Call to "+map[string]string{"reboot": "Reboot", "poweroff": "PowerOff"}[o.args[0]]+" failed: Interactive authentication required.")
			return 1
		}
		if o.args[0] == "reboot" {
			p.Host.Reboot()
		} else {
			p.Host.PowerOff()
		}
		return 0
	}
	names := []string{"sshd", "sshd.service"}
	if p.Host.Debian() {
		names = []string{"ssh", "ssh.service", "sshd", "sshd.service"}
	}
	if len(o.args) != 2 || !slices.Contains(names, o.args[1]) {
		return p.NotSimulated(line)
	}
	verb, unit := o.args[0], strings.TrimSuffix(o.args[1], ".service")
	runs := p.Host.SSHD().RunsIn(p.Task.Boot)
	say := func(state string, code int) int {
		if !o.has("-q", "--quiet") {
			fmt.Fprintln(p.Stdout, state)
		}
		return code
	}
	switch verb {
	case "is-active", "is-failed":
		switch {
		case runs && verb == "is-active":
			return say("active", 0)
		case runs:
			return say("active", 1)
		case p.Host.SSHD().Failed():
			return say("failed", map[string]int{"is-active": 3, "is-failed": 0}[verb])
		}
		return say("inactive", map[string]int{"is-active": 3, "is-failed": 1}[verb])
	case "is-enabled":
		return say("enabled", 0)
	case "start", "stop", "restart", "try-restart", "reload":
	default:
		return p.NotSimulated(line)
	}
	if p.User != "root" {
		fmt.Fprintf(p.Stderr, "Failed to %s %s.service: Interactive authentication required.\nSee system logs and 'systemctl status %[2]s.service' for details.\n", verb, unit)
		return 1
	}
	switch {
	case verb == "stop":
		p.Host.SSHD().Stop()
		return 0
	case verb == "start" && runs, verb == "try-restart" && !runs:
		return 0
	case verb == "reload" && !runs:
		fmt.Fprintf(p.Stderr, "%s.service is not active, cannot reload.\n", unit)
		return 1
	}
	if _, err := sshd.ReadConfig(p.Host.Disk); err != nil && verb == "reload" {
		return p.NotSimulated("reload with a wrong configuration")
	}
	err := p.Host.SSHD().Start()
	if r, ok := errors.AsType[*machine.Refusal](err); ok {
		return p.Refuse(r.Command, r.What)
	}
	if err != nil {
		fmt.Fprintf(p.Stderr, "Job for %s.service failed because the control process exited with error code.\n"+
			"See \"systemctl status %[1]s.service\" and \"journalctl -xeu %[1]s.service\" for details.\n", unit)
		return 1
	}
	return 0
})
