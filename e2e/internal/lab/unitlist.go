package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest"
)

// hostnamed and timedated are services that D-Bus starts, for hostnamectl and timedatectl. They end
// after busIdle without a request. A user who is logged in has a service manager, which ends
// managerIdle after the last logout.
const (
	hostnamed   = "systemd-hostnamed.service"
	timedated   = "systemd-timedated.service"
	busIdle     = 30 * time.Second
	managerIdle = 10 * time.Second
)

// wake starts a service that ends by itself when it was not called for so long.
func (g *Guest) wake(unit string, idle time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.idle[unit] = time.Now().Add(idle)
}

// loggedIn has a user's service manager run for a while.
func (g *Guest) loggedIn(user string) {
	data, _ := g.disk.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(line, ":"); len(f) > 2 && f[0] == user {
			g.wake("user@"+f[2]+".service", managerIdle)
		}
	}
}

// unitList is systemctl list-unit-files and list-units. It knows: list-unit-files --type=service
// or --type=service,socket --no-legend [--no-pager], and list-units --type=service --state=running --plain --no-legend
// [--no-pager]. Units are those whose files are on the disk, in the directory of packages; those of
// real machines are many more.
func (g *Guest) unitList(p *sshtest.Proc, args []string) int {
	verb := args[slices.IndexFunc(args, func(a string) bool { return !strings.HasPrefix(a, "-") })]
	options := slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == verb || a == "--no-pager" })
	slices.Sort(options)
	want := []string{"--no-legend", "--type=service"}
	if verb == "list-unit-files" && slices.Contains(options, "--type=service,socket") {
		want[1] = "--type=service,socket" // no socket is simulated
	}
	if verb == "list-units" {
		want = []string{"--no-legend", "--plain", "--state=running", "--type=service"}
	}
	if !slices.Equal(options, want) {
		return p.NotSimulated(strings.Join(args, " "))
	}
	files, err := g.disk.ReadDir(strings.TrimSuffix(unitDir, "/"))
	if err != nil {
		return p.Fail(1, "Failed to list units: %v", err)
	}
	g.loggedIn("root") // as whom the harness is
	var awake []string
	g.mu.Lock()
	for unit, until := range g.idle {
		if time.Now().Before(until) {
			awake = append(awake, unit)
		}
	}
	g.mu.Unlock()
	slices.Sort(awake)
	if verb == "list-unit-files" {
		for _, unit := range []string{hostnamed, timedated, "user@.service"} {
			fmt.Fprintf(p.Stdout, "%s static -\n", unit)
		}
		awake = nil
	}
	for _, unit := range awake {
		fmt.Fprintf(p.Stdout, "%s loaded active running a service for others\n", unit)
	}
	for _, f := range files {
		unit, ok := strings.CutSuffix(f.Name(), ".service")
		switch {
		case !ok:
		case verb == "list-units" && g.isActive(unit):
			fmt.Fprintf(p.Stdout, "%s loaded active running %s\n", f.Name(), unit)
		case verb == "list-unit-files" && g.enabled(unit):
			fmt.Fprintf(p.Stdout, "%s enabled enabled\n", f.Name())
		case verb == "list-unit-files":
			fmt.Fprintf(p.Stdout, "%s disabled disabled\n", f.Name())
		}
	}
	return 0
}
