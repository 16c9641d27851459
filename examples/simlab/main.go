// Simlab serves a simulated vCenter, with guests that can be logged in to, until it is interrupted.
// In one terminal:
//
//	$ go run ./examples/simlab
//	# a vCenter on 127.0.0.1:8989, certificate 5D:1C:...
//	export GOVC_URL='https://127.0.0.1:8989/sdk'
//	...
//	export E2E_SSH_JUMP='lab@127.0.0.1:8922'
//	export E2E_EXPECT='12s'
//	# then: go test ./e2e -run Pools -v
//
// In another, after pasting these lines:
//
//	$ go test ./e2e -run Pools -v   # builds three con/dis pools
//	$ go test ./e2e -run Pools -v   # reuses them, in about a second
//	$ go test ./examples/quickstart ./examples/suites/... # share these, and build their own
//	$ govc snapshot.tree -vm con1
//	$ ssh -F ~/.cache/poolready-simlab/ssh_config 10.0.2.10 hostname
//
// Whatever is configured like govc works against it, and any SSH client that knows jump hosts
// reaches the guests.
//
// # What it serves
//
// By default, what package e2e is for: its template, port groups and address reservations, and
// guests that look like RHEL 9 to shell scripts, on networks that are modelled (see e2e/e2etest).
// The topology is e2e's default, with what E2E_* variables and the flags -template and -pools
// change in it; flags are passed on in the lines to paste, variables have to be set in both
// terminals.
//
// With -guests plain, guests are plain machines with root, on a flat network, which is enough to
// try programs on vCenter itself:
//
//	$ govc vm.clone -vm template -on vm1 && govc vm.ip -a -v4 vm1
//
// Without -a, govc shows the address that tools list first, here as on many real guests that of a
// container bridge, which no other machine can reach.
//
// # What it keeps
//
// VMs, snapshots, disks, keys and the certificate are kept in the directory -state, so that the
// lab can be stopped and started again; what was on boots again, as after a power failure. So is
// the ledger: who held a pool holds it still, until the lease is over. The lines to paste stay the
// same as long as the addresses do. State is written when the lab stops, and every half a minute; a
// second Ctrl-C does not wait for that. One simlab at a time uses a directory. Remove it to start
// again, and when another -template, -disk or -datastore is to be there: what has been made stays.
//
// # How fast it is
//
// -latency brisk keeps the stages of a VM's life in proportion, and makes seven VMs in a few
// seconds; realistic takes as long as a real vCenter does; -factor multiplies either. E2E_EXPECT
// tells the first build how long a VM takes here, since it would expect a real vCenter otherwise,
// and ask for a longer -timeout than go test has by itself.
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
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { // a second signal kills; timeout(1) sends its own twice at once
		time.AfterFunc(100*time.Millisecond, stop)
	})
	if len(os.Args) == 2 && os.Args[1] == "uuidgen" { // vcsim's, which scripts use
		fmt.Println(uuid.New())
		return
	}
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "simlab:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// saveEvery is how often the state is written while the lab runs; it is when it stops, too.
const saveEvery = 30 * time.Second

// run serves until ctx ends, and then saves and closes.
func run(ctx context.Context, args []string, out io.Writer) error {
	log.SetOutput(io.Discard)      // what vcsim has to say is of no use here
	l, err := configure(args, out) //nolint:contextcheck // what it makes ends with the server
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.unlock()
	srv := l.srv
	srv.Logf = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	if err := start(srv); err != nil { //nolint:contextcheck // the Server lives as long as the process
		return err
	}
	defer srv.Close()
	welcome := l.welcome
	if l.vcsim != nil {
		welcome = func(out io.Writer) error { return l.vcsim.welcome(srv, out) }
	}
	if err := welcome(out); err != nil {
		return err
	}
	if l.vcsim != nil && l.vcsim.stdinExit {
		fmt.Fprintln(out, "Press any key to exit")
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() { // it ends with the process
			_, _ = os.Stdin.Read(make([]byte, 1))
			cancel()
		}()
	}

	save := time.NewTicker(saveEvery)
	defer save.Stop()
	for {
		select {
		case <-save.C:
			if srv.StateDir == "" {
				continue
			}
			if err := srv.Save(); err != nil {
				return err
			}
		case <-ctx.Done():
			if srv.StateDir == "" {
				return nil
			}
			fmt.Fprintln(out, "# saving to", srv.StateDir)
			return srv.Save() // whole, or what was saved before stays
		}
	}
}

// start turns the Server's panic, which suits a test, into an error.
func start(srv *vspheretest.Server) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s", strings.TrimPrefix(fmt.Sprint(p), "vspheretest: "))
			if strings.Contains(err.Error(), syscall.EADDRINUSE.Error()) {
				err = fmt.Errorf("%w; is another simlab running? choose others with -addr and -jump", err)
			}
		}
	}()
	srv.Start()
	return nil
}
