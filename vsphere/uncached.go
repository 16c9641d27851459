package vsphere

import (
	"flag"
	"os"
	"sync"

	"github.com/poolready/poolready/vsphere/internal/inprocess"
)

// uncached keeps go test from printing "ok (cached)" for a vCenter that it has not read: it cannot know
// what changes there. It keeps a result only with the log of what the test binary read, whose name it
// passes in a flag, so that log goes: before the tests run it is not begun, and then it is removed.
// Where a file in use cannot be removed (Windows), it is left unfinished, which go test does not take
// either. A vCenter that this process serves is no reason: it is the same each time.
func uncached(addr string) {
	if !inprocess.Has(addr) {
		forgetTestLog()
	}
}

var forgetTestLog = sync.OnceFunc(func() {
	const name = "test.testlogfile"
	if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
		if os.Remove(f.Value.String()) != nil {
			_ = flag.Set(name, "") // a string takes every value
		}
	}
})
