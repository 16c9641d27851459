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
	"flag"
	"fmt"
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
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "reallab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	addr := flag.String("addr", "127.0.0.1:8989", "`address` to serve vCenter's API on")
	jump := flag.String("jump", "127.0.0.1:8922", "`address` to serve the SSH jump host on")
	system := flag.String("os", "debian12", "`system` of the template")
	stack := flag.String(
		"stack",
		"",
		"who configures its network: "+strings.Join(realguests.Stacks, ", "),
	)
	pools := flag.Int("pools", 1, "`number` of con/dis pools that addresses are reserved for")
	cache := flag.String("cache", "", "`directory` of images and machines")
	flag.Parse()
	topology := e2e.DefaultTopology().On(*system, *system)
	topology.Pools, topology.DiskGiB = *pools, 8
	site, err := realguests.Open(ctx, realguests.Options{
		Topology: topology, Stack: *stack, Cache: *cache,
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
	if err := site.Welcome(os.Stdout, srv); err != nil {
		return err
	}
	fmt.Println("# Ctrl-C ends it")
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
