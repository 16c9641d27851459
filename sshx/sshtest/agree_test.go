package sshtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// statements reads a file of testdata: statements with an empty line between them.
func statements(t *testing.T, file string) []string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	require.NoError(t, err)
	return strings.Split(strings.TrimSpace(string(data)), "\n\n")
}

// An agreement is how a shell and its statements compare with real ones.
type agreement struct {
	Statements, Refused, Different int
}

// TestStatementsAgreeWithRealOnes runs the statements of testdata under the bash, dash and GNU tools
// of whoever runs the test, and here. Each prints the same and has the same exit code, is refused,
// or counts as different; testdata/agreement.json has how many may be. Those numbers only fall:
// whoever makes something right lowers them.
func TestStatementsAgreeWithRealOnes(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("a thousand statements take long under the race detector, and others show it more")
	}
	if runtime.GOOS != "linux" {
		t.Skip("compares with bash and the GNU tools of Linux, which this machine has not")
	}
	if out, _ := exec.Command("sed", "--version").Output(); !bytes.Contains(out, []byte("GNU sed")) {
		t.Skip("compares with bash and the GNU tools of Linux, which this machine has not")
	}
	var allowed map[string]agreement
	data, err := os.ReadFile("testdata/agreement.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &allowed))
	for _, tc := range []struct{ name, shell, file string }{
		{"bash", "bash", "shell.txt"},
		{"dash", "dash", "shell.txt"},
		{"tools", "bash", "tools.txt"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			real, err := exec.LookPath(tc.shell)
			if err != nil {
				t.Skipf("compares with %s, which this machine has not", tc.shell)
			}
			list := statements(t, tc.file)
			if os.Getuid() != 0 {
				list = slices.DeleteFunc(list, rootOnly.MatchString)
			}
			got := agreement{Statements: len(list)}
			var said strings.Builder
			var mu sync.Mutex
			var wg sync.WaitGroup
			work := make(chan string)
			for range 2 * runtime.GOMAXPROCS(0) {
				wg.Go(func() {
					here := newBench(t, tc.shell)
					defer here.Halt()
					for s := range work {
						want := runReal(t, real, s)
						result, refused := here.run(t, s)
						mu.Lock()
						switch {
						case want == result:
						case refused != "":
							got.Refused++
							if testing.Verbose() {
								fmt.Fprintf(&said, "refused: %s\n    %s\n", s, refused)
							}
						default:
							got.Different++
							fmt.Fprintf(&said, "different: %s\n    real: %q\n    here: %q\n", s, want, result)
						}
						mu.Unlock()
					}
				})
			}
			for _, s := range list {
				work <- s
			}
			close(work)
			wg.Wait()
			t.Logf("%s: %d of %d statements are the same, %d refused, %d different\n%s",
				tc.name, got.Statements-got.Refused-got.Different, got.Statements, got.Refused, got.Different, said.String())
			assert.LessOrEqual(t, got.Different, allowed[tc.name].Different, "different")
			assert.LessOrEqual(t, got.Refused, allowed[tc.name].Refused, "refused")
			if os.Getenv("CI") == "true" && os.Getuid() == 0 {
				assert.Equal(t, allowed[tc.name].Statements, got.Statements, "statements")
				assert.Equal(t, allowed[tc.name].Different, got.Different, "lower the number in testdata/agreement.json")
			}
		})
	}
}

// rootOnly are statements that do something else for root than for others.
var rootOnly = regexp.MustCompile(`chown|chgrp|-o root|mknod|\bid\b|EUID|whoami|groups|-user|-gid|%U|chmod|chattr|nice`)

// preparation makes the files that statements work on.
const preparation = `printf 'alpha 1\nBeta 22\n# comment\n\ngamma.delta=3\nalpha 1\n  indented\tTab\nserver=10.0.0.1 # dns\n' >f
printf 'b:2:x\na:10:y\nc:1:z\na:9:y\n' >g
mkdir -p d/e; echo one >d/1.conf; echo two >d/2.conf; echo three >d/e/3.txt; ln -s 1.conf d/l
`

// runReal returns what a statement prints and its exit code, under a shell of this machine.
func runReal(t *testing.T, shell, statement string) string {
	dir := t.TempDir()
	cmd := exec.Command("bash", "-c", preparation)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd = exec.CommandContext(ctx, shell, "-c", statement)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", "HOME=" + dir, "LC_ALL=C", "USER=root"}
	cmd.WaitDelay = time.Second
	out, err = cmd.Output()
	code := 0
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		if code = ee.ExitCode(); code == -1 {
			code = 128 + int(ee.Sys().(syscall.WaitStatus).Signal())
		}
	}
	return fmt.Sprintf("%s=%d", strings.ReplaceAll(string(out), dir, "DIR"), code)
}

// A bench is a machine that runs statements, one at a time.
type bench struct {
	*Host
	shell string
	user  string

	mu      sync.Mutex
	refused string
}

func newBench(t *testing.T, shell string) *bench {
	b := &bench{Host: NewHost(NewDisk()), shell: shell}
	b.OnNotSimulated = func(r Refusal) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.refused = r.Error()
	}
	if b.user = "root"; os.Getuid() != 0 {
		b.user = "tester"
		require.NoError(t, b.Disk().AddUser(b.user))
	}
	b.Boot()
	return b
}

// run is runReal. refused is what the statement asked for and is not simulated, or "".
func (b *bench) run(t *testing.T, statement string) (result, refused string) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	const dir = "/srv/statement"
	require.NoError(t, b.Disk().RemoveAll(dir))
	require.NoError(t, b.Disk().MkdirAll(dir, 0o755))
	out, code := b.Run(ctx, "chown "+b.user+" "+dir)
	require.Zero(t, code, out)
	out, code = b.RunAs(ctx, b.user, "cd "+dir+"; "+preparation)
	require.Zero(t, code, out)
	require.NoError(t, b.Disk().WriteFile("/tmp/statement", []byte(statement), 0o644))
	b.mu.Lock()
	b.refused = ""
	b.mu.Unlock()
	out, code = b.RunAs(ctx, b.user, "cd "+dir+"; HOME="+dir+" USER=root LC_ALL=C exec "+b.shell+` -c "$(cat /tmp/statement)" 2>/dev/null`)
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprintf("%s=%d", strings.ReplaceAll(out, dir, "DIR"), code), b.refused
}
