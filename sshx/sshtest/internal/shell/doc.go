// Package shell is sh, bash and dash of a simulated machine, on the interpreter mvdan.cc/sh.
package shell
