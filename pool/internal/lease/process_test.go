package lease

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAProcessThatHasEndedIsKnownOnItsMachineOnly(t *testing.T) {
	t.Parallel()
	self := Self()
	if runtime.GOOS != "linux" {
		assert.Nil(t, self, "elsewhere nothing is told")
		t.Skip("only Linux tells whether a process has ended")
	}
	require.NotNil(t, self)
	assert.Equal(t, os.Getpid(), self.PID)
	assert.False(t, self.Ended())
	assert.False(t, (*Process)(nil).Ended())

	child := exec.Command("cat")
	stdin, err := child.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	p := *self
	p.PID, p.Start = child.Process.Pid, started(child.Process.Pid)
	require.NotEmpty(t, p.Start)
	assert.False(t, p.Ended(), "it runs")
	reused := p
	reused.Start += "0"
	assert.True(t, reused.Ended(), "the number belongs to another process by now")

	require.NoError(t, child.Process.Kill())
	assert.Eventually(t, p.Ended, 10*time.Second, time.Millisecond, "a zombie has ended")
	_ = stdin.Close()
	_ = child.Wait()
	assert.True(t, p.Ended())

	elsewhere := p
	elsewhere.Boot = "another"
	assert.False(t, elsewhere.Ended(), "nobody knows, of another machine")
	elsewhere = p
	elsewhere.PIDs = "pid:[1]"
	assert.False(t, elsewhere.Ended(), "nor of another container")
}
