// Simlab serves a simulated vCenter, with guests that can be logged in to, until it is interrupted:
//
//	go run ./examples/simlab
//
// It prints lines to paste into another terminal, after which govc, and everything that is
// configured like govc, works against it:
//
//	govc ls vm
//	govc vm.clone -vm template -on vm1
//	govc vm.ip vm1
//	ssh -F ~/.cache/poolready-simlab/ssh_config 10.0.0.10
//
// VMs, snapshots, disks, keys and the certificate are kept in the directory -state, so that the
// lab can be stopped and started again; what was on boots again. Guests run the default system of
// package vspheretest: a plain machine with root, on a flat network.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "simlab:", err)
		os.Exit(1)
	}
}

// saveEvery is how often the state is written while the lab runs; it is when it stops, too.
const saveEvery = 30 * time.Second

// run serves until ctx ends, and then saves and closes.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	log.SetOutput(io.Discard) // what vcsim has to say is of no use here
	srv := vspheretest.NewUnstartedServer(nil)
	if err := configure(srv, args, out); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if err := os.MkdirAll(srv.StateDir, 0o700); err != nil {
		return err
	}
	srv.Logf = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	if err := start(srv); err != nil {
		return err
	}
	defer srv.Close()
	if err := welcome(srv, out); err != nil {
		return err
	}

	save := time.NewTicker(saveEvery)
	defer save.Stop()
	for {
		select {
		case <-save.C:
			if err := srv.Save(); err != nil {
				return err
			}
		case <-ctx.Done():
			fmt.Fprintln(out, "# saving to", srv.StateDir)
			return srv.Save()
		}
	}
}

// start turns the Server's panic, which suits a test, into an error.
func start(srv *vspheretest.Server) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	srv.Start()
	return nil
}

// configure sets the Server's fields from flags.
func configure(srv *vspheretest.Server, args []string, out io.Writer) error {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	f := flag.NewFlagSet("simlab", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&srv.Addr, "addr", "127.0.0.1:8989", "`address` to serve vCenter's API on")
	f.StringVar(&srv.JumpAddr, "jump", "127.0.0.1:8922", "`address` to serve the SSH jump host on")
	f.StringVar(&srv.Username, "user", "administrator@vsphere.local", "user `name` to log in with")
	f.StringVar(&srv.Password, "password", "password", "password to log in with")
	f.StringVar(&srv.StateDir, "state", filepath.Join(dir, "poolready-simlab"), "`directory` to keep the lab in")
	f.StringVar(&srv.Datacenter, "datacenter", "Datacenter", "`name` of the datacenter")
	f.IntVar(&srv.Hosts, "hosts", 3, "`number` of ESXi hosts")
	list(f, "datastore", "Datastore1", "`names` of datastores, separated by commas", &srv.Datastores)
	list(f, "network", "VM Network", "`names` of port groups, separated by commas", &srv.Networks)
	list(f, "pool", "", "`names` of resource pools, separated by commas", &srv.ResourcePools)
	template := f.String("template", "template", "`path` of the template below the VM folder")
	disk := f.Int("disk", 20, "size of the template's disk in `GiB`")
	latency := f.String("latency", "brisk", "how long operations take: fast, brisk or realistic")
	factor := f.Float64("factor", 1, "multiplies all latencies")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	presets := map[string]func() vspheretest.Latency{
		"fast": vspheretest.Fast, "brisk": vspheretest.Brisk, "realistic": vspheretest.Realistic,
	}
	preset, ok := presets[*latency]
	if !ok {
		return fmt.Errorf("-latency %q: fast, brisk or realistic", *latency)
	}
	srv.Latency = preset()
	srv.Latency.Scale = *factor
	srv.Templates = []vspheretest.Template{{Path: *template, DiskGiB: *disk}}
	return nil
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

// welcome prints what to paste into another terminal, and writes the files that it names.
func welcome(srv *vspheretest.Server, out io.Writer) error {
	known := filepath.Join(srv.StateDir, "known_hosts")
	var lines strings.Builder
	fmt.Fprintf(&lines, "%s %s\n", bracketed(srv.Jump), srv.JumpKey)
	for _, k := range srv.HostKeys {
		fmt.Fprintf(&lines, "* %s\n", k) // guests are clones: they have the template's keys
	}
	if err := os.WriteFile(known, []byte(lines.String()), 0o600); err != nil {
		return err
	}
	ca := filepath.Join(srv.StateDir, "ca.pem") // the Server's own file goes with it
	if err := os.WriteFile(ca, srv.CA, 0o600); err != nil {
		return err
	}
	key := filepath.Join(srv.StateDir, "id_ed25519")

	fmt.Fprintf(out, "# a vCenter on %s, certificate %s\n", srv.URL.Host, srv.Thumbprint)
	for _, e := range srv.Env() {
		name, value, _ := strings.Cut(e, "=")
		if name == "GOVC_TLS_CA_CERTS" {
			value = ca
		}
		fmt.Fprintf(out, "export %s=%s\n", name, quote(value))
	}
	for _, e := range [][2]string{{"E2E_SSH_KEY", key}, {"E2E_KNOWN_HOSTS", known}, {"E2E_SSH_JUMP", "lab@" + srv.Jump}} {
		fmt.Fprintf(out, "export %s=%s\n", e[0], quote(e[1]))
	}
	config := filepath.Join(srv.StateDir, "ssh_config")
	if err := os.WriteFile(config, []byte(sshConfig(srv.Jump, key, known)), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(out, "# guests: ssh -F %s ADDRESS\n", quote(config))
	fmt.Fprintln(out, "# Ctrl-C saves and stops; the lab is kept in", srv.StateDir)
	return nil
}

// sshConfig is for any OpenSSH client: options on its command line would not reach the jump host.
func sshConfig(jump, key, known string) string {
	i := strings.LastIndex(jump, ":")
	return fmt.Sprintf(`Host simlab-jump
	HostName %s
	Port %s
	User lab
Host 10.* 192.168.* 172.*
	ProxyJump simlab-jump
	User root
Host *
	IdentityFile "%s"
	IdentitiesOnly yes
	UserKnownHostsFile "%s"
	StrictHostKeyChecking yes
`, jump[:i], jump[i+1:], key, known)
}

// bracketed is host:port as known_hosts has it.
func bracketed(addr string) string {
	i := strings.LastIndex(addr, ":")
	return "[" + addr[:i] + "]:" + addr[i+1:]
}

// quote is s as one word of a shell.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
