package report

import (
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/events"
)

// A maker makes a model.
type maker struct {
	*model
	dir    string
	hosts  map[string]*row
	pools  map[string]*row
	checks map[[2]string]*checkGroup
	parts  []part
	calls  map[string]int
	waits  []row
	sums   struct {
		checks, checksFailed, tests, testsFailed, resets, resetsFailed, built, reused int
		waited, reset                                                                 float64
	}
}

func newModel(logs []events.Log, dir string) *model {
	m := &maker{
		model: &model{}, dir: dir, hosts: map[string]*row{}, pools: map[string]*row{},
		checks: map[[2]string]*checkGroup{}, calls: map[string]int{},
	}
	m.span(logs)
	sets := map[string]bool{}
	for i, log := range logs {
		name := log.About.Program
		if slices.ContainsFunc(logs, func(o events.Log) bool { return o.About.Program == name && o.File != log.File }) {
			name = fmt.Sprintf("%s %d", name, i+1)
		}
		m.process(log, name)
		for _, e := range log.Events {
			if e.Set != "" {
				sets[e.Set] = true
			}
		}
	}
	m.Title = strings.Join(slices.Sorted(maps.Keys(sets)), ", ")
	m.finish()
	return m.model
}

// span finds when the run began and ended.
func (m *maker) span(logs []events.Log) {
	m.From, m.To = logs[0].Events[0].Time, logs[0].Events[0].Time
	for _, log := range logs {
		for _, e := range log.Events {
			if b := e.Began(); b.Before(m.From) {
				m.From = b
			}
			if end := e.Began().Add(time.Duration(e.Seconds * float64(time.Second))); end.After(m.To) {
				m.To = end
			}
			if e.Time.After(m.To) {
				m.To = e.Time
			}
		}
	}
	if !m.To.After(m.From) {
		m.To = m.From.Add(time.Second)
	}
	m.ticks()
}

// steps between ticks, in seconds.
var tickSteps = []float64{0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400}

func (m *maker) ticks() {
	all := m.To.Sub(m.From).Seconds()
	i := slices.IndexFunc(tickSteps, func(s float64) bool { return all/s <= 8 })
	if i < 0 {
		i = len(tickSteps) - 1
	}
	for s := 0.0; s <= 0.94*all; s += max(tickSteps[i], all/20) {
		m.Ticks = append(m.Ticks, tick{template.CSS(fmt.Sprintf("left:%.3f%%", 100*s/all)), seconds(s)}) //nolint:gosec // numbers
	}
}

func (m *maker) bar(class string, e events.Event, text, title string) bar {
	start := e.Began()
	all := m.To.Sub(m.From).Seconds()
	left, width := 100*start.Sub(m.From).Seconds()/all, 100*e.Seconds/all
	if !e.OK() {
		class += " failed"
	}
	if e.Open {
		class += " open"
	}
	return bar{
		Class: class, Text: text, Title: title,
		Style: template.CSS(fmt.Sprintf("left:%.3f%%;width:%.3f%%", left, width)), //nolint:gosec // numbers
		start: start, end: start.Add(time.Duration(e.Seconds * float64(time.Second))),
	}
}

func (m *maker) host(e events.Event) *row {
	return find(m.hosts, e.Set+"/"+e.Host, e.Host, e)
}

func (m *maker) pool(e events.Event) *row {
	return find(m.pools, fmt.Sprintf("%s/%06d", e.Set, e.Pool), fmt.Sprintf("pool %d", e.Pool), e)
}

func find(rows map[string]*row, key, name string, e events.Event) *row {
	r := rows[key]
	if r == nil {
		r = &row{Key: fmt.Sprintf("%s/%06d/%s", e.Set, e.Pool, name), Name: name, About: e.Set}
		rows[key] = r
	}
	return r
}

func (m *maker) part(e events.Event, kind string) part {
	p := part{
		At: e.Began(), Kind: kind, Name: e.Name, Where: cmp.Or(e.Host, e.Test), Took: e.Seconds, Failed: !e.OK(), Open: e.Open,
		Error: e.Error, Text: e.Text, Check: e.Want != nil,
	}
	if e.Want != nil {
		p.Want = *e.Want
	}
	if e.Got != nil {
		p.Got = *e.Got
	}
	if e.Host == "" && e.Pool > 0 {
		p.Where = fmt.Sprintf("pool %d", e.Pool)
	}
	return p
}

