package report

import (
	"fmt"
	"html/template"
	"time"

	"github.com/poolready/poolready/pool/events"
)

// How much is shown of what may be many.
const (
	slowest  = 10
	maxWaits = 60
)

// A model is what the page shows.
type model struct {
	Title     string
	From, To  time.Time
	Totals    []total
	Processes []process
	Failures  []failure
	Setups    []setup
	Ticks     []tick
	Hosts     []row
	Pools     []row
	Waits     []row
	MoreWaits int
	Checks    []checkGroup
	Slowest   []part
	Tests     []testRun
	Calls     []count
	Notes     []note
}

type total struct {
	Name, Value string
	Bad         bool
}

type process struct {
	events.About
	Name       string
	File       string
	From       time.Time
	Took       float64
	Unfinished int // things that were going on when its record ends
	Bad        int
	Cut        string
}

type failure struct {
	At                              time.Time
	Process, Set, What, Name, Error string
	Evidence                        *link
	Infrastructure                  bool
}

type setup struct {
	Process, Set, Name string
	Took, Expect       float64
	Error              string
	Open               bool
	Plan               []events.Item
	Works              bool // it does more than reuse
	Stages             []stage
}

type stage struct {
	Name          string
	Count, Failed int
	Took          float64
	Open          bool
	Calls         []count
	Total         int
}

type count struct {
	Name string
	N    int
}

type tick struct {
	Style template.CSS
	Text  string
}

// A row is a line of the timeline.
type row struct {
	Key, Name, About string
	Failed           bool
	Bars             []bar
	Parts            []part // what a click shows
}

type bar struct {
	Class, Title, Text string
	Style              template.CSS
	start, end         time.Time
}

// A part is something that took time.
type part struct {
	At                     time.Time
	Kind, Name, Where      string
	Took                   float64
	Failed, Open           bool
	Want, Got, Error, Text string
	Check                  bool
}

type checkGroup struct {
	Role, Name    string
	Passed, Count int
	Results       []result
	Took          float64 // the longest
}

type result struct {
	Want, Got, Error string
	Failed           bool
	Hosts            []string
}

type testRun struct {
	At                       time.Time
	Process, Test, Set, Text string
	Pool                     int
	Waited, Reset, Took      float64
	Failed, Open             bool
	Error                    string
	Evidence                 *link
}

type note struct {
	At            time.Time
	Process, Text string
}

// seconds is a duration for people, three digits at most.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return "0"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", s)
	case d < time.Hour:
		return fmt.Sprintf("%d:%02d min", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d:%02d h", int(d.Hours()), int(d.Minutes())%60)
}
