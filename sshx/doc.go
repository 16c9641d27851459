// Package sshx is SSH as a test harness needs it: connections that end when their context does,
// commands that are killed when their context ends, host keys that are verified on
// machines that were cloned a minute ago, and errors that tell a failed command from a lost
// connection, a refused login and a machine that is not up yet.
//
//	key, err := sshx.ReadKey("id_ed25519", "")
//	c, err := sshx.WaitReady(ctx, sshx.Config{
//		Name: "dis1", Address: "10.0.0.7", Keys: []ssh.Signer{key},
//		HostKeys: sshx.HostKeys{Pinned: pins},
//	}, sshx.Ready{})
//	defer c.Close()
//	res, err := c.Run(ctx, sshx.Cmd{Script: install, User: "root", Stdout: log})
//
// Nothing is taken from the caller's home: no agent, no ~/.ssh/config, no known_hosts, unless
// named. The machine needs OpenSSH and a POSIX shell; sudo, tar, sha256sum, find and setsid for
// what is done with them. Windows machines are out of scope.
//
// # Connections
//
// Dial makes one connection, and WaitReady tries until a machine is ready. A Client never connects
// again by itself. Config.Jump goes through a chain of hosts, each with its own user, keys and policy.
//
// Every call ends when its context does. A peer that is silent for Config.DeadAfter, although
// asked, is dead: the connection is closed, and everything that waits on it ends with ErrDead.
// Close does not wait for the peer. Jump hosts are closed after what goes through them.
//
// At most Config.Sessions commands run at once on a connection; further ones wait. A session
// that sshd refuses (it frees places late, and MaxSessions may be lower) is requested again. It
// is never a reason to close the connection, on which others run.
//
// Logins are by key: Config.Keys, at most five, since OpenSSH hangs up at the sixth. A login that
// asks questions after the key is an *AuthError that tells them; one without questions is answered.
// All algorithms that golang.org/x/crypto/ssh does not call insecure are offered.
//
// # Host keys
//
// Keys are looked up under Config.Name, not under the address of the day, so that they may be
// pinned to a machine's identity and recorded with its snapshot: HostKeys.Pinned. Other sources
// are a known_hosts file, which is only read, as OpenSSH reads it, and CAs that sign host
// certificates; a line that cannot be read is skipped, and told to Config.Logf. Only kinds of
// keys that are known are requested, so that a server with several shows the right one. A wrong
// key is a *HostKeyError, at once and for good, except with Ready.FirstBoot. TrustOnFirstUse accepts
// the key of the first login, of jump hosts too if their HostKeys say so, tells Config.Logf, and
// pins it for the life of a WaitReady, a Job or a Reboot; record Client.HostKeys to pin it
// longer.
//
// # Waiting
//
// WaitReady connects, runs a command, and looks through the gates of Ready: a new boot id,
// systemd's state, cloud-init, a time to settle. Refused connections, resets, silence and hang-ups
// are a machine that is starting; so is a refused login, for Ready.AuthGrace. A wrong key, no
// algorithm in common, or an agent that does not sign end the wait at once. It does not probe
// ports: OpenSSH 9.8 and later bar an address that connects without logging in. States are
// reported when they change, and are in the *NotReadyError, with what the machine said ("System
// is booting up"). That keeps out all users but root, so that a login as root says little:
// set Ready.SystemState.
//
// # Commands
//
// Cmd is a program with arguments, which reach it as they are, or a script. A script of up to
// 96 KiB is sent as an argument of its shell, where other users of the machine can see it in the
// process list; a longer one, one that looks at its own name, and one that has one of Config.Secrets
// is sent as a file: to $TMPDIR or /tmp or, where that is full or read-only, to another place. Either
// way nothing in it can read the rest of it as input. stdin is /dev/null
// unless Cmd.Stdin is set. Output is merged in order, unless Cmd.Separate; the Result has a head and
// a tail, and Cmd.Stdout gets all of it live. Env is in no argument list. Config.Secrets are taken
// out of output, errors and log lines, also where a secret is split across reads or lines.
//
// Cmd.User is reached through sudo, without a password or with Config.SudoPassword: that is
// sent over stdin, once, when sudo shows a prompt that is unique to the call. If it is wrong, that is
// a *SudoError at once. Commands have no terminal: sudoers must not have requiretty.
//
// When the context ends, the command's process group is killed, for root and under sudo too; and so
// it is, if it has no Cmd.Stdin, when the connection or this process is gone. For
// that each has a process beside it; after eight commands on a connection, those without Env, Dir and User share
// one, with a session and, in /dev/shm, a directory of its own, where the host allows that. What is to outlive the connection is detached
// (Client.Detach): a Job can be followed over several connections, found again, and killed. Where
// systemd runs, root's jobs have scopes of their own, which outlive login sessions and sshd. Run is
// never repeated by itself, since after a *DisconnectedError it is not known whether the command ran.
//
//	*ExitError          it ran, and ended with another code than 0
//	*DisconnectedError  its end is not known
//	*CanceledError      its context ended; Killed reports whether it is known to be gone
//	*SudoError          sudo refused
//	*StartError         it did not start because of the host: disk full, no such directory
//	*SessionError       no session for it to run in
//	*InterruptedError   a job that a reboot ended
//	*JobLostError       a job that left no exit code
//	*ChangedError       a file changed while it was read, with GetOptions.Verify
//	*HostKeyError, *AuthError, *DialError, *NotReadyError: there was no connection to run it on
//
// Test with errors.AsType. All texts begin with "sshx: " and the name of the machine.
//
// A command costs one round trip, as its session is opened ahead of it, and two with Env,
// Dir or User, or a script that is sent as a file. The rest is server time: sshd's child, the login shell, what watches
// the connection for one that shares nothing, the program. Many small questions are best asked by one script.
//
// # Files
//
// Put and PutTree write under a temporary name, and rename: a transfer that fails, or whose
// connection is lost, leaves what was there, and nothing else. Put proves size and (up to a size)
// SHA-256; a file is on the disk before it has its name, and keeps mode, owner, group and ACL of the
// one that it replaces, unless told otherwise. PutTree keeps the directories that are there, and
// replaces files one by one. Both can write as root, and skip what is the same.
//
// Get and GetTree tolerate files that are written to meanwhile, or with GetOptions.Verify compare
// SHA-256, and return a *ChangedError. GetTree checks every name and link on our side. Trees are
// one tar stream, or go over SFTP with machines without tar. None of this needs the sftp subsystem;
// SFTP is there for the rest, also as root.
//
// # What is left behind
//
// A machine that loses power in the middle of a transfer keeps a file or directory
// .sshx-XXXXXXXXXXXXXXXX beside the target, or in a directory that it was for; a job that is not
// followed to its end leaves /var/tmp/sshx.XXXXXXXXXXXXXXXX. A script that is killed with SIGKILL
// from outside may leave /tmp/sshx.XXXXXXXXXXXXXXXXXXXXXXXXXX.
//
// # Testing
//
// Package sshtest has machines to test against, in process.
package sshx
