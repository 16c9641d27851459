package report_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/eventlog"
	"github.com/poolready/poolready/pool/report"
)

const hostile = `</script><script>document.title="pwned"</script><img src=x onerror='document.title="pwned"'>{{.}}` + "\x00\u202e"

var start = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// A story is what a process is said to have done.
type story struct {
	log events.Log
	id  int
}

func newStory(program string, pid int) *story {
	s := &story{}
	s.log.File = fmt.Sprintf("/out/events/%s-%d.jsonl", program, pid)
	s.log.About = events.About{Version: 1, Program: program, Directory: "/src/" + program, Events: "/out/events", User: "ci", Machine: "runner", PID: pid}
	s.log.Events = []events.Event{{Time: start, Kind: events.Process, About: &s.log.About}}
	return s
}

// add adds an event that begins at a second and takes some.
func (s *story) add(at, took float64, e events.Event) {
	s.id++
	e.ID, e.Set = s.id, "lab"
	e.Start = start.Add(time.Duration(at * float64(time.Second)))
	e.Seconds = took
	e.Time = e.Start.Add(time.Duration(took * float64(time.Second)))
	s.log.Events = append(s.log.Events, e)
}

func text(s string) *string { return &s }

// build is the story of a build and of tests that went wrong in every way.
func build() []events.Log {
	s := newStory("e2e.test", 7)
	s.add(0, 60, events.Event{Kind: events.Setup, Name: "set up"})
	s.add(0, 0, events.Event{Kind: events.Plan, Expect: 90, Items: []events.Item{
		{VM: "golden", Role: "golden", Action: "clone", Reason: "does not exist"},
		{VM: "con1", Role: "con", Pool: 1, Action: "rebuild", Reason: hostile},
		{VM: "con2", Role: "con", Pool: 2, Action: "clone", Reason: "does not exist"},
	}})
	s.add(1, 20, events.Event{Kind: events.Stage, Stage: "golden", Count: 1, Calls: map[string]int{"CloneVM_Task": 1, "Login": 3}})
	s.add(1, 20, events.Event{Kind: events.Host, Stage: "golden", Host: "golden", Role: "golden", Text: "is golden-ready"})
	s.add(2, 19, events.Event{Kind: events.Step, Stage: "golden", Host: "golden", Role: "golden", Name: hostile})
	s.add(21, 30, events.Event{Kind: events.Stage, Stage: "ready con", Count: 2, Failed: 1})
	s.add(21, 30, events.Event{Kind: events.Host, Stage: "ready con", Host: "con1", Role: "con", Pool: 1, Text: "is pool-ready"})
	s.add(21, 25, events.Event{Kind: events.Host, Stage: "ready con", Host: "con2", Role: "con", Pool: 2, Error: "1 of 2 checks failed"})
	s.add(30, 1, events.Event{Kind: events.Check, Stage: "ready con", Host: "con1", Role: "con", Pool: 1, Name: "served", Want: text("yes"), Got: text("yes")})
	s.add(30, 1, events.Event{Kind: events.Check, Stage: "ready con", Host: "con2", Role: "con", Pool: 2, Name: "served", Want: text("yes"), Got: text(hostile)})
	s.add(46, 0, events.Event{Kind: events.Failure, Stage: "ready con", Host: "con2", Pool: 2, Error: "check \"served\": " + hostile, Evidence: "/out/evidence/ready con-con2 " + hostile, Infrastructure: true})
	s.add(46, 0, events.Event{Kind: events.Failure, Stage: "ready con", Host: "con2", Pool: 2, Error: "check \"served\": " + hostile, Evidence: "javascript:alert(1)"})
	s.add(60, 12, events.Event{Kind: events.Acquire, Test: "TestMirror", Pool: 1})
	s.add(61, 9, events.Event{Kind: events.Reset, Test: "TestMirror", Pool: 1})
	s.add(72, 40, events.Event{Kind: events.Test, Test: "TestMirror", Pool: 1, Text: "reset", Error: "the test failed", Evidence: "javascript:alert(1)"})
	s.add(112, 8, events.Event{Kind: events.Reset, Test: "TestMirror", Pool: 1})
	s.add(60, 60, events.Event{Kind: events.Wait, Test: "TestOther", Name: "TestOther: waiting for a pool", Text: "pool 1 is held by TestMirror"})
	s.add(60, 60, events.Event{Kind: events.Acquire, Test: "TestOther", Pool: 1})
	s.add(120, 5, events.Event{Kind: events.Test, Test: "TestOther", Pool: 1, Text: "reset"})
	s.add(125, 3, events.Event{Kind: events.Reset, Test: "TestOther", Pool: 1, Open: true})
	s.add(125, 0, events.Event{Kind: events.Note, Text: hostile})
	s.add(126, 0, events.Event{Kind: events.Calls, Calls: map[string]int{"CloneVM_Task": 3, "Login": 1}})
	slices.SortStableFunc(s.log.Events[1:], func(a, b events.Event) int { return a.Began().Compare(b.Began()) })
	other := newStory("e2e.test", 8)
	other.add(2, 58, events.Event{Kind: events.Wait, Name: "waiting for another process, which builds the set", Text: "building: ready con"})
	return []events.Log{s.log, other.log}
}