// class is that of a stage's bars.
func class(stage string) string {
	word, _, _ := strings.Cut(stage, " ")
	if slices.Contains([]string{"golden", "clone", "ready"}, word) {
		return word
	}
	return "other"
}

// process adds all that one process tells.
func (m *maker) process(log events.Log, name string) {
	p := process{About: log.About, Name: name, File: log.File, From: log.Events[0].Time, Bad: log.Bad}
	var setups []*setup
	last := func() *setup { // events of a setup follow it, but for rebuilds in the background
		if len(setups) == 0 {
			setups = append(setups, &setup{Process: name, Name: "run"})
		}
		return setups[len(setups)-1]
	}
	known := map[string]int{}
	acquires := map[string]events.Event{}
	resets := map[string]float64{}
	var calls map[string]int
	for _, e := range log.Events {
		p.Took = max(p.Took, e.Time.Sub(p.From).Seconds())
		if e.Open {
			p.Unfinished++
		}
		switch e.Kind {
		case events.Setup:
			setups = append(setups, &setup{Process: name, Set: e.Set, Name: e.Name, Took: e.Seconds, Error: e.Error, Open: e.Open})
		case events.Plan:
			s := last()
			s.Plan, s.Expect = e.Items, e.Expect
			s.Works = slices.ContainsFunc(e.Items, func(i events.Item) bool { return i.Action != "reuse" })
		case events.Stage:
			s := stage{Name: e.Stage, Count: e.Count, Failed: e.Failed, Took: e.Seconds, Open: e.Open, Calls: counts(e.Calls)}
			for _, c := range s.Calls {
				s.Total += c.N
			}
			last().Stages = append(last().Stages, s)
		case events.Host:
			r := m.host(e)
			r.Bars = append(r.Bars, m.bar(class(e.Stage), e, "", fmt.Sprintf("%s: %s: %s after %s %s", e.Host, e.Stage, ending(e), seconds(e.Seconds), e.Text)))
			r.Failed = r.Failed || !e.OK()
			p := m.part(e, "stage")
			p.Name = e.Stage
			r.Parts = append(r.Parts, p)
			if word, _, _ := strings.Cut(e.Stage, " "); word == "ready" && e.OK() && !e.Open {
				if strings.HasPrefix(e.Text, "is ") && e.Text != "is in use" {
					m.sums.built++
				} else {
					m.sums.reused++
				}
			}
		case events.Phase, events.Step, events.Need:
			p := m.part(e, string(e.Kind))
			r := m.host(e)
			r.Parts = append(r.Parts, p)
			if e.Name != "checks" { // the sum of its checks
				m.parts = append(m.parts, p)
			}
			if e.Stage == "reset" {
				r.Bars = append(r.Bars, m.bar("reset", e, "", fmt.Sprintf("%s: %s for a reset: %s after %s", e.Host, e.Name, ending(e), seconds(e.Seconds))))
			}
		case events.Check:
			m.check(e)
		case events.Reset:
			r := m.pool(e)
			r.Bars = append(r.Bars, m.bar("reset", e, "", fmt.Sprintf("reset of pool %d: %s after %s", e.Pool, ending(e), seconds(e.Seconds))))
			r.Failed = r.Failed || !e.OK()
			part := m.part(e, "reset")
			part.Name = cmp.Or(e.Test, "reset")
			r.Parts, m.parts = append(r.Parts, part), append(m.parts, part)
			m.sums.resets++
			m.sums.reset += e.Seconds
			if !e.OK() {
				m.sums.resetsFailed++
			}
			if a, ok := acquires[e.Test]; ok && !e.Began().After(a.Began().Add(time.Duration(a.Seconds*float64(time.Second)))) {
				resets[e.Test] += e.Seconds
			}
		case events.Acquire:
			acquires[e.Test], resets[e.Test] = e, 0
			m.sums.waited += e.Seconds
			if !e.OK() {
				m.Tests = append(m.Tests, testRun{At: e.Began(), Process: name, Test: e.Test, Set: e.Set, Waited: e.Seconds, Failed: true, Error: e.Error})
				m.sums.tests, m.sums.testsFailed = m.sums.tests+1, m.sums.testsFailed+1
			}
		case events.Test:
			m.test(log, name, e, acquires[e.Test], resets[e.Test])
		case events.Wait:
			m.waits = append(m.waits, row{
				Name: cmp.Or(e.Test, e.Name), About: e.Text,
				Bars: []bar{m.bar("wait", e, "", fmt.Sprintf("%s: %s: %s", e.Name, seconds(e.Seconds), e.Text))},
			})
		case events.Failure:
			f := failure{
				At: e.Time, Process: name, Set: e.Set, What: where(e), Name: e.Name, Error: e.Error, Evidence: newLink(log, m.dir, e.Evidence),
				Infrastructure: e.Infrastructure,
			}
			key := strings.Join([]string{e.Set, f.What, f.Name, f.Error}, "\x00")
			if i, again := known[key]; again { // a plan that was made again has the same
				m.Failures[i].Evidence = cmp.Or(m.Failures[i].Evidence, f.Evidence)
				continue
			}
			known[key] = len(m.Failures)
			m.Failures = append(m.Failures, f)
		case events.Note:
			m.Notes = append(m.Notes, note{e.Time, name, e.Text})
		case events.Calls:
			calls = e.Calls // of the whole process: the last counts
		case events.Cut:
			p.Cut = e.Text
		}
	}
	for method, n := range calls {
		m.calls[method] += n
	}
	for _, s := range setups {
		m.Setups = append(m.Setups, *s)
	}
	m.Processes = append(m.Processes, p)
}

