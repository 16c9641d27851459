//go:build !linux

package lease

// Elsewhere nothing is told, and a lease of a process that has ended is waited for.

func machine() *Process { return nil }

func started(int) string { return "" }

func exists(int) bool { return true }