func write(t testing.TB, logs []events.Log) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, report.Write(&b, logs, "/out"))
	return b.String()
}

// A document is a page as a browser has it.
type document struct{ root *html.Node }

func parse(t testing.TB, page string) document {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	require.NoError(t, err)
	return document{root}
}

// all are the elements of a name, with an id if that is not "".
func (d document) all(name, id string) (list []*html.Node) {
	for n := range d.root.Descendants() {
		if n.Type == html.ElementNode && n.Data == name && (id == "" || attr(n, "id") == id) {
			list = append(list, n)
		}
	}
	return list
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// says is what an element says, in one line.
func says(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data + " ")
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// section is what a section of the page says.
func (d document) section(t testing.TB, id string) string {
	t.Helper()
	list := d.all("section", id)
	require.Len(t, list, 1, id)
	return says(list[0])
}

// shows asserts that the page shows what build tells.
func shows(t *testing.T, d document) {
	t.Helper()
	seen := func(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }
	for id, want := range map[string][]string{
		"failures": {"con2: ready con", "infrastructure", "check \"served\": " + seen(hostile), "TestMirror on pool 1", "the test failed"},
		"timeline": {"golden: golden: ok after 20.0 s", "TestMirror on pool 1: failed after 40.0 s", "reset of pool 1: not ended after 3.0 s", "for: pool 1 is held by TestMirror", "for: building: ready con"},
		"plan":     {"1:30 min expected", "con1 con 1 rebuild " + seen(hostile), "golden 1 0 20.0 s 4 Login 3, CloneVM_Task 1"},
		"tests":    {"failed lab 1 12.0 s 9.0 s 40.0 s", "passed lab 1 1:00 min 5.0 s reset"},
		"checks":   {"con: served 1 of 2 passed", "failed yes " + seen(hostile) + " con2", "passed yes yes con1"},
		"slowest":  {"The slowest 6", "19.0 s step " + seen(hostile) + " golden"},
		"calls":    {"3 CloneVM_Task"},
		"notes":    {seen(hostile)},
	} {
		for _, w := range want {
			assert.Contains(t, d.section(t, id), w, id)
		}
	}
	assert.Equal(t, 1, strings.Count(d.section(t, "failures"), "con2: ready con"), "it appears once")
	assert.Contains(t, says(d.all("main", "main")[0]), "its record ends with 1 unfinished")
}

func TestTheReportShowsWhatTheEventsSay(t *testing.T) {
	t.Parallel()
	page := write(t, build())
	d := parse(t, page)
	shows(t, d)
	assert.Len(t, d.all("script", ""), 1, "but for its own there is none")
	assert.Empty(t, d.all("img", ""))
	for _, a := range d.all("a", "") {
		assert.Regexp(t, `^(#|\./|file:///|$)`, attr(a, "href"))
	}
	assert.Contains(t, page, `href="./evidence/ready%20con-con2%20`)
	assert.NotRegexp(t, `(src|href)="?(https?:)?//`, page, "nothing is fetched")
}

func TestAReportIsWrittenForADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := report.WriteFile("", dir)
	require.Error(t, err)
	l, err := eventlog.Open(filepath.Join(dir, "events"), eventlog.Options{Set: "lab"})
	require.NoError(t, err)
	l.Begin(events.Event{Kind: events.Setup, Name: "set up"}).End(nil)
	l.Close()
	file, err := report.WriteFile("", dir)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "report.html"), file)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, says(parse(t, string(data)).root), "set up set lab")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 2)
}

