package sshx

import (
	"bytes"
	"errors"
	"time"

	"github.com/poolready/poolready/sshx/internal/wire"
)

// result gathers the output.
func (r *run) result(cut bool) Result {
	r.over.Store(true)
	res := Result{Truncated: cut, Took: time.Since(r.begun)}
	var lost bool
	res.Stdout, lost = r.out.result()
	res.Truncated = res.Truncated || lost
	if r.err != nil {
		res.Stderr, lost = r.err.result()
		res.Truncated = res.Truncated || lost
	}
	return res
}

// ends is the part of the output that errors show.
func (r *run) ends() []byte {
	if r.err != nil {
		if b := r.err.end(); len(bytes.TrimSpace(b)) > 0 {
			return b
		}
	}
	if b := r.out.end(); len(bytes.TrimSpace(b)) > 0 {
		return b
	}
	return []byte(r.c.cfg.Redact(wire.Strip(string(r.noise.bytes()))))
}

// early returns what came in place of the command, without the wrapper, if that is repeated there.
func (r *run) early() string {
	text := r.noise.bytes()
	if r.err != nil {
		text = r.err.noise()
	}
	return r.c.cfg.said(wire.Strip(string(text) + "\n" + string(r.out.noise())))
}

// finished says how a command with an exit status ended.
func (r *run) finished(st exitStatus, cut bool) (Result, error) {
	res := r.result(cut)
	res.ExitCode = st.code
	host := r.c.cfg.Name
	switch {
	case !r.started.Load() && r.call.User != "" && st.code != wire.Failed:
		return res, &SudoError{Host: host, User: r.call.User, Cmd: r.label, Text: r.early()}
	case !r.started.Load():
		return res, &StartError{Host: host, Cmd: r.label, Code: st.code, Text: r.early()}
	case st.code != 0 || st.signal != "":
		return res, &ExitError{Host: host, Cmd: r.label, Code: st.code, Signal: st.signal, Took: res.Took, Output: r.ends()}
	}
	return res, nil
}

// lost says what is known of a command whose session ended without an exit status.
func (r *run) lost() (Result, error) {
	// The channel ends a moment before the connection, whose end has the reason.
	t := time.NewTimer(time.Second)
	defer t.Stop()
	cause := errors.New("the session ended early")
	select {
	case <-r.c.done:
		cause = r.c.Err()
	case <-t.C:
	}
	res := r.result(true)
	res.ExitCode = -1
	return res, &DisconnectedError{Host: r.c.cfg.Name, Cmd: r.label, Started: r.started.Load(), Took: res.Took, Output: r.ends(), Cause: cause}
}
