package realguests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// A namespace is a network namespace that has no name, so that nothing of it outlives this process
// and its children. It has a thread of its own, and interfaces are made with its Handle.
type namespace struct {
	*netlink.Handle
	fd    int
	calls chan func()
	ended chan struct{}
}

// newNamespace returns an empty namespace, whose loopback interface is up.
func newNamespace() (*namespace, error) {
	n := &namespace{calls: make(chan func()), ended: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(n.ended)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		made <- err
		if err != nil {
			return
		}
		for f := range n.calls {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(n.fd), unix.NETLINK_ROUTE)
	if err != nil {
		n.close()
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	n.Handle = h
	return n, n.up("lo")
}

// do runs f on the namespace's thread: sockets that it opens are in the namespace.
func (n *namespace) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case n.calls <- func() { result <- f() }:
		return <-result
	case <-n.ended:
		return errors.New("the network namespace is closed")
	}
}

// visit runs f, which may take long, on a thread that is in the namespace for that time.
func (n *namespace) visit(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// start starts a process in the namespace, which does not outlive the namespace's thread, nor does
// anything that it starts if it has a PID namespace.
func (n *namespace) start(cmd *exec.Cmd, flags uintptr) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: flags,
	}
	return n.do(cmd.Start)
}

// close ends the thread. The namespace ends with the last process in it.
func (n *namespace) close() {
	close(n.calls)
	<-n.ended
	if n.Handle != nil {
		n.Close()
	}
	_ = unix.Close(n.fd)
}

// up sets an interface up.
func (n *namespace) up(name string) error {
	l, err := n.LinkByName(name)
	if err == nil {
		err = n.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("set interface %s up: %w", name, err)
	}
	return nil
}

// address gives an interface an address.
func (n *namespace) address(name, addr string) error {
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	a.Flags |= unix.IFA_F_NODAD
	l, err := n.LinkByName(name)
	if err == nil {
		err = n.AddrAdd(l, a)
	}
	if err != nil {
		return fmt.Errorf("give interface %s the address %s: %w", name, addr, err)
	}
	return nil
}

// sysctl sets a kernel parameter of the namespace, by its path below /proc/sys/net.
func (n *namespace) sysctl(path, value string) error {
	return n.do(func() error { return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0) })
}
