package realguests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/poolready/poolready/vsphere/vspheretest"
)

//go:embed image
var imageFS embed.FS

// An image is a stock system in a directory of the cache: root, its files, or for VMs disk.qcow2,
// vmlinux and initrd; repo, a repository of the packages that the recipe installs; id_ed25519, a
// key that logs in as root; hostkeys, the system's.
type image struct{ dir string }

const (
	keyFile  = "id_ed25519"
	imageGiB = 4 // of a VM's disk
)

func (i image) file(name string) string { return filepath.Join(i.dir, name) }
func (i image) root() string            { return i.file("root") }
func (i image) disk() string            { return i.file("disk.qcow2") }
func (i image) repo() string            { return i.file("repo") }

func (i image) key() (ssh.Signer, error) { return vspheretest.SSHKey(i.dir, keyFile) }

// hostKeys are those of the template, in authorized_keys form.
func (i image) hostKeys() ([]string, error) {
	data, err := os.ReadFile(i.file("hostkeys"))
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n"), nil
}

var debianOS = regexp.MustCompile(`^debian([0-9]+)$`)

// codenames of Debian's releases.
var codenames = map[string]string{"12": "bookworm", "13": "trixie"}

// An imageSpec says what an image is to be. A VM has the recipe's packages installed: under
// emulation, that takes long.
type imageSpec struct {
	system, stack string
	kind          Kind
	packages      string // what the recipe installs
}

func (s imageSpec) String() string { return fmt.Sprintf("%s-%s-%s", s.system, s.stack, s.kind) }

// openImage returns an image from the cache, or builds it now of the packages of this machine's own
// apt sources. It is kept until release is called; after that, a process that builds one that
// differs may remove it.
func openImage(ctx context.Context, cache string, spec imageSpec, logf func(string, ...any)) (i image, release func(), err error) {
	fail := func(err error) (image, func(), error) {
		return image{}, nil, fmt.Errorf("build image %s: %w", spec, err)
	}
	i.dir = filepath.Join(cache, fmt.Sprintf("%s-%s", spec, contentHash(spec.packages)))
	for how := unix.LOCK_SH; ; how = unix.LOCK_EX { // one process builds, many use
		f, err := openLock(i.dir+".lock", how)
		if err != nil {
			return fail(err)
		}
		_, err = os.Stat(i.dir)
		if errors.Is(err, fs.ErrNotExist) && how == unix.LOCK_EX {
			err = i.build(ctx, spec, logf)
		}
		if err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_SH)
		}
		if err == nil {
			i.prune(cache, spec)
			return i, func() { f.Close() }, nil
		}
		f.Close()
		if !errors.Is(err, fs.ErrNotExist) || how == unix.LOCK_EX {
			return fail(err)
		}
	}
}

// build makes the directory of the image, whole or not at all.
func (i image) build(ctx context.Context, spec imageSpec, logf func(string, ...any)) error {
	m := debianOS.FindStringSubmatch(spec.system)
	if m == nil || codenames[m[1]] == "" {
		return errors.New("only debian12 and debian13 can be built")
	}
	sources, err := aptSources(ctx, codenames[m[1]])
	if err != nil {
		return err
	}
	begun := time.Now()
	logf("building image %s in %s; some minutes, once", spec, i.dir)
	building := image{i.dir + ".new"}
	if err := os.RemoveAll(building.dir); err != nil { // from a build that was killed
		return err
	}
	if err := extract(imageFS, "image", building.file("scripts")); err != nil {
		return err
	}
	key, err := building.key()
	if err != nil {
		return err
	}
	if err := os.WriteFile(building.file("authorized_keys"), authorizedKey(key), 0o600); err != nil {
		return err
	}
	err = runPrivately(ctx, sources, building.file("scripts/build.sh"),
		building.dir, codenames[m[1]], spec.stack, string(spec.kind), spec.packages)
	if err != nil {
		return err
	}
	logf("built it in %.0fs", time.Since(begun).Seconds())
	return os.Rename(building.dir, i.dir)
}

// prune removes images of the same kind with other contents, unless they are in use.
func (i image) prune(cache string, spec imageSpec) {
	locks, _ := filepath.Glob(filepath.Join(cache, spec.String()+"-*.lock"))
	for _, lock := range locks {
		dir := strings.TrimSuffix(lock, ".lock")
		if dir == i.dir {
			continue
		}
		f, err := openLock(lock, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // somebody uses it
		}
		for _, path := range []string{dir, dir + ".new", lock} {
			_ = os.RemoveAll(path)
		}
		f.Close()
	}
}

func authorizedKey(key ssh.Signer) []byte { return ssh.MarshalAuthorizedKey(key.PublicKey()) }

// contentHash is of all that decides what is in an image, but the distribution's own packages.
func contentHash(packages string) string {
	h := sha256.New()
	fmt.Fprintln(h, packages)
	err := fs.WalkDir(imageFS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := imageFS.ReadFile(path)
		fmt.Fprintln(h, path, len(data))
		h.Write(data)
		return err
	})
	if err != nil {
		panic(err) // it is embedded
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// aptSources are the lines of sources.list of this machine for a release of Debian.
func aptSources(ctx context.Context, codename string) ([]byte, error) {
	const line = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", line,
		"Created-By: Packages", "Origin: Debian").Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt for this machine's sources: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 4 &&
			(f[2] == codename || strings.HasPrefix(f[2], codename+"-")) {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf(
			"this machine's apt has no sources of Debian's %s, or no lists of them: apt-get update",
			codename,
		)
	}
	return []byte(strings.Join(lines, "")), nil
}

// extract copies a directory of an embedded file system. What has a "#!" is executable.
func extract(from embed.FS, dir, to string) error {
	return fs.WalkDir(from, dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.Join(to, strings.TrimPrefix(path, dir))
		if d.IsDir() {
			return os.MkdirAll(name, 0o755)
		}
		data, err := from.ReadFile(path)
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if bytes.HasPrefix(data, []byte("#!")) {
			mode = 0o755
		}
		return os.WriteFile(name, data, mode)
	})
}

// runPrivately runs a program in namespaces of its own for processes and mounts, none of which
// outlives it or this process.
func runPrivately(ctx context.Context, stdin []byte, args ...string) error {
	private := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}
	cmd := exec.CommandContext(ctx, "unshare", append(private, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // with whose end the signal would come
	defer runtime.UnlockOSThread()
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(args[0]), err, bytes.TrimSpace(out))
	}
	return nil
}

// openLock opens a file, which it makes, and locks it until it is closed. With LOCK_NB, EWOULDBLOCK
// says that another process has the lock.
func openLock(name string, how int) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}
