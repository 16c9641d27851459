// Package userland is the commands of a simulated machine.
package userland
