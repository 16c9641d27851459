package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/pool"
)

// An Operation is something to do with a set besides running tests on it. Run checks it as a whole
// before anything is touched, and refuses what does not go together.
//
//	plan      print what the main job would do, and why
//	status    print who uses which pool, and how each stands
//	verify    run all checks on all hosts; it fails if one does
//	diff      print what changed on each host since its golden was ready, and since it was
//	rebuild   build anew: Role golden is all of the set, con or dis that role, none the Pools
//	reset     put the pools back to pool-ready, and prove that they are clean
//	keep      leave the Pools to a person, For a time
//	release   free the Pools that are kept or cool down
//	sweep     list what the topology no longer has; with Yes remove it
//	destroy   remove the set, after asking for its name unless Yes
type Operation struct {
	Name string
	Role string // of rebuild
	// For is how long keep keeps; 0 means 4 hours.
	For time.Duration
	// OlderThan spares what sweep finds and is younger, or of unknown age.
	OlderThan time.Duration
	Yes       bool
	// JSON is where status and verify write their result as JSON, beside the table; nil is nowhere.
	JSON io.Writer
	// Ask asks a person and returns the answer; it is for destroy. nil asks nobody, so that Yes is
	// needed.
	Ask func(question string) (string, error)
}

// A kind is one kind of operation.
type kind struct {
	name  string
	takes []string // fields, besides the pools
	pools string   // "some": may be chosen; "named": must be; "all": the whole set
	run   func(Operation, context.Context, pool.Spec, io.Writer) error
}

var operations = []kind{
	{"plan", nil, "some", Operation.plan},
	{"status", []string{"JSON"}, "some", Operation.status},
	{"verify", []string{"JSON"}, "some", Operation.verify},
	{"diff", nil, "some", Operation.diff},
	{"rebuild", []string{"Role"}, "some", Operation.rebuild},
	{"reset", nil, "some", Operation.reset},
	{"keep", []string{"For"}, "named", Operation.keep},
	{"release", nil, "named", Operation.release},
	{"sweep", []string{"Yes", "OlderThan"}, "all", Operation.sweep},
	{"destroy", []string{"Yes"}, "all", Operation.destroy},
}

// Validate says in one sentence why the operation cannot be on these pools; none is all.
func (o Operation) Validate(only []int) error {
	var names []string
	for _, op := range operations {
		names = append(names, op.name)
		if op.name != o.Name {
			continue
		}
		for field, set := range map[string]bool{"Role": o.Role != "", "For": o.For != 0, "OlderThan": o.OlderThan != 0, "Yes": o.Yes, "JSON": o.JSON != nil} {
			if set && !slices.Contains(op.takes, field) {
				return fmt.Errorf("%s does not take %s", o.Name, flagOf[field])
			}
		}
		switch {
		case o.For < 0 || o.OlderThan < 0:
			return fmt.Errorf("%s cannot be for a time below 0", o.Name)
		case op.pools == "named" && len(only) == 0:
			return fmt.Errorf("%s needs -pools: it is about pools by number", o.Name)
		case op.pools == "all" && len(only) > 0:
			return fmt.Errorf("%s is about the whole set, not only some pools", o.Name)
		}
		return o.validateRebuild(only)
	}
	return fmt.Errorf("there is no operation %q, but %s", o.Name, strings.Join(names, ", "))
}

// flagOf are the fields as the flags of this package's tests have them.
var flagOf = map[string]string{"Role": "-role", "For": "-for", "OlderThan": "-older-than", "Yes": "-yes", "JSON": "-json-to"}

func (o Operation) validateRebuild(only []int) error {
	switch {
	case o.Name != "rebuild":
		return nil
	case o.Role == "" && len(only) == 0:
		return errors.New("rebuild needs -role golden, con or dis, or -pools, or both")
	case !slices.Contains([]string{"", Golden, Con, Dis}, o.Role):
		return fmt.Errorf("rebuild knows the roles golden, con and dis, not %q", o.Role)
	case o.Role == Golden && len(only) > 0:
		return errors.New("a new golden rebuilds the whole set, not only some pools")
	}
	return nil
}

// Run does the operation on the spec's pools, and writes what people should see to w.
func (o Operation) Run(ctx context.Context, spec pool.Spec, w io.Writer) error {
	if err := o.Validate(spec.Only); err != nil {
		return err
	}
	i := slices.IndexFunc(operations, func(k kind) bool { return k.name == o.Name })
	return operations[i].run(o, ctx, spec, w)
}

func (o Operation) plan(ctx context.Context, spec pool.Spec, w io.Writer) error {
	work, err := pool.MakePlan(ctx, spec)
	if work != nil {
		fmt.Fprintln(w, work)
	}
	return err
}

func (o Operation) status(ctx context.Context, spec pool.Spec, w io.Writer) error {
	st, err := pool.ReadStatus(ctx, spec)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, st)
	return o.json(st.JSON())
}

