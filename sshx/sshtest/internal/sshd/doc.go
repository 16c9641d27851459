// Package sshd is the SSH server of a simulated machine, which behaves as OpenSSH does.
package sshd
