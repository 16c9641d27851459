package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/sshx/sshtest"
)

// hostnamed is the service that D-Bus starts for hostnamectl. It ends when nobody has asked it for
// hostnamedIdle.
const (
	hostnamed     = "systemd-hostnamed.service"
	hostnamedIdle = 30 * time.Second
)

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
	g.mu.Lock()
	named := time.Since(g.named) < hostnamedIdle
	g.mu.Unlock()
	switch {
	case verb == "list-unit-files":
		fmt.Fprintf(p.Stdout, "%s static -\n", hostnamed)
	case named:
		fmt.Fprintf(p.Stdout, "%s loaded active running Hostname Service\n", hostnamed)
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
