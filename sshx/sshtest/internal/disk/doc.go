// Package disk is the file tree of a simulated machine, in memory, and who may do what with it.
package disk
