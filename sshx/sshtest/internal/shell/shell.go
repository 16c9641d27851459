package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// source is what a shell runs.
type source struct {
	text   string
	lines  *os.File // instead of text: commands are read from here, as they come
	name   string   // $0
	params []string // $1...
	opts   []string // -e, -u, ...
	login  bool     // profiles come first
	dash   bool     // it is dash, not bash
	posix  bool     // it is bash, called sh
}

// crlfText is refused: to a real shell each carriage return is part of a word.
const crlfText = "lines that end with CR LF"

func language(dash bool) syntax.LangVariant {
	if dash {
		return syntax.LangPOSIX
	}
	return syntax.LangBash
}

func (s *shell) language() syntax.LangVariant { return language(s.dash) }

// Variables of ours in every shell. The interpreter knows no process ids of its own, and takes
// those of the host for $$ and $PPID, so rewrite puts these in their place.
const (
	varPID   = "__sshtest_pid"
	varPPID  = "__sshtest_ppid"
	varBack  = "__sshtest_bg"    // $!
	varJob   = "__sshtest_job"   // the job that the shell is
	varUmask = "__sshtest_umask" // octal
	varName  = "__sshtest_name"  // $0
	ourVars  = "__sshtest_"
)

// shellEnv is the environment of one interpreter.
type shellEnv struct {
	expand.Environ
	own   map[string]string // not exported, such as UID
	setup bool              // see Get
}

// Get answers so that the host is never asked. While the interpreter is set up, TMPDIR is a place
// that no machine has, as there it opens files of the host; and there is a HOME, or it would take
// the host's.
func (e *shellEnv) Get(name string) expand.Variable {
	if e.setup && (name == "TMPDIR" || name == "HOME") {
		return expand.Variable{Set: true, Kind: expand.String, Str: "/nonexistent-sshtest"}
	}
	if s, ok := e.own[name]; ok {
		return expand.Variable{Set: true, Kind: expand.String, Str: s, ReadOnly: strings.HasSuffix(name, "ID")}
	}
	return e.Environ.Get(name)
}

// Each has what is own too: subshells that run at the same time as their shell start from a copy.
func (e *shellEnv) Each(yield func(name string, v expand.Variable) bool) {
	for name := range e.own {
		if !yield(name, e.Get(name)) {
			return
		}
	}
	e.Environ.Each(yield)
}

func dialectOf(h *machine.Host, src source) dialect {
	return dialect{dash: src.dash, posix: src.posix, program: h.Provides}
}

// A shell is one run of the interpreter, wholly inside the machine.
type shell struct {
	dialect
	h        *machine.Host
	p        *machine.Proc
	replaced atomic.Bool // by exec: the death of what it calls is its own
}

// runSource runs src as p, and returns its exit code.
func runSource(ctx context.Context, p *machine.Proc, src source) int {
	parser := syntax.NewParser(syntax.Variant(language(src.dash)))
	var file *syntax.File
	var fault error // of the syntax, some lines into the script
	if src.lines == nil {
		if strings.Contains(src.text, "\r\n") {
			return shellError(p, &NotSimulated{What: crlfText})
		}
		var err error
		file, err = parser.Parse(strings.NewReader(src.text), src.name)
		if pe, ok := errors.AsType[syntax.ParseError](err); ok && pe.Pos.Line() > 1 {
			file, fault, err = beforeError(parser, src.text, pe.Pos.Line()), err, nil
		}
		if err == nil {
			err = rewrite(file, dialectOf(p.Host, src))
		}
		if err != nil {
			return shellError(p, err)
		}
	}
	r, err := interpreter(p, src)
	if err != nil {
		return p.Fail(2, "%v", err)
	}
	if src.login {
		if code := profile(ctx, p, r, parser); r.Exited() || ctx.Err() != nil {
			return code
		}
	}
	if src.lines == nil {
		code := exitStatus(ctx, p, r.Run(ctx, file))
		if fault != nil && !r.Exited() && ctx.Err() == nil {
			return shellError(p, fault)
		}
		return code
	}
	return runLines(ctx, p, r, parser, src)
}

const profiles = `if [ -r /etc/profile ]; then . /etc/profile; fi
for __sshtest_file in ~/.bash_profile ~/.bash_login ~/.profile; do
	if [ -r "$__sshtest_file" ]; then . "$__sshtest_file"; break; fi
done
unset __sshtest_file
`

// profile is what a login shell does first.
func profile(ctx context.Context, p *machine.Proc, r *interp.Runner, parser *syntax.Parser) (code int) {
	f, err := parser.Parse(strings.NewReader(profiles), "profile")
	disk.Must(err)
	disk.Must(rewrite(f, dialect{program: p.Host.Provides}))
	for _, st := range f.Stmts {
		if code = exitStatus(ctx, p, r.Run(ctx, st)); r.Exited() || ctx.Err() != nil {
			break
		}
	}
	return code
}

