// Package sshtest is a machine to test SSH clients and administrators' scripts against, in process:
// a disk in memory, a shell, commands, users, sudo, and an SSH server that behaves as OpenSSH does.
// It needs no root, no network but loopback, and nothing installed.
//
//	srv := sshtest.NewServer(t)                      // a machine that listens; closed with the test
//	cl, err := ssh.Dial("tcp", srv.Addr, srv.ClientConfig("admin"))
//
// A Host alone, without a listener, is for those who have a network of their own: they hand it
// connections with ServeConn. Its Disk is cloned, snapshotted and reverted by them; Boot and Halt
// are its power, and SaveMemory and Resume its memory.
//
// # The rule
//
// The simulation is never kinder than a real machine, and never silent about what it lacks. A
// simulated command that meets an argument which it does not know prints "sshtest: CMD: not
// simulated: ARG" and exits 64; a command that there is not is "command not found", 127; a
// directive of sshd_config that matters and is not simulated keeps sshd from starting. Every refusal
// is a Refusal, too, which Host.OnNotSimulated gets whatever the script makes of the exit code: a
// Server's fails its test. Host.Commands adds commands, and Host.Installed takes them away.
//
// # The shell
//
// sh, bash and dash are mvdan.cc/sh, which speaks bash, on the simulated disk only: PATH, HOME,
// UID, $$, command -v, type, ".", globs, redirections and test see nothing of the host. Background
// jobs have process ids, hold the output of the session that they were started in unless it is
// redirected, outlive the script, and can be killed and waited for. Scripts on the disk run by
// their #! line.
//
// Called sh, the shell is dash on a disk that has /etc/debian_version, and bash elsewhere; called dash
// it is dash, which has none of what only bash knows.
//
// Refused, with exit code 64: process substitution, coprocesses, descriptors above 2, <>, [[ -ef -O -G
// -N ]], ulimit, fg, bg, jobs, select, cd -P, wait -n, ${x/#a/b}, ${x@Q}, a quoted expansion in a
// pattern, declare -i -l -u, traps in subshells, setting a constant, scripts with CR LF, and
// PIPESTATUS, FUNCNAME, SECONDS, $- and their like; and arithmetic on what is no number, which ends the
// shell with 1, dash with 2, as an error there does.
//
// Different from a real shell: a trap on a signal runs before the next command of a shell that is
// signalled itself, but a signal to the process group ends the shell; a command substitution does not
// wait for background jobs inside of it; a closed descriptor is /dev/null; [[ -t ]] is false on
// terminals too; how much of a script runs after an error in an expansion. testdata has the statements
// that are compared with real shells and tools, and agreement.json how many come out differently.
//
// The texts that package sshx wraps scripts in cannot run in this shell. "sh -c" knows them and
// does natively what they do: script from stdin, process group killed when stdin ends, detached
// jobs.
//
// # Commands
//
// BaseCommands names the base commands; the variables of internal/userland that end in Commands list all
// the options that each knows, and the comments of cmdSed, cmdFind, cmdTar and cmdSudo theirs. They are in
// /usr/bin and /usr/sbin, where test -x finds them, though ls does not. They are GNU's in the C locale,
// and what is in a directory comes to find, tar, grep -r and SFTP in no order to count on. Time zones
// are those of Go on the machine that the test runs on. Commands that every real machine has and that are not
// simulated, awk and ip among them, are there and refuse; systemctl knows sshd alone. Programs
// listen and dial with Proc.Listen and Proc.DialContext; routes, firewalls, packages and services are
// for embedders, who have Host.Bind, Host.Dial and Host.Start. A compiled program on the disk is the
// Command of its name, or refused.
//
// Users are subject to owners, groups, modes, sticky directories and umask. There are no ACLs,
// capabilities, SELinux labels or quotas; access times are not kept; contents count against the
// disk's size, metadata does not. /proc has the boot id, the kernel's release and the uptime;
// after Boot /run has an empty directory lock and nothing else, and /dev/shm is empty.
//
// # sshd
//
// Read from the disk: sshd_config with Include and Match (User, Group, all) when sshd starts (Boot,
// StartSSHD), host keys and host certificates too; passwd, group, authorized_keys, nologin and
// sudoers when they are needed. It does: public keys for logging in, and nothing else;
// PermitRootLogin, StrictModes, AllowUsers and its kin; forced commands; exec, shell, env by
// AcceptEnv, a terminal without line editing (output gets CRs unless the client asks for none,
// hanging up kills, sudo's requiretty is content); SFTP; direct-tcpip through Host.Dial; signals,
// which never reach processes of root, unless Host.RootSignals; MaxSessions with slots that become
// free late; MaxStartups, which drops regularly, not by chance; LoginGraceTime,
// ClientAliveInterval, MaxAuthTries; keepalives answered with failure; exit status as soon as the
// command has ended, the end of output when its last holder has; hostkeys-00@openssh.com. A command
// whose channel or connection is gone runs on, until it writes.
//
// Not simulated: passwords, sources of users (AllowUsers user@host keeps sshd from starting), certificates of
// users, agent and X11 forwarding, remote forwarding, chroot, restarts of key exchange, penalties
// by time (Faults.DropAfter stands for them), RSA host keys unless the disk has one.
//
// # Faults
//
// Faults are what goes wrong with sshd; see there for those that need none, as files bring them
// about. Server.Refuse and Server.Accept close and open the port, DropConnections cuts the line,
// Disk.SetSize fills the disk.
package sshtest
