// Package sshx is SSH as a test harness needs it.
package sshx
