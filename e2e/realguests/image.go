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

// buildImage returns an image for a kind of guests, from the cache or built now, of the packages of
// this machine's own apt sources. A VM has the recipe's packages installed: under emulation, that
// takes long.
func buildImage(
	ctx context.Context,
	cache, system, stack string,
	kind Kind,
	packages string,
	logf func(string, ...any),
) (image, error) {
	fail := func(err error) (image, error) {
		return image{}, fmt.Errorf("build an image of %s, %s, for %s: %w", system, stack, kind, err)
	}
	m := debianOS.FindStringSubmatch(system)
	if m == nil || codenames[m[1]] == "" {
		return fail(errors.New("only debian12 and debian13 can be built"))
	}
	i := image{
		filepath.Join(
			cache,
			fmt.Sprintf("%s-%s-%s-%s", system, stack, kind, contentHash(packages)),
		),
	}
	unlock, err := lockFile(i.dir+".lock", unix.LOCK_EX) // another process may build it
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if _, err := os.Stat(i.dir); err == nil {
		return i, nil
	}
	sources, err := aptSources(ctx, codenames[m[1]])
	if err != nil {
		return fail(err)
	}
	begun := time.Now()
	logf(
		"building an image of %s, %s, for %s, in %s; some minutes, once",
		system,
		stack,
		kind,
		i.dir,
	)
	building := i.dir + ".new"
	if err := os.RemoveAll(building); err != nil { // from a build that was killed
		return fail(err)
	}
	scripts := filepath.Join(building, "scripts")
	if err := extract(imageFS, "image", scripts); err != nil {
		return fail(err)
	}
	key, err := image{building}.key()
	if err != nil {
		return fail(err)
	}
	authorized := filepath.Join(building, "authorized_keys")
	if err := os.WriteFile(authorized, authorizedKey(key), 0o600); err != nil {
		return fail(err)
	}
	err = runPrivately(ctx, sources, filepath.Join(scripts, "build.sh"),
		building, codenames[m[1]], stack, string(kind), packages)
	if err != nil {
		return fail(err)
	}
	if err := os.Rename(building, i.dir); err != nil { // whole or not at all
		return fail(err)
	}
	logf("built it in %.0fs", time.Since(begun).Seconds())
	return i, nil
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

// lockFile takes the lock of a file, which it makes. With LOCK_NB, EWOULDBLOCK says that another
// process has it.
func lockFile(name string, how int) (unlock func(), err error) {
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
	return func() { f.Close() }, nil
}
