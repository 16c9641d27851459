package report_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	_ "image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A browser is a real one, without a window.
type browser struct{ path, home string }

func newBrowser(t *testing.T) browser {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return browser{path, t.TempDir()}
		}
	}
	t.Skip("no chromium or google-chrome: the report is not opened in a browser")
	return browser{}
}

// open opens a file, and returns what was printed, and what scripts said and failed by.
func (b browser) open(t *testing.T, file string, flags ...string) (stdout, console string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args := append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
		"--user-data-dir=" + b.home, "--enable-logging=stderr", "--virtual-time-budget=2000",
	}, flags...)
	cmd := exec.CommandContext(ctx, b.path, append(args, (&url.URL{Scheme: "file", Path: file}).String())...)
	cmd.WaitDelay = 10 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), errs.String())
	var said []string
	for line := range strings.Lines(errs.String()) {
		if strings.Contains(line, "CONSOLE") {
			said = append(said, line)
		}
	}
	return out.String(), strings.Join(said, "")
}

// probe is a script that uses the page as a person would, and says what it saw.
const probe = `
const seen = {};
const $ = s => document.querySelector(s);
const boxes = s => [...document.querySelectorAll(s)].filter(e => e.offsetParent).map(e => e.getBoundingClientRect());
seen.title = document.title;
seen.overflow = document.documentElement.scrollWidth - innerWidth;
seen.dark = getComputedStyle(document.body).backgroundColor;
seen.tools = !$(".tools").hidden;
const over = list => list.some((a, i) => list.slice(i + 1).some(b => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1));
seen.totalsOverlap = over(boxes(".totals > div"));
seen.namesOverlap = over(boxes(".row .name").concat(boxes(".row .track")));
seen.sectionsOverlap = over(boxes("main > section"));
const row = [...document.querySelectorAll("details.row")].find(r => r.textContent.includes("con2"));
const summary = row.querySelector("summary");
summary.focus();
seen.focus = document.activeElement === summary;
summary.click();
seen.opened = row.open && row.querySelector("table").offsetHeight > 0;
const track = () => $(".axis .track").getBoundingClientRect().width;
const before = track();
$("#zoom-in").click();
seen.zoomed = track() / before;
$("#zoom-out").click(); $("#zoom-out").click();
seen.unzoomed = track() / before;
const filter = $("#filter");
filter.value = "CON2";
filter.dispatchEvent(new Event("input"));
seen.filtered = [...document.querySelectorAll("details.row")].filter(r => !r.hidden).map(r => r.querySelector(".name").textContent);
seen.status = $("#shown").textContent;
filter.value = "";
filter.dispatchEvent(new Event("input"));
seen.unlabelled = [...document.querySelectorAll("button, input, a, section")].filter(e => !(e.textContent.trim() || e.getAttribute("aria-label") || e.closest("label"))).length;
seen.tab = [...document.querySelectorAll("a[href], button, input, summary, [tabindex]")].every(e => e.tabIndex === 0);
document.documentElement.dataset.seen = JSON.stringify(seen);
`

type seen struct {
	Title, Dark, Status                          string
	Overflow                                     int
	Tools, Focus, Opened, Tab                    bool
	TotalsOverlap, NamesOverlap, SectionsOverlap bool
	Zoomed, Unzoomed                             float64
	Filtered                                     []string
	Unlabelled                                   int
}

func TestABrowserShowsTheReport(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	dir := t.ArtifactDir()
	page := write(t, build())
	file := filepath.Join(dir, "report.html")
	require.NoError(t, os.WriteFile(file, []byte(page), 0o600))

	dom, console := b.open(t, file, "--dump-dom")
	assert.Empty(t, console, "errors")
	d := parse(t, dom)
	shows(t, d)
	assert.NotContains(t, says(d.all("title", "")[0]), "pwned")

	// The page's own rules keep every other script from running, also one that got in.
	pwned := filepath.Join(dir, "pwned.html")
	require.NoError(t, os.WriteFile(pwned, []byte(strings.Replace(page, "</main>", `</main><script>document.title="pwned"</script>`, 1)), 0o600))
	dom, console = b.open(t, pwned, "--dump-dom")
	assert.NotContains(t, says(parse(t, dom).all("title", "")[0]), "pwned")
	assert.Contains(t, console, "Content Security Policy")

	probed := filepath.Join(dir, "probed.html")
	policy := regexp.MustCompile(`<meta http-equiv="Content-Security-Policy"[^>]*>`)
	require.NoError(t, os.WriteFile(probed, []byte(strings.Replace(policy.ReplaceAllString(page, ""), "</body>", "<script>"+probe+"</script></body>", 1)), 0o600))
	for _, test := range []struct {
		name  string
		width int
		flags []string
		dark  bool
	}{
		{"wide", 1280, nil, false},
		{"narrow", 420, nil, false},
		{"wide-dark", 1280, []string{"--blink-settings=preferredColorScheme=0"}, true},
		{"narrow-dark", 420, []string{"--blink-settings=preferredColorScheme=0"}, true},
	} {
		size := fmt.Sprintf("--window-size=%d,1400", test.width)
		dom, console := b.open(t, probed, append(test.flags, size, "--dump-dom")...)
		assert.Empty(t, console, test.name)
		var s seen
		require.NoError(t, json.Unmarshal([]byte(attr(parse(t, dom).all("html", "")[0], "data-seen")), &s), test.name)
		assert.Equal(t, "lab: run of "+start.Local().Format("2006-01-02 15:04"), s.Title)
		assert.LessOrEqual(t, s.Overflow, 0, "%s: the page is wider than the window", test.name)
		assert.True(t, s.Tools && s.Focus && s.Opened && s.Tab, "%s: %+v", test.name, s)
		assert.False(t, s.TotalsOverlap || s.NamesOverlap || s.SectionsOverlap, "%s: %+v", test.name, s)
		assert.Equal(t, []string{"con2"}, s.Filtered)
		assert.Regexp(t, `^\d+ of \d+ rows$`, s.Status)
		assert.Zero(t, s.Unlabelled)
		assert.Greater(t, s.Zoomed, 1.9, "the track grows by more than the row")
		assert.InDelta(t, 1, s.Unzoomed, 0.01)
		want := "rgb(255, 255, 255)"
		if test.dark {
			want = "rgb(15, 20, 25)"
		}
		assert.Equal(t, want, s.Dark, test.name)

		shot := filepath.Join(dir, test.name+".png")
		b.open(t, file, append(test.flags, size, "--screenshot="+shot)...)
		f, err := os.Open(shot)
		require.NoError(t, err)
		cfg, _, err := image.DecodeConfig(f)
		f.Close()
		require.NoError(t, err)
		assert.Equal(t, test.width, cfg.Width)
	}
	pdf := filepath.Join(dir, "report.pdf")
	b.open(t, file, "--print-to-pdf="+pdf, "--no-pdf-header-footer")
	data, err := os.ReadFile(pdf)
	require.NoError(t, err)
	assert.True(t, bytes.HasPrefix(data, []byte("%PDF-")))
}

func TestABrowserShowsHundredsOfHosts(t *testing.T) {
	t.Parallel()
	b := newBrowser(t)
	file := filepath.Join(t.TempDir(), "report.html")
	require.NoError(t, os.WriteFile(file, []byte(write(t, large(300))), 0o600))
	dom, console := b.open(t, file, "--dump-dom")
	assert.Empty(t, console)
	assert.Len(t, parse(t, dom).all("details", ""), 2*300+60)
}
