package realguests

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// A monitor is a client of QEMU's monitor (QMP) or of its guest agent, which speak alike: lines of
// JSON.
type monitor struct {
	conn    net.Conn
	replies chan reply // closed when the connection has ended

	mu sync.Mutex // one command at a time
	n  int
}

type reply struct {
	Return json.RawMessage
	Error  *struct{ Desc string }
	Event  string
	Data   json.RawMessage
}

// dialMonitor connects to a socket as soon as it is there. Events go to event, on a goroutine.
func dialMonitor(
	ctx context.Context,
	path string,
	event func(name string, data json.RawMessage),
) (*monitor, error) {
	var conn net.Conn
	for {
		var err error
		if conn, err = new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s: %w", path, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	m := &monitor{conn: conn, replies: make(chan reply, 16)}
	go m.read(event)
	return m, nil
}

func (m *monitor) read(event func(string, json.RawMessage)) {
	defer close(m.replies)
	r := bufio.NewReader(m.conn)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		var p reply
		switch {
		case json.Unmarshal(line, &p) != nil: // the agent's first line may be half of an old one
		case p.Event != "":
			event(p.Event, p.Data)
		case p.Return != nil || p.Error != nil: // else QMP's greeting
			select {
			case m.replies <- p:
			default: // late answers of an agent, for which nothing waits
			}
		}
	}
}

var errTimeout = errors.New("no answer")

// do runs a command and puts its result into result, which may be nil. It waits no longer than
// limit.
func (m *monitor) do(limit time.Duration, command string, args map[string]any, result any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.send(time.After(limit), command, args, func(raw json.RawMessage) (bool, error) {
		if result == nil {
			return true, nil
		}
		return true, json.Unmarshal(raw, result)
	})
}

// sync throws away what the agent still had to say to earlier commands.
func (m *monitor) sync(limit time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	return m.send(
		time.After(limit),
		"guest-sync",
		map[string]any{"id": m.n},
		func(raw json.RawMessage) (bool, error) {
			return string(raw) == fmt.Sprint(m.n), nil
		},
	)
}

func (m *monitor) send(
	limit <-chan time.Time,
	command string,
	args map[string]any,
	got func(json.RawMessage) (bool, error),
) error {
	q := map[string]any{"execute": command}
	if args != nil {
		q["arguments"] = args
	}
	line, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if _, err := m.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		select {
		case p, ok := <-m.replies:
			switch {
			case !ok:
				return fmt.Errorf("%s: the connection has ended", command)
			case p.Error != nil:
				return fmt.Errorf("%s: %s", command, p.Error.Desc)
			}
			if done, err := got(p.Return); done || err != nil {
				return err
			}
		case <-limit:
			return fmt.Errorf("%s: %w", command, errTimeout)
		}
	}
}

func (m *monitor) close() { m.conn.Close() }
