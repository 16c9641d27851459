// Package testflag sets flags of package testing from a TestMain.
package testflag

import (
	"flag"
	"runtime"
	"strconv"
)

// Parallel has at least n tests run at a time, even on fewer processors, unless -parallel says how
// many: for tests that mostly wait. Those that are not parallel still run before, one after the
// other.
func Parallel(n int) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		_ = flag.Set("test.parallel", strconv.Itoa(max(n, runtime.GOMAXPROCS(0)))) // it is a flag of package testing
	}
}
