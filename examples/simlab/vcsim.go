package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/simulator"

	"github.com/poolready/poolready/vsphere/vspheretest"
	"github.com/poolready/poolready/vsphere/vspheretest/sshguest"
)

// vcsimFlags are those of vcsim's. Any of them makes simlab serve vcsim's inventory, the way that
// vcsim does: to any name and password, and without keeping anything.
type vcsimFlags struct {
	model       *simulator.Model
	esx         bool
	env         string
	methodDelay string
	stdinExit   bool
	tls         bool
	tunnel      int
	names       map[string]bool
}

// refused are flags of vcsim's that simlab does not take, and why.
var refused = map[string]string{
	"tlscert":    "simlab makes its own certificate; with -state it is kept, and clients trust the directory's ca.pem",
	"tlskey":     "simlab makes its own certificate; with -state it is kept, and clients trust the directory's ca.pem",
	"trace":      "simlab does not trace; let the client do so, as with govc's -trace or -debug",
	"trace-file": "simlab does not trace; let the client do so, as with govc's -trace or -debug",
}

func (v *vcsimFlags) define(f *flag.FlagSet, s *vspheretest.Server) {
	v.model, v.names = simulator.VPX(), make(map[string]bool)
	before := make(map[string]bool)
	f.VisitAll(func(f *flag.Flag) { before[f.Name] = true })
	m := v.model
	for _, c := range []struct {
		name string
		to   *int
		what string
	}{
		{"dc", &m.Datacenter, "datacenters"},
		{"cluster", &m.Cluster, "clusters in each datacenter"},
		{"host", &m.ClusterHost, "hosts in each cluster"},
		{"standalone-host", &m.Host, "hosts by themselves in each datacenter"},
		{"ds", &m.Datastore, "datastores"},
		{"vm", &m.Machine, "VMs in each resource pool"},
		{"pool", &m.Pool, "resource pools in each cluster"},
		{"app", &m.App, "vApps in each cluster"},
		{"pod", &m.Pod, "datastore clusters in each datacenter"},
		{"pg", &m.Portgroup, "distributed port groups in each datacenter"},
		{"pg-nsx", &m.PortgroupNSX, "port groups of NSX in each datacenter"},
		{"nsx", &m.OpaqueNetwork, "opaque networks of NSX in each datacenter"},
		{"folder", &m.Folder, "datacenters that are in a folder"},
		{"delay", &m.DelayConfig.Delay, "milliseconds that every call takes"},
	} {
		f.IntVar(c.to, c.name, *c.to, "as vcsim: `number` of "+c.what)
	}
	f.BoolVar(&m.Autostart, "autostart", true, "as vcsim: power on the inventory's VMs")
	f.BoolVar(&v.esx, "esx", false, "as vcsim: serve an ESXi host instead of a vCenter")
	f.StringVar(&v.env, "E", "", "as vcsim: `file` or fifo to write the variables to, \"-\" for standard output")
	f.StringVar(&s.Addr, "l", s.Addr, "as vcsim: `address` to serve on, as -addr")
	f.StringVar(&s.Username, "username", s.Username, "as vcsim: user `name` to log in with (any, by default)")
	f.StringVar(&s.Load, "load", "", "as vcsim: `directory` that \"govc object.save\" wrote, to load the inventory from")
	f.StringVar(&m.ServiceContent.About.ApiVersion, "api-version", m.ServiceContent.About.ApiVersion, "as vcsim: `version` of the API")
	f.BoolVar(&v.tls, "tls", true, "as vcsim: serve with TLS")
	f.StringVar(&v.methodDelay, "method-delay", "", "as vcsim: `milliseconds` that calls of a method take, as in \"CloneVM_Task:100,Login:5\"")
	f.Float64Var(&m.DelayConfig.DelayJitter, "delay-jitter", 0, "as vcsim: `coefficient` of the delays' variation")
	f.BoolVar(&v.stdinExit, "stdinexit", false, "as vcsim: stop at the first byte, or the end, of standard input")
	for name := range refused {
		if name == "trace" {
			f.Bool(name, false, "not here: "+refused[name])
		} else {
			f.String(name, "", "not here: "+refused[name])
		}
	}
	f.IntVar(&v.tunnel, "tunnel", -1, "as vcsim: `port` of the proxy through which extensions log in; 0 is a free one")
	f.VisitAll(func(f *flag.Flag) {
		if !before[f.Name] {
			v.names[f.Name] = true
		}
	})
}