func (o Operation) json(text string) error {
	if o.JSON == nil {
		return nil
	}
	_, err := fmt.Fprintln(o.JSON, text)
	return err
}

func (o Operation) verify(ctx context.Context, spec pool.Spec, w io.Writer) error {
	report, err := pool.Verify(ctx, spec)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, report)
	if err := o.json(report.JSON()); err != nil {
		return err
	}
	if n := len(report.Failed()); n > 0 {
		return fmt.Errorf("%d checks failed", n)
	}
	return nil
}

// diff prints what changed on each host: from its golden to pool-ready, which is what the recipe
// did, and from then to now.
func (o Operation) diff(ctx context.Context, spec pool.Spec, w io.Writer) error {
	return pool.Visit(ctx, spec, func(ctx context.Context, h *pool.Host) error {
		golden, err := h.FactsWhenReady(ctx, Golden)
		if err != nil {
			return err
		}
		ready, err := h.FactsWhenReady(ctx, h.Role)
		if err != nil {
			return err
		}
		now, err := h.Facts(ctx)
		if err != nil {
			return err
		}
		for _, part := range []struct {
			what    string
			changes []pool.Change
		}{{"since golden was ready", pool.Diff(h.Name, golden, ready)}, {"since it became ready", pool.Diff(h.Name, ready, now)}} {
			fmt.Fprintf(w, "%s: %d changes %s\n", h.Name, len(part.changes), part.what)
			for _, c := range part.changes {
				fmt.Fprintf(w, "  %s\n", c)
			}
		}
		return nil
	})
}

func (o Operation) rebuild(ctx context.Context, spec pool.Spec, _ io.Writer) error {
	return pool.Rebuild(ctx, spec, pool.RebuildOptions{Layer: o.Role})
}

func (o Operation) reset(ctx context.Context, spec pool.Spec, w io.Writer) error {
	if err := pool.Reset(ctx, spec); err != nil {
		return err
	}
	return Operation{}.status(ctx, spec, w)
}

func (o Operation) keep(ctx context.Context, spec pool.Spec, w io.Writer) error {
	if err := pool.Keep(ctx, spec, pool.KeepOptions{For: o.For}); err != nil {
		return err
	}
	if err := (Operation{}).status(ctx, spec, w); err != nil {
		return err
	}
	fmt.Fprintln(w, "to free a pool: -op release -pools N; to look at its hosts:")
	return pool.Visit(ctx, spec, func(_ context.Context, h *pool.Host) error {
		_, err := fmt.Fprintf(w, "  %s: %s\n", h.Name, h.Look())
		return err
	})
}

func (o Operation) release(ctx context.Context, spec pool.Spec, w io.Writer) error {
	if err := pool.Release(ctx, spec); err != nil {
		return err
	}
	return Operation{}.status(ctx, spec, w)
}

func (o Operation) sweep(ctx context.Context, spec pool.Spec, w io.Writer) error {
	what := pool.SweepOptions{OlderThan: o.OlderThan}
	found, err := pool.Sweep(ctx, spec, what)
	fmt.Fprintf(w, "%d VMs of set %q are not in the topology\n", len(found), spec.Name)
	for _, l := range found {
		fmt.Fprintf(w, "  %s\n", l)
	}
	if err != nil || len(found) == 0 {
		return err
	}
	if !o.Yes {
		fmt.Fprintln(w, "nothing was removed: -yes removes them")
		return nil
	}
	what.Remove = true
	found, err = pool.Sweep(ctx, spec, what)
	for _, l := range found {
		fmt.Fprintf(w, "  %s\n", l)
	}
	return err
}

func (o Operation) destroy(ctx context.Context, spec pool.Spec, w io.Writer) error {
	st, err := pool.ReadStatus(ctx, spec)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, st)
	if !o.Yes {
		if o.Ask == nil {
			return errors.New("nothing was removed: there is nobody to ask for the set's name; -yes goes without")
		}
		answer, err := o.Ask(fmt.Sprintf("This removes every VM of set %q. Type its name to go on: ", spec.Name))
		if err != nil {
			return fmt.Errorf("nothing was removed: nobody could be asked for the set's name (-yes goes without): %w", err)
		}
		if answer != spec.Name {
			return fmt.Errorf("nothing was removed: %q is not the name of set %q", answer, spec.Name)
		}
	}
	removed, err := pool.Destroy(ctx, spec)
	for _, name := range removed {
		fmt.Fprintf(w, "  %s: removed\n", name)
	}
	if err == nil {
		fmt.Fprintf(w, "set %q is gone: %d VMs were removed\n", spec.Name, len(removed))
	}
	return err
}

// AskTerminal asks at the terminal, which go test's own stdin is not.
func AskTerminal(question string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer tty.Close()
	if _, err := fmt.Fprint(tty, question); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(tty).ReadString('\n')
	return strings.TrimSpace(line), err
}
