package pool

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// faults collects everything that is wrong with a Spec, each with its path.
type faults []error

func (f *faults) addf(path, format string, args ...any) {
	*f = append(*f, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// name wants a DNS label.
func (f *faults) name(path, name string, most int) {
	switch {
	case name == "":
		f.addf(path, "is required")
	case len(name) > most:
		f.addf(path, "%q has %d characters, at most %d are allowed", name, len(name), most)
	case !nameForm.MatchString(name):
		f.addf(path, "%q must consist of a-z, 0-9 and \"-\"", name)
	}
}

// text wants one line of text, or none.
func (f *faults) text(path, text string) {
	if strings.ContainsFunc(text, unicode.IsControl) {
		f.addf(path, "%q has a line break or another control character", text)
	}
}

// number wants one from 0 to most, if most is not 0.
func (f *faults) number(path string, v, most int) {
	switch {
	case v < 0:
		f.addf(path, "is %d, must not be negative", v)
	case most > 0 && v > most:
		f.addf(path, "is %d, at most %d are allowed", v, most)
	}
}

// duration wants 0, or least and more.
func (f *faults) duration(path string, d, least time.Duration) {
	switch {
	case d < 0:
		f.addf(path, "is %s, must not be negative", d)
	case 0 < d && d < time.Millisecond:
		f.addf(path, "is %s; numbers count nanoseconds, so write %d*time.Second", d, int64(d))
	case 0 < d && d < least:
		f.addf(path, "is %s, at least %s is needed", d, least)
	}
}

func (f *faults) unique(owners map[string]string, at, what, value string) {
	if value == "" {
		return
	}
	if other, ok := owners[value]; ok {
		f.addf(at, "%s %q is that of %s", what, value, other)
		return
	}
	owners[value] = at
}

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	envForm  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)
