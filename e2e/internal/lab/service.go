package lab

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/poolready/poolready/sshx/sshtest"
)

// A service is a unit of the user's own that was started: systemd keeps the file as it was read then,
// until daemon-reload.
type service struct {
	g    *Guest
	name string
	file *unitFile
	user string

	// The rest is guarded by Guest.mu.
	run      *sshtest.RunningService // nil if no program runs
	since    time.Time
	result   string      // why it failed: "exit-code", "signal", "start-limit-hit"
	code     int         // of the program that ran last
	stopping bool        // by systemctl
	starts   []time.Time // the last ones that Restart made
}

// startLimit is how many times systemd starts a service within startInterval.
const (
	startLimit    = 5
	startInterval = 10 * time.Second
)

// startService starts a unit of the user's own. The error is what systemctl says; a refusal is an
// *sshtest.Refusal.
func (g *Guest) startService(unit string, resumed bool) error {
	file, err := g.readUnit(unit)
	if err != nil {
		return err
	}
	if len(file.refused) > 0 {
		return &sshtest.Refusal{Command: "systemctl", What: file.Path + ": " + strings.Join(file.refused, "; ")}
	}
	s := &service{g: g, name: unit, file: file, user: cmp.Or(file.User, "root")}
	g.mu.Lock()
	if old := g.services[unit]; old != nil && !old.stopping && old.run != nil {
		g.mu.Unlock()
		return nil
	}
	g.services[unit] = s
	g.mu.Unlock()
	return s.start(resumed)
}

// start runs the unit's programs: it returns when a "simple" one has begun, and a "oneshot" has ended.
func (s *service) start(resumed bool) error {
	env, err := s.file.environment(s.g.disk)
	if err != nil {
		return s.failed("resources", 0, err)
	}
	for _, dir := range s.file.Make {
		if _, err := s.g.disk.Stat(dir); err == nil {
			continue
		}
		_ = s.g.disk.MkdirAll(dir, 0o755)
		if _, code := s.g.host.Run(s.g.life, "chown "+s.user+": "+dir); code != 0 {
			return s.failed("exit-code", 217, fmt.Errorf("user %s is unknown", s.user))
		}
	}
	commands := slices.Clone(s.file.Pre)
	if s.file.Type == "oneshot" {
		commands = append(commands, s.file.Start...)
	}
	if !resumed {
		for _, c := range commands {
			r, err := s.program(c, env, false)
			if err != nil {
				return s.failed("exit-code", 203, err)
			}
			s.set(r)
			<-r.Done()
			if r.Code() != 0 && !c.Ignore {
				return s.failed("exit-code", r.Code(), errControl)
			}
		}
	}
	if s.file.Type == "oneshot" {
		s.is(s.file.Remain, false, func() { s.run = nil })
		return nil
	}
	r, err := s.program(s.file.Start[0], env, resumed)
	if err != nil {
		s.say("systemd", 1, "Failed at step EXEC: "+err.Error())
		err = s.failed("exit-code", 203, err)
		if s.file.Type == "simple" {
			return nil // systemctl has its answer before the program is looked for
		}
		return err
	}
	s.set(r)
	s.is(true, false, func() {})
	s.g.work.Go(func() { s.watch(r) })
	return nil
}

// errControl is what systemctl says of a program that failed.
var errControl = fmt.Errorf("the control process exited with error code.\nSee \"systemctl status\" and \"journalctl -xe\" for details.")

// set takes note of a program that runs.
func (s *service) set(r *sshtest.RunningService) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.run, s.since = r, time.Now()
}

// program starts a program of the unit's.
func (s *service) program(c unitCommand, env map[string]string, resumed bool) (*sshtest.RunningService, error) {
	args := c.expand(env)
	if !s.g.host.Runnable(s.user, args[0]) {
		return nil, fmt.Errorf("%s: No such file or directory", args[0])
	}
	w := &journalWriter{s: s, name: path.Base(args[0])}
	w.mu.Lock() // until it has a pid
	defer w.mu.Unlock()
	r, err := s.g.host.Start(sshtest.Service{Args: args, User: s.user, Dir: s.file.Dir, Env: env, Output: w, Resumed: resumed})
	if err == nil {
		w.pid = r.PID()
	}
	return r, err
}

