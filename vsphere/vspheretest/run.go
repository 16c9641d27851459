package vspheretest

import (
	"context"
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
)

// Run is simulator.Run with a Server: it starts one for each model, with the latencies of Fast, or
// one of simulator.VPX() if there is none, calls f with a client that is logged in and may do
// everything, and closes the Server. It panics if that, or f, returns an error.
func Run(f func(context.Context, *vim25.Client) error, model ...*simulator.Model) {
	if len(model) == 0 {
		model = []*simulator.Model{simulator.VPX()}
	}
	for _, m := range model {
		if err := runModel(f, m); err != nil {
			panic(err)
		}
	}
}

// Test is simulator.Test with a Server; see Run. f tells its own errors, as with a testing.T.
func Test(f func(context.Context, *vim25.Client), model ...*simulator.Model) {
	Run(func(ctx context.Context, c *vim25.Client) error {
		f(ctx, c)
		return nil
	}, model...)
}

func runModel(f func(context.Context, *vim25.Client) error, m *simulator.Model) error {
	s := NewUnstartedServer(nil)
	defer s.Close()
	s.Model, s.Latency = m, Fast()
	if err := s.start(); err != nil {
		return fmt.Errorf("vspheretest: start: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := s.Client(ctx)
	if err != nil {
		return err
	}
	return f(ctx, c.Client)
}