// apply makes the Server one with vcsim's inventory, if one of vcsim's flags is among those given. It
// reports whether it did.
func (v *vcsimFlags) apply(f *flag.FlagSet, s *vspheretest.Server) (bool, error) {
	given := make(map[string]bool)
	is := false
	f.Visit(func(f *flag.Flag) {
		given[f.Name] = true
		is = is || v.names[f.Name]
	})
	if !is {
		return false, nil
	}
	var errs []error
	for _, name := range []string{"guests", "datacenter", "hosts", "datastore", "network", "resource-pool", "template", "pools", "disk"} {
		if given[name] {
			errs = append(errs, fmt.Errorf("-%s is not for an inventory of vcsim's flags", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		if given[name] {
			errs = append(errs, fmt.Errorf("-%s: %s", name, refused[name]))
		}
	}
	errs = append(errs, v.delays())
	s.PlainHTTP = !v.tls
	if v.tunnel >= 0 {
		host, _, err := net.SplitHostPort(s.Addr)
		errs = append(errs, err)
		s.ProxyAddr = net.JoinHostPort(host, strconv.Itoa(v.tunnel))
	}
	if given["api-version"] {
		v.model.ServiceContent.About.FullName += " (simlab)" // is not replaced by that of a current one
	}
	if v.esx {
		m := simulator.ESX()
		m.Datastore, m.Machine, m.Autostart = v.model.Datastore, v.model.Machine, v.model.Autostart
		m.DelayConfig = v.model.DelayConfig
		v.model = m
	}
	s.Model = v.model
	s.Datacenter, s.Hosts, s.Datastores, s.Networks, s.ResourcePools, s.Templates = "", 0, nil, nil, nil, nil
	for name, secret := range map[string]*string{"username": &s.Username, "password": &s.Password} {
		if given[name] {
			value, err := session.Secret(*secret) // as vcsim: the value may be in a file
			errs = append(errs, err)
			*secret = value
		}
	}
	if given["username"] && !given["password"] {
		errs = append(errs, errors.New("-username is given and -password is not"))
	}
	if !given["user"] && !given["username"] {
		s.Username, s.AnyLogin = "", true
		if !given["password"] {
			s.Password = ""
		}
	}
	if !given["state"] {
		s.StateDir = ""
	} else {
		s.OS = new(sshguest.OS) // the holder of the key logs in
	}
	if !given["jump"] {
		s.JumpAddr = ""
	}
	if !given["latency"] {
		s.Latency = vspheretest.Fast()
	}
	return true, errors.Join(errs...)
}

// delays makes -method-delay the model's.
func (v *vcsimFlags) delays() error {
	if v.methodDelay == "" {
		return nil
	}
	all := make(map[string]int)
	for _, part := range strings.Split(v.methodDelay, ",") {
		method, ms, _ := strings.Cut(strings.TrimSpace(part), ":")
		n, err := strconv.Atoi(ms)
		if err != nil || method == "" || n < 0 {
			return fmt.Errorf("-method-delay %q: want METHOD:MILLISECONDS, separated by commas", part)
		}
		all[method] = n
	}
	v.model.DelayConfig.MethodDelay = all
	return nil
}

// welcome writes the line that vcsim writes.
func (v *vcsimFlags) welcome(s *vspheretest.Server, out io.Writer) error {
	line := fmt.Sprintf("export GOVC_URL=%s GOVC_SIM_PID=%d\n", s.URL, os.Getpid())
	if v.env == "" || v.env == "-" {
		_, err := io.WriteString(out, line)
		return err
	}
	w, err := os.OpenFile(v.env, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, line)
	return errors.Join(err, w.Close())
}
