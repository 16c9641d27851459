package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/e2e/e2etest"
	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// A lab is a Server and what its users have to be told beside what it says itself.
type lab struct {
	srv     *vspheretest.Server
	exports [][2]string   // names and values
	expect  time.Duration // to make a VM ready; 0 with plain guests
	unlock  func()        // lets another process have the directory
	vcsim   *vcsimFlags   // nil without any of its flags
}

// configure makes a lab of flags.
func configure(args []string, out io.Writer) (*lab, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	s := vspheretest.NewUnstartedServer(nil)
	l := &lab{srv: s}
	f := flag.NewFlagSet("simlab", flag.ContinueOnError)
	f.SetOutput(out)
	guests := f.String("guests", "con/dis", "what VMs run: con/dis or plain")
	f.StringVar(&s.Addr, "addr", "127.0.0.1:8989", "`address` to serve vCenter's API on")
	f.StringVar(&s.JumpAddr, "jump", "127.0.0.1:8922", "`address` to serve the SSH jump host on")
	f.StringVar(&s.Username, "user", "administrator@vsphere.local", "user `name` to log in with")
	f.StringVar(&s.Password, "password", "password", "password to log in with")
	f.StringVar(&s.StateDir, "state", filepath.Join(dir, "poolready-simlab"), "`directory` to keep the lab in")
	f.StringVar(&s.Datacenter, "datacenter", "Datacenter", "`name` of the datacenter")
	f.IntVar(&s.Hosts, "hosts", 3, "`number` of ESXi hosts")
	list(f, "datastore", "Datastore1", "`names` of datastores, separated by commas", &s.Datastores)
	list(f, "network", "", "`names` of port groups, separated by commas, beside those of con/dis", &s.Networks)
	list(f, "resource-pool", "", "`names` of resource pools, separated by commas", &s.ResourcePools)
	template := f.String("template", "", "`path` of the template below the VM folder (default \"e2e-template-rhel9\" or \"template\")")
	pools := f.Int("pools", 0, "`number` of con/dis pools that addresses are reserved for (default 3)")
	disk := f.Int("disk", 20, "size of the template's disk in `GiB`")
	latency := f.String("latency", "brisk", "how long operations take: fast, brisk or realistic")
	factor := f.Float64("factor", 1, "multiplies all latencies")
	var vcsim vcsimFlags
	vcsim.define(f, s)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	presets := map[string]func() vspheretest.Latency{
		"fast": vspheretest.Fast, "brisk": vspheretest.Brisk, "realistic": vspheretest.Realistic,
	}
	preset, ok := presets[*latency]
	var errs []error
	for _, c := range []struct {
		wrong bool
		err   error
	}{
		{f.NArg() > 0, fmt.Errorf("unexpected argument %q", f.Arg(0))},
		{!ok, fmt.Errorf("-latency %q: fast, brisk or realistic", *latency)},
		{*factor <= 0, fmt.Errorf("-factor %v: must be above 0", *factor)},
		{*pools < 0, fmt.Errorf("-pools %d: must be above 0", *pools)},
		{s.Hosts < 1, fmt.Errorf("-hosts %d: must be above 0", s.Hosts)},
		{*disk < 1, fmt.Errorf("-disk %d: must be above 0", *disk)},
		{*guests != "con/dis" && *guests != "plain", fmt.Errorf("-guests %q: con/dis or plain", *guests)},
	} {
		if c.wrong {
			errs = append(errs, c.err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.Latency = preset()
	s.Latency.Scale = *factor
	switch is, err := vcsim.apply(f, s); {
	case err != nil:
		return nil, err
	case is:
		l.vcsim, l.unlock = &vcsim, func() {}
		if s.StateDir == "" {
			return l, nil
		}
	}
	if s.StateDir, err = filepath.Abs(s.StateDir); err != nil { // another shell may be elsewhere
		return nil, err
	}
	if err := os.MkdirAll(s.StateDir, 0o700); err != nil {
		return nil, err
	}
	if l.unlock, err = lock(s.StateDir); err != nil {
		return nil, err
	}

	if l.vcsim != nil {
		return l, nil
	}
	s.Templates = []vspheretest.Template{{Path: cmp.Or(*template, "template")}}
	if *guests == "plain" {
		s.OS = new(sshguest.OS)
		l.exports = append(l.exports, [2]string{"E2E_TEMPLATE", s.Templates[0].Path})
	} else if err := l.conDis(*template, *pools); err != nil {
		l.unlock()
		return nil, err
	}
	s.Templates[0].DiskGiB = *disk
	return l, nil
}

// conDis makes the Server one of the con/dis system.
func (l *lab) conDis(template string, pools int) error {
	set := map[string]string{}
	if template != "" {
		set["template"] = template
		l.exports = append(l.exports, [2]string{"E2E_TEMPLATE", template})
	}
	if pools > 0 {
		set["pools"] = strconv.Itoa(pools)
		l.exports = append(l.exports, [2]string{"E2E_POOLS", strconv.Itoa(pools)})
	}
	t, _, err := e2e.LoadTopology(e2e.Source{Env: os.LookupEnv, Flags: set})
	if err != nil {
		return err
	}
	key, err := vspheretest.SSHKey(l.srv.StateDir, keyFile)
	if err != nil {
		return err
	}
	templates := t.Templates()
	e2etest.Site{
		Template: templates["rhel"], Debian: templates["debian"], LabNetwork: t.LabNetwork, PrivateNetwork: t.PrivateNetwork, ExternalNetwork: t.ExternalNetwork,
		Reserved: t.Reservations(), NameServer: t.NameServer, Key: key,
	}.Configure(l.srv)
	l.expect = expect(l.srv.Latency)
	l.exports = append(l.exports, [2]string{"E2E_EXPECT", l.expect.String()})
	return nil
}

// expect is a generous guess of how long it takes to make a VM ready: the longest, golden, is
// copied, boots twice, and its scripts run.
func expect(l vspheretest.Latency) time.Duration {
	boot := l.PowerOn + l.Boot + l.Tools + l.Address + l.GuestPoll
	d := l.FullClone + l.Reconfigure + 3*boot + l.GuestShutdown + l.PowerOff + l.Snapshot
	return (time.Duration(float64(d)*l.Scale) + 10*time.Second).Round(time.Second)
}

// list is a flag of values that are separated by commas.
func list(f *flag.FlagSet, name, value, usage string, to *[]string) {
	set := func(s string) error {
		*to = nil
		for _, v := range strings.Split(s, ",") {
			if v = strings.TrimSpace(v); v != "" {
				*to = append(*to, v)
			}
		}
		return nil
	}
	_ = set(value)
	f.Func(name, usage+fmt.Sprintf(" (default %q)", value), set)
}