// watch waits for the end of the service's program, and starts it again if the unit says so.
func (s *service) watch(r *sshtest.RunningService) {
	<-r.Done()
	g := s.g
	g.mu.Lock()
	if g.services[s.name] != s || s.run != r { // stopped and started again, or the machine went down
		g.mu.Unlock()
		return
	}
	s.run, s.code = nil, r.Code()
	g.active[s.name] = false
	clean := r.Code() == 0 || slices.Contains([]int{129, 130, 141, 143}, r.Code())
	if s.stopping {
		clean = true
	}
	again := !s.stopping && (s.file.Restart == "always" || s.file.Restart == "on-failure" && !clean)
	if !clean {
		s.result, g.failed[s.name] = "exit-code", !again
		if r.Code() > 128 {
			s.result = "signal"
		}
	}
	s.starts = slices.DeleteFunc(append(s.starts, time.Now()), func(t time.Time) bool { return time.Since(t) > startInterval })
	if again && len(s.starts) >= startLimit {
		again, s.result, g.failed[s.name] = false, "start-limit-hit", true
	}
	g.mu.Unlock()
	if !again {
		return
	}
	t := time.NewTimer(s.file.RestartWait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-g.life.Done():
		return
	}
	g.mu.Lock()
	current := g.services[s.name] == s && !s.stopping
	g.mu.Unlock()
	if current {
		_ = s.start(false)
	}
}

// failed notes why the service is not running, and returns err.
func (s *service) failed(result string, code int, err error) error {
	s.is(false, true, func() { s.run, s.result, s.code = nil, result, code })
	return err
}

// is sets the unit's state, unless it was started again meanwhile, or the machine was.
func (s *service) is(active, failed bool, set func()) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	set()
	if s.g.services[s.name] == s {
		s.g.active[s.name], s.g.failed[s.name] = active, failed
	}
}

// stopService stops a unit of the user's own, and returns when none of its programs runs.
func (g *Guest) stopService(unit string) {
	g.mu.Lock()
	s := g.services[unit]
	var r *sshtest.RunningService
	if s != nil {
		s.stopping, r = true, s.run
	}
	g.active[unit], g.failed[unit] = false, false
	g.mu.Unlock()
	if r == nil {
		return
	}
	r.Stop()
	t := time.NewTimer(stopTimeout)
	defer t.Stop()
	select {
	case <-r.Done():
	case <-t.C:
		r.Kill()
		<-r.Done()
	}
}

// stopTimeout is how long a service may take to stop: systemd's is 90 s, too long to wait here.
const stopTimeout = 5 * time.Second

// forgetServices is what a machine does that goes down: nothing of them is started again.
func (g *Guest) forgetServices() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.services = map[string]*service{}
}

// An entry is a line of the journal.
type entry struct {
	at         time.Time
	unit, name string
	pid        int
	text       string
}

// say writes to the journal.
func (s *service) say(name string, pid int, text string) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.g.journal = append(s.g.journal, entry{time.Now(), s.name, name, pid, text})
	s.g.journal = s.g.journal[max(0, len(s.g.journal)-journalLines):]
}

const journalLines = 1000 // that are kept

// A journalWriter splits what a program prints into lines.
type journalWriter struct {
	s    *service
	name string

	mu   sync.Mutex // guards what follows
	pid  int
	rest string
}

func (w *journalWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest += string(p)
	for {
		line, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(p), nil
		}
		w.rest = rest
		w.s.say(w.name, w.pid, line)
	}
}

// userUnits are the enabled units that are not of the simulation's own, in order of names.
func (g *Guest) userUnits() (units []string) {
	links, _ := g.disk.ReadDir(strings.TrimSuffix(wantsDir, "/"))
	for _, l := range links {
		unit, ok := strings.CutSuffix(l.Name(), ".service")
		if ok && l.Type() == fs.ModeSymlink && !slices.Contains(bootOrder, g.os.service(unit)) {
			units = append(units, unit)
		}
	}
	return units
}