// large is the story of many hosts, each with some sixty checks.
func large(hosts int) []events.Log {
	s := newStory("e2e.test", 7)
	s.add(0, 3600, events.Event{Kind: events.Setup, Name: "set up"})
	for n := range hosts {
		host := events.Event{Stage: "ready con", Host: fmt.Sprint("con", n+1), Role: "con", Pool: n + 1}
		is := func(kind events.Kind) events.Event { e := host; e.Kind = kind; return e }
		e := is(events.Host)
		e.Text = "is pool-ready"
		s.add(float64(10*n), 60, e)
		for i := range 60 {
			e := is(events.Check)
			e.Name, e.Want, e.Got = fmt.Sprint("check-", i), text(e.Host), text(e.Host)
			s.add(float64(10*n+20), 0.1, e)
		}
		s.add(3600+float64(n), 30, events.Event{Kind: events.Test, Test: fmt.Sprint("TestNumber", n), Pool: n + 1})
	}
	return []events.Log{s.log}
}

func TestAFewHundredHostsFitAReport(t *testing.T) {
	t.Parallel()
	page := write(t, large(300))
	assert.Less(t, len(page), 12<<20, "bytes")
	rows := 0
	for _, n := range parse(t, page).all("details", "") {
		if strings.HasPrefix(attr(n, "class"), "row") {
			rows++
		}
	}
	assert.Equal(t, 600, rows)
}

// TestColorsAreReadable computes the contrast of each color of text with its background.
func TestColorsAreReadable(t *testing.T) {
	t.Parallel()
	css, err := fs.ReadFile(os.DirFS("."), "report.css")
	require.NoError(t, err)
	light, dark, ok := strings.Cut(string(css), "prefers-color-scheme: dark")
	require.True(t, ok)
	for name, theme := range map[string]string{"light": light, "dark": dark} {
		colors := map[string]string{"white": "#fff"}
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]+)`).FindAllStringSubmatch(theme, -1) {
			colors[m[1]] = m[2]
		}
		for _, pair := range [][2]string{
			{"fg", "bg"},
			{"fg", "soft"},
			{"quiet", "bg"},
			{"quiet", "soft"},
			{"link", "bg"},
			{"bad", "bg"},
			{"bad", "bad-bg"},
			{"fg", "bad-bg"},
			{"quiet", "bad-bg"},
			{"link", "bad-bg"},
			{"white", "test"},
		} {
			assert.GreaterOrEqual(t, contrast(t, colors[pair[0]], colors[pair[1]]), 4.5, "%s: %s on %s", name, pair[0], pair[1])
		}
		for _, bar := range []string{"golden", "clone", "ready", "test", "reset", "wait"} {
			assert.GreaterOrEqual(t, contrast(t, colors[bar], colors["bg"]), 3.0, "%s: %s", name, bar)
		}
	}
}

// contrast is that of WCAG 2.
func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func luminance(t *testing.T, color string) float64 {
	t.Helper()
	hex := strings.TrimPrefix(color, "#")
	if len(hex) == 3 {
		hex = string([]byte{hex[0], hex[0], hex[1], hex[1], hex[2], hex[2]})
	}
	n, err := strconv.ParseUint(hex, 16, 32)
	require.NoError(t, err, color)
	part := func(shift uint) float64 {
		c := float64(n>>shift&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(16) + 0.7152*part(8) + 0.0722*part(0)
}
