// Package sshtest is a machine to test SSH clients and administrators' scripts against, in process:
// a disk in memory, a shell, commands, users, and an SSH server that behaves as OpenSSH does.
package sshtest