// runLines runs commands as they are read, and leaves what follows a command to it: a command that
// reads its input eats the rest of the script, as it does with a real sh -s.
func runLines(ctx context.Context, p *machine.Proc, r *interp.Runner, parser *syntax.Parser, src source) int {
	code := 0
	for stmts, err := range parser.InteractiveSeq(&lineReader{r: src.lines}) {
		if err != nil {
			return shellError(p, err)
		}
		if parser.Incomplete() {
			continue
		}
		for _, st := range stmts {
			f := &syntax.File{Name: src.name, Stmts: []*syntax.Stmt{st}}
			if err := rewrite(f, dialectOf(p.Host, src)); err != nil {
				return shellError(p, err)
			}
			code = exitStatus(ctx, p, r.Run(ctx, st))
			if r.Exited() || ctx.Err() != nil {
				return code
			}
		}
	}
	_ = exitStatus(ctx, p, r.Run(ctx, &syntax.File{Name: src.name})) // for a trap on EXIT
	return code
}

// lineReader gives no more than one line at a time, and takes no more from r.
type lineReader struct{ r io.Reader }

func (l *lineReader) Read(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, err := l.r.Read(b[n : n+1])
		n += k
		if err != nil && n > 0 {
			return n, nil
		}
		if err != nil || k > 0 && b[n-1] == '\n' {
			return n, err
		}
	}
	return n, nil
}

// shellError prints why a script did not even start.
func shellError(p *machine.Proc, err error) int {
	if ns, ok := errors.AsType[*NotSimulated](err); ok {
		return p.Refuse("shell", ns.Error())
	}
	fmt.Fprintf(p.Stderr, "bash: %v\n", err)
	return 2
}

func exitStatus(ctx context.Context, p *machine.Proc, err error) int {
	status, isStatus := errors.AsType[interp.ExitStatus](err)
	switch {
	case ctx.Err() != nil:
		return machine.ExitKilled(ctx)
	case err == nil:
		return 0
	case isStatus:
		return int(status)
	}
	return shellError(p, err)
}

func interpreter(p *machine.Proc, src source) (*interp.Runner, error) {
	s := &shell{dialect: dialectOf(p.Host, src), h: p.Host, p: p}
	v := p.View()
	stdin, err := p.Task.Reader(p.Stdin)
	if err != nil {
		return nil, err
	}
	pairs := make([]string, 0, len(p.Env))
	for _, k := range slices.Sorted(maps.Keys(p.Env)) {
		pairs = append(pairs, k+"="+p.Env[k])
	}
	env := &shellEnv{setup: true, Environ: expand.ListEnviron(pairs...), own: map[string]string{
		"UID": strconv.Itoa(v.UID), "EUID": strconv.Itoa(v.UID), "GID": strconv.Itoa(v.GIDs[0]),
		"HOSTNAME": p.Host.Hostname(), "BASH_VERSION": "5.1.8(1)-release",
		varName: src.name, varPID: strconv.Itoa(p.PID), varPPID: strconv.Itoa(p.PPID), varUmask: strconv.FormatUint(uint64(p.Umask), 8),
	}}
	r, err := interp.New(
		interp.Env(env),
		interp.Dir("/"),
		interp.StdIO(stdin, p.Stdout, p.Stderr),
		interp.Params(slices.Concat(src.opts, []string{"--"}, src.params)...),
		interp.CallHandler(s.call),
		interp.ExecHandlers(func(interp.ExecHandlerFunc) interp.ExecHandlerFunc { return s.exec }),
		interp.OpenHandler(s.open),
		interp.StatHandler(s.stat),
		interp.AccessHandler(s.access),
		interp.ReadDirHandler2(s.readDir),
	)
	if err != nil {
		return nil, err
	}
	r.Dir = p.Dir // interp.Dir would look for it on the host
	r.Reset()
	env.setup = false
	return r, nil
}

// abs returns a path of a handler in absolute form.
func abs(hc interp.HandlerContext, name string) string {
	if name == "" || path.IsAbs(name) {
		return name
	}
	return path.Join(hc.Dir, name)
}

// view is the disk as the shell's user may use it, with the umask of this very subshell.
func (s *shell) view(hc interp.HandlerContext) disk.View {
	return s.h.Disk.As(s.p.User, umaskOf(hc))
}

func umaskOf(hc interp.HandlerContext) uint32 {
	n, _ := strconv.ParseUint(hc.Env.Get(varUmask).String(), 8, 32)
	return uint32(n)
}

