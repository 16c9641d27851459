// Package machine is what a simulated machine is beneath its shell, its commands and its sshd: boots,
// processes, their output, and the network.
package machine
