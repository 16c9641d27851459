package pool

import (
	"context"
	"fmt"
	"strings"
)

// A Diagnosis is what the hypervisor says of one VM at one moment, to explain why it does not answer.
type Diagnosis struct {
	Gone     bool   // the VM does not exist; the other fields are zero
	On       bool   // powered on
	Tools    bool   // its guest tools run
	Template bool   // it was made a template
	Question string // what the hypervisor asks before the VM can go on, with how to answer
	Host     string // what is wrong with the host that the VM is on, or ""
	Problem  string // why the hypervisor cannot use the VM ("orphaned", "inaccessible"), or ""
	Tasks    string // operations that are under way on the VM, or ""
}

// String returns all that may keep the VM from answering, or that it is powered on.
func (d Diagnosis) String() string {
	if d.Gone {
		return "the VM no longer exists"
	}
	var all []string
	add := func(on bool, text string) {
		if on {
			all = append(all, text)
		}
	}
	add(d.Template, "the VM is a template now")
	add(d.Question != "", "it waits for an answer to a question: "+d.Question)
	add(d.Host != "", d.Host)
	add(d.Problem != "", "the VM is "+d.Problem)
	add(d.Tasks != "", "under way: "+d.Tasks)
	switch {
	case !d.On:
		all = append(all, "the VM is powered off")
	case !d.Tools:
		all = append(all, "the VM is powered on, its guest tools do not run")
	default:
		all = append(all, "the VM is powered on")
	}
	return strings.Join(all, "; ")
}

// healthy reports whether nothing is known that would keep the VM from answering.
func (d Diagnosis) healthy() bool { return d == Diagnosis{On: true, Tools: d.Tools, Tasks: d.Tasks} }

type noticeKey struct{}

// WithNotices returns a context under which a Provider's methods report to f what delays them, such as
// that the hypervisor does not answer, and since when. f is called from any goroutine.
func WithNotices(ctx context.Context, f func(text string)) context.Context {
	return context.WithValue(ctx, noticeKey{}, f)
}

// notices is WithNotices, unless ctx has such a function already.
func notices(ctx context.Context, f func(text string)) context.Context {
	if ctx.Value(noticeKey{}) != nil {
		return ctx
	}
	return WithNotices(ctx, f)
}

// Notice reports to the caller of WithNotices. A Provider calls it; without WithNotices it does
// nothing.
func Notice(ctx context.Context, format string, args ...any) {
	if f, ok := ctx.Value(noticeKey{}).(func(string)); ok {
		f(fmt.Sprintf(format, args...))
	}
}