func (s *shell) open(ctx context.Context, name string, flag int, _ fs.FileMode) (io.ReadWriteCloser, error) {
	hc := interp.HandlerCtx(ctx)
	if text, ok := strings.CutPrefix(name, sourcedPrefix); ok {
		return readOnly{strings.NewReader(text)}, nil
	}
	if w := stream(hc, name, flag); w != nil {
		return w, nil
	}
	if slices.Contains(Stdins, name) {
		return nil, &os.PathError{Op: "bash:", Path: name, Err: errors.New("not simulated as a redirection")}
	}
	f, err := s.view(hc).Open(abs(hc, name), flag, 0o666)
	if err != nil {
		return nil, &os.PathError{Op: "bash:", Path: name, Err: errors.New(disk.Reason(err))}
	}
	if flag&(os.O_WRONLY|os.O_RDWR) != 0 {
		s.p.Task.Keep(f)
		return f, nil
	}
	return s.p.Task.Reader(f)
}

// Stdins are the names of a process's own stdin.
var Stdins = []string{"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"}

// stream is /dev/stdout or /dev/stderr, open for writing, or nil.
func stream(hc interp.HandlerContext, name string, flag int) io.ReadWriteCloser {
	if flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return nil
	}
	switch name {
	case "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1":
		return writeOnly{hc.Stdout}
	case "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2":
		return writeOnly{hc.Stderr}
	}
	return nil
}

type writeOnly struct{ io.Writer }

func (writeOnly) Read([]byte) (int, error) { return 0, fs.ErrPermission }
func (writeOnly) Close() error             { return nil }

type readOnly struct{ *strings.Reader }

func (readOnly) Write([]byte) (int, error) { return 0, fs.ErrPermission }
func (readOnly) Close() error              { return nil }

func (s *shell) stat(ctx context.Context, name string, follow bool) (fs.FileInfo, error) {
	hc := interp.HandlerCtx(ctx)
	v := s.view(hc)
	i, err := v.Describe("stat", abs(hc, name), follow)
	if err != nil {
		if s.h.Program(path.Clean(abs(hc, name))) != nil {
			return s.h.Disk.ProgramInfo(path.Base(name)), nil
		}
		return nil, err
	}
	return i, nil
}

func (s *shell) access(ctx context.Context, name string, mode interp.AccessMode) error {
	hc := interp.HandlerCtx(ctx)
	err := s.view(hc).Access(abs(hc, name), fs.FileMode(mode))
	if disk.IsNotExist(err) && mode&interp.AccessWrite == 0 && s.h.Program(path.Clean(abs(hc, name))) != nil {
		return nil
	}
	return err
}

func (s *shell) readDir(ctx context.Context, name string) ([]fs.DirEntry, error) {
	hc := interp.HandlerCtx(ctx)
	return s.view(hc).ReadDir(abs(hc, name))
}

// exec runs a program. It never falls through to the host.
func (s *shell) exec(ctx context.Context, args []string) error {
	hc := interp.HandlerCtx(ctx)
	if strings.HasPrefix(args[0], ourVars) {
		return s.ours(hc, args)
	}
	if j := s.job(hc); j != nil {
		c, cancel, done := s.p.Task.Child(ctx)
		defer done()
		defer context.AfterFunc(j.Ctx, func() { cancel(context.Cause(j.Ctx)) })()
		ctx = c
	}
	p := *s.p
	p.Args, p.Dir, p.Env, p.Umask = args, hc.Dir, exported(hc.Env), umaskOf(hc)
	p.Stdin, p.Stdout, p.Stderr = hc.Stdin, hc.Stdout, hc.Stderr
	replaced := s.replaced.Swap(false) // the rest is not run, unless this is a subshell
	if replaced {
		p.Task.Boot.Replace(s.p.PID, true)
		defer p.Task.Boot.Replace(s.p.PID, false)
		p.PID = s.p.PPID // the program has it, too
	}
	code := s.h.Execute(ctx, &p)
	if by := p.Death.By.Load(); by != nil && replaced {
		s.p.Death.By.Store(by)
	}
	if code != 0 {
		return interp.ExitStatus(uint8(code))
	}
	return nil
}

func exported(env expand.Environ) map[string]string {
	out := map[string]string{}
	for name, v := range env.Each {
		switch {
		case strings.HasPrefix(name, ourVars):
		case !v.IsSet() || !v.Exported:
			delete(out, name)
		case v.Kind == expand.String:
			out[name] = v.String()
		}
	}
	return out
}

// job is the background job that this subshell is, or nil.
func (s *shell) job(hc interp.HandlerContext) *machine.Job {
	v := hc.Env.Get(varJob)
	if !v.IsSet() {
		return nil
	}
	pid, _ := strconv.Atoi(v.String())
	return s.p.Task.Job(pid)
}
