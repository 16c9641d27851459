// Package login looks at a vCenter, if there is one: see TestResultsOnAVCenterAreNotCached.
package login

import (
	"os"
	"testing"

	"github.com/poolready/poolready/vsphere"
)

func TestLogin(t *testing.T) {
	if os.Getenv("GOVC_URL") == "" {
		t.Skip("there is no vCenter")
	}
	cfg, err := vsphere.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	p, err := vsphere.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Inventory(t.Context(), "set", "template"); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