func where(e events.Event) string {
	return strings.Join(slices.DeleteFunc([]string{e.Test, e.Host, e.Stage}, func(s string) bool { return s == "" }), ": ")
}

func ending(e events.Event) string {
	switch {
	case e.Open:
		return "not ended"
	case !e.OK():
		return "failed"
	}
	return "ok"
}

func (m *maker) check(e events.Event) {
	p := m.part(e, "check")
	r := m.host(e)
	r.Parts = append(r.Parts, p)
	m.parts = append(m.parts, p)
	m.sums.checks++
	if p.Failed {
		m.sums.checksFailed++
	}
	key := [2]string{e.Role, e.Name}
	g := m.checks[key]
	if g == nil {
		g = &checkGroup{Role: e.Role, Name: e.Name}
		m.checks[key] = g
	}
	g.Count++
	g.Took = max(g.Took, e.Seconds)
	if !p.Failed {
		g.Passed++
	}
	i := slices.IndexFunc(g.Results, func(r result) bool {
		return r.Want == p.Want && r.Got == p.Got && r.Error == p.Error
	})
	if i < 0 {
		i = len(g.Results)
		g.Results = append(g.Results, result{Want: p.Want, Got: p.Got, Error: p.Error, Failed: p.Failed})
	}
	if !slices.Contains(g.Results[i].Hosts, e.Host) {
		g.Results[i].Hosts = append(g.Results[i].Hosts, e.Host)
	}
}

func (m *maker) test(log events.Log, name string, e, acquire events.Event, reset float64) {
	r := m.pool(e)
	r.Bars = append(r.Bars, m.bar("test", e, e.Test, fmt.Sprintf("%s on pool %d: %s after %s", e.Test, e.Pool, ending(e), seconds(e.Seconds))))
	r.Failed = r.Failed || !e.OK()
	part := m.part(e, "test")
	part.Name = e.Test
	r.Parts = append(r.Parts, part)
	m.Tests = append(m.Tests, testRun{
		At: e.Began(), Process: name, Test: e.Test, Set: e.Set, Pool: e.Pool, Waited: acquire.Seconds, Reset: reset, Took: e.Seconds,
		Failed: !e.OK(), Open: e.Open, Error: e.Error, Text: e.Text, Evidence: newLink(log, m.dir, e.Evidence),
	})
	m.sums.tests++
	if !e.OK() {
		m.sums.testsFailed++
		m.Failures = append(m.Failures, failure{
			At: e.Time, Process: name, Set: e.Set, What: fmt.Sprintf("%s on pool %d", e.Test, e.Pool), Error: e.Error, Evidence: newLink(log, m.dir, e.Evidence),
		})
	}
}

