package vspheretest_test

import (
	"testing"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		srv := vspheretest.NewUnstartedServer(nil)
		srv.Start()
		srv.Close()
	}
}
