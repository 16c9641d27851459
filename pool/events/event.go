package events

import (
	"cmp"
	"time"
)

// Version is that of the format.
const Version = 1

// Limits of what is written, in bytes.
const (
	MaxText = 4 << 10
	MaxFile = 64 << 20
)

// A Kind is what an Event tells.
type Kind string

// The kinds of events; see the package's documentation.
const (
	Process Kind = "process"
	Setup   Kind = "setup"
	Plan    Kind = "plan"
	Stage   Kind = "stage"
	Host    Kind = "host"
	Phase   Kind = "phase"
	Step    Kind = "step"
	Need    Kind = "need"
	Check   Kind = "check"
	Wait    Kind = "wait"
	Lease   Kind = "lease"
	Acquire Kind = "acquire"
	Test    Kind = "test"
	Reset   Kind = "reset"
	Failure Kind = "failure"
	Note    Kind = "note"
	Calls   Kind = "calls"
	Cut     Kind = "cut"
)

// An Event is one line of the record. Which fields it has depends on its Kind; others are zero.
type Event struct {
	Time time.Time `json:"time"` // when it was written: of a span that ended, its end
	Kind Kind      `json:"kind"`

	ID      int       `json:"id,omitempty"`     // of a span, in its file
	Open    bool      `json:"open,omitempty"`   // the span begins, and has not ended
	Start   time.Time `json:"start,omitzero"`   // when the span, or the check, began
	Seconds float64   `json:"s,omitempty"`      // how long it took
	Expect  float64   `json:"expect,omitempty"` // how many seconds were expected

	Set   string `json:"set,omitempty"`
	Pool  int    `json:"pool,omitempty"`
	Host  string `json:"host,omitempty"`
	Role  string `json:"role,omitempty"`
	Stage string `json:"stage,omitempty"`
	Test  string `json:"test,omitempty"`
	Name  string `json:"name,omitempty"`

	Text  string  `json:"text,omitempty"`
	Want  *string `json:"want,omitempty"` // nil unless a check; "" wants nothing but that it can look
	Got   *string `json:"got,omitempty"`
	Error string  `json:"error,omitempty"` // what failed did; "" if it did not fail
	// Evidence is the directory of what was collected of a failure; see Log.Path.
	Evidence       string `json:"evidence,omitempty"`
	Infrastructure bool   `json:"infrastructure,omitempty"` // the failure is a pool.ErrInfrastructure

	Count  int            `json:"count,omitempty"`
	Failed int            `json:"failed,omitempty"`
	Items  []Item         `json:"items,omitempty"`
	Calls  map[string]int `json:"calls,omitempty"`
	About  *About         `json:"process,omitempty"`
}

// An Item is what a plan does with one VM.
type Item struct {
	VM     string `json:"vm"`
	Role   string `json:"role"`
	Pool   int    `json:"pool,omitempty"` // 0 for golden
	Action string `json:"action"`
	Reason string `json:"reason"`
}

// About says which process has written a file.
type About struct {
	Version   int    `json:"version"`
	Program   string `json:"program"`
	Directory string `json:"directory"` // in which it ran: of go test, that of the package
	Events    string `json:"events"`    // the directory of its file
	User      string `json:"user"`
	Machine   string `json:"machine"`
	PID       int    `json:"pid"`
}

// OK reports whether the event tells of nothing that failed.
func (e Event) OK() bool {
	return e.Error == "" && e.Failed == 0 && (e.Want == nil || *e.Want == "" || e.Got != nil && *e.Got == *e.Want)
}

// Began returns when the event, or what it tells of, began.
func (e Event) Began() time.Time {
	if e.Start.IsZero() {
		return e.Time
	}
	return e.Start
}

func compare(a, b Event) int { return cmp.Or(a.Began().Compare(b.Began()), cmp.Compare(a.ID, b.ID)) }