func counts(calls map[string]int) (all []count) {
	for name, n := range calls {
		all = append(all, count{name, n})
	}
	slices.SortFunc(all, func(a, b count) int { return cmp.Or(b.N-a.N, strings.Compare(a.Name, b.Name)) })
	return all
}

// rows are in the order of sets, pools and, within these, of their names.
func rows(all map[string]*row) (list []row) {
	for _, r := range all {
		slices.SortStableFunc(r.Parts, func(a, b part) int { return a.At.Compare(b.At) })
		slices.SortStableFunc(r.Bars, func(a, b bar) int { return a.start.Compare(b.start) })
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b row) int { return strings.Compare(a.Key, b.Key) })
	return list
}

// finish makes what follows from all processes.
func (m *maker) finish() {
	m.Hosts, m.Pools = rows(m.hosts), rows(m.pools)
	slices.SortFunc(m.waits, func(a, b row) int { return b.Bars[0].took().Compare(a.Bars[0].took()) })
	if m.MoreWaits = len(m.waits) - maxWaits; m.MoreWaits > 0 {
		m.waits = m.waits[:maxWaits]
	}
	slices.SortFunc(m.waits, func(a, b row) int { return a.Bars[0].start.Compare(b.Bars[0].start) })
	m.model.Waits = m.waits
	for _, g := range m.checks {
		slices.SortFunc(g.Results, func(a, b result) int {
			return cmp.Or(boolean(b.Failed)-boolean(a.Failed), strings.Compare(a.Got, b.Got))
		})
		m.Checks = append(m.Checks, *g)
	}
	slices.SortFunc(m.Checks, func(a, b checkGroup) int {
		return cmp.Or(boolean(a.Passed == a.Count)-boolean(b.Passed == b.Count), strings.Compare(a.Role, b.Role), strings.Compare(a.Name, b.Name))
	})
	slices.SortStableFunc(m.parts, func(a, b part) int { return cmp.Compare(b.Took, a.Took) })
	m.Slowest = m.parts[:min(slowest, len(m.parts))]
	slices.SortStableFunc(m.Tests, func(a, b testRun) int { return a.At.Compare(b.At) })
	slices.SortStableFunc(m.Failures, func(a, b failure) int { return a.At.Compare(b.At) })
	slices.SortStableFunc(m.Notes, func(a, b note) int { return a.At.Compare(b.At) })
	m.Calls = counts(m.calls)
	m.totals()
}

func (b bar) took() took { return took(b.end.Sub(b.start)) }

type took time.Duration

func (t took) Compare(o took) int { return cmp.Compare(t, o) }

func boolean(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *maker) totals() {
	add := func(name string, bad bool, format string, args ...any) {
		m.Totals = append(m.Totals, total{name, fmt.Sprintf(format, args...), bad})
	}
	of := func(failed, all int, what string) string {
		if failed > 0 {
			return fmt.Sprintf("%d of %d failed", failed, all)
		}
		return fmt.Sprintf("%d %s", all, what)
	}
	add("Failures", len(m.Failures) > 0, "%d", len(m.Failures))
	add("From start to end", false, "%s", seconds(m.To.Sub(m.From).Seconds()))
	add("Hosts", false, "%d built, %d reused", m.sums.built, m.sums.reused)
	add("Checks", m.sums.checksFailed > 0, "%s", of(m.sums.checksFailed, m.sums.checks, "passed"))
	if m.sums.tests > 0 {
		add("Tests on pools", m.sums.testsFailed > 0, "%s", of(m.sums.testsFailed, m.sums.tests, "passed"))
		add("Waited for pools", false, "%s in all", seconds(m.sums.waited))
	}
	if m.sums.resets > 0 {
		add("Resets", m.sums.resetsFailed > 0, "%s, %s each", of(m.sums.resetsFailed, m.sums.resets, "ok"), seconds(m.sums.reset/float64(m.sums.resets)))
	}
	n := 0
	for _, c := range m.Calls {
		n += c.N
	}
	if n > 0 {
		add("Calls to the hypervisor", false, "%d", n)
	}
	add("Processes", false, "%d", len(m.Processes))
}
