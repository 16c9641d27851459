// Reallab serves a simulated vCenter whose guests are real Linux machines, until it is interrupted:
// what examples/simlab is, without the simulated guests. It needs root, and prints what else is
// missing. As root:
//
//	# cd e2e/realguests && go run ./reallab
//	export GOVC_URL='https://127.0.0.1:8989/sdk'
//	...
//	# guests: ssh -F .../ssh_config ADDRESS
//
// In another terminal, after pasting these lines:
//
//	# govc vm.clone -vm e2e-template-debian12 -on vm1 && govc vm.ip -a -v4 vm1
//	# ssh -F .../ssh_config 10.0.9.25
//	# go test ./e2e -run Pools -v -timeout 30m
//
// Nothing is kept but images: when reallab ends, its machines are gone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/poolready/poolready/e2e"
	"github.com/poolready/poolready/e2e/realguests"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "reallab:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("reallab", flag.ContinueOnError)
	addr := f.String("addr", "127.0.0.1:8989", "`address` to serve vCenter's API on")
	jump := f.String("jump", "127.0.0.1:8922", "`address` to serve the SSH jump host on")
	kind := f.String("kind", string(realguests.Containers), "`kind` of guests: containers or vms")
	system := f.String("os", "debian12", "`system` of the template")
	stack := f.String("stack", realguests.Stacks[0],
		"who configures its network: "+strings.Join(realguests.Stacks, ", "))
	pools := f.Int("pools", 1, "`number` of con/dis pools that addresses are reserved for")
	cache := f.String("cache", "", "`directory` of images and machines (default in the user's cache)")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	topology := e2e.DefaultTopology().On(*system, *system)
	topology.Pools, topology.DiskGiB = *pools, 8
	site, err := realguests.Open(ctx, realguests.Options{
		Kind: realguests.Kind(*kind), Topology: topology, Stack: *stack, Cache: *cache,
		Logf: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	})
	if err != nil {
		return err
	}
	defer site.Close()
	srv := vspheretest.NewUnstartedServer(nil)
	defer srv.Close()
	if err := site.Configure(srv); err != nil {
		return err
	}
	srv.Addr, srv.JumpAddr = *addr, *jump
	if err := start(srv); err != nil { //nolint:contextcheck // it runs until Close
		return err
	}
	if err := site.Welcome(out, srv); err != nil {
		return err
	}
	fmt.Fprintln(out, "# Ctrl-C ends it")
	<-ctx.Done()
	return nil
}

// start turns the Server's panic, which suits a test, into an error.
func start(srv *vspheretest.Server) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v; choose other addresses with -addr and -jump", p)
		}
	}()
	srv.Start()
	return nil
}
