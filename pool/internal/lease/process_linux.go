package lease

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
)

// machine returns what identifies this machine and its PIDs, or nil. Containers share the boot ID
// of their host; those with PIDs of their own are told apart by their PID namespace.
var machine = func() func() *Process {
	read := sync.OnceValue(func() Process {
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		pids, err2 := os.Readlink("/proc/self/ns/pid")
		if err != nil || err2 != nil {
			return Process{}
		}
		return Process{Boot: strings.TrimSpace(string(boot)), PIDs: pids}
	})
	return func() *Process {
		p := read()
		if p.Boot == "" {
			return nil
		}
		return &p
	}
}()

// started returns when a process began, or "" if that cannot be read or the process has ended.
func started(pid int) string {
	if state, start := stat(pid); state != "Z" && state != "X" {
		return start
	}
	return ""
}

// exists reports whether there may be a process of that number. A zombie is none: it has ended, and
// only its exit status is left.
func exists(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return false
	}
	state, _ := stat(pid) // "" if another user's process cannot be read
	return state != "Z" && state != "X"
}

// stat reads the state of a process and when it began, fields 3 and 22 of proc(5)'s stat.
func stat(pid int) (state, start string) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", ""
	}
	// Field 2, the name, is in parentheses and may hold any character.
	fields := strings.Fields(string(text)[strings.LastIndexByte(string(text), ')')+1:])
	if len(fields) < 20 {
		return "", ""
	}
	return fields[0], fields[19]
}
