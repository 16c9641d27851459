// Package inprocess knows the vCenters that are served by this process, and end with it.
package inprocess

import "sync"

var servers sync.Map // of "host:port"

// Add notes that this process serves a vCenter at "host:port", until remove is called.
func Add(addr string) (remove func()) {
	servers.Store(addr, nil)
	return func() { servers.Delete(addr) }
}

// Has reports whether this process serves a vCenter at "host:port".
func Has(addr string) bool {
	_, ok := servers.Load(addr)
	return ok
}
