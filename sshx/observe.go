package sshx

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// An Observation is one thing that was done with a machine: a command that Run ran, or a transfer. Its texts
// are without secrets.
type Observation struct {
	Host  string    // Config.Name
	At    time.Time // when it began
	Took  time.Duration
	What  string // the words of the command, "put /etc/hosts", or the name and text of a script
	User  string // that it ran as, if that is not the one who logs in
	Code  int    // the exit code; -1 if it is not known
	Out   []byte // what it printed, as in Result; it must not be changed
	Fault error  // why it did not end with exit code 0, or nil
}

// observe tells Config.Observe of a thing that was done.
func (c *Client) observe(at time.Time, cmd Cmd, res Result, err error) {
	if c.cfg.Observe == nil {
		return
	}
	o := Observation{Host: c.cfg.Name, At: at, Took: time.Since(at), User: cmd.User, Code: res.ExitCode, Out: res.Stdout, Fault: c.cfg.redactErr(err)}
	if len(res.Stderr) > 0 {
		o.Out = append(append([]byte(nil), res.Stdout...), res.Stderr...)
	}
	if _, exited := errors.AsType[*ExitError](err); err != nil && !exited {
		o.Code = -1
	}
	switch {
	case cmd.Script == "":
		words := make([]string, len(cmd.Args))
		for i, a := range cmd.Args {
			if words[i] = a; strings.ContainsAny(a, " \t\n'\"\\$*?;|&<>()") || a == "" {
				words[i] = fmt.Sprintf("%q", a)
			}
		}
		o.What = c.cfg.Redact(strings.Join(words, " "))
	case cmd.Name != "":
		o.What = c.cfg.Redact(cmd.Name)
	default:
		o.What = c.cfg.Redact(cmd.Script)
	}
	c.cfg.Observe(o)
}

// observeTransfer is observe for a file, or a tree of them.
func (c *Client) observeTransfer(at time.Time, what, path string, err error) {
	if c.cfg.Observe == nil {
		return
	}
	o := Observation{Host: c.cfg.Name, At: at, Took: time.Since(at), What: c.cfg.Redact(what + " " + path), Fault: c.cfg.redactErr(err)}
	if err != nil {
		o.Code = -1
	}
	c.cfg.Observe(o)
}
