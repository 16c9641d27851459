package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/e2e/internal/lab"
	"github.com/poolready/poolready/sshx/sshtest"
	"github.com/poolready/poolready/vsphere/vspheretest"
)

// A rig is a lab with guests that are booted by hand, without a vCenter: what scripts do to hosts
// is tested here.
type rig struct {
	t        testing.TB
	topology Topology
	lab      *lab.Lab
	guests   map[string]*lab.Guest
	disks    map[string]vspheretest.Disk
}

func testTopology() Topology {
	topology := DefaultTopology()
	topology.Pools = 2
	topology.RetryPause, topology.WaitCon = 0, 1
	topology.RunnerKey = runnerKey
	return topology
}

var runnerKey = func() string {
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
}()

// notForTheRaceDetector skips what takes long under it and does one thing after the other: hosts
// that do many at once are those on a vCenter.
func notForTheRaceDetector(t testing.TB) {
	t.Helper()
	if raceDetector {
		t.Skip("does one thing after the other, so that the race detector has nothing to find")
	}
}

func newRig(t testing.TB, topology Topology) *rig {
	notForTheRaceDetector(t)
	r := &rig{
		t: t, topology: topology, guests: map[string]*lab.Guest{}, disks: map[string]vspheretest.Disk{},
		lab: lab.New(lab.Options{
			Reserved: topology.Reservations(), AuthorizedKey: topology.RunnerKey, Debian: debians(topology),
			OnNotSimulated: func(vm string, refusal sshtest.Refusal) { t.Errorf("%s: %v", vm, &refusal) },
		}),
	}
	t.Cleanup(func() {
		for _, g := range r.guests {
			g.Kill()
		}
	})
	return r
}

// debians are the goldens that are of the Debian kind.
func debians(t Topology) (names []string) {
	for _, h := range t.Hosts() {
		if h.Role == Golden && like(h.OS) == "debian" {
			names = append(names, h.Name)
		}
	}
	return names
}

// boot powers a host on; without a disk it is a fresh template.
func (r *rig) boot(h Host, disk vspheretest.Disk) *lab.Guest {
	hw := vspheretest.Hardware{Name: h.Name, DiskGiB: r.topology.DiskGiB}
	for i, network := range []string{r.topology.LabNetwork, r.topology.PrivateNetwork, r.topology.ExternalNetwork} {
		mac := fmt.Sprintf("00:50:56:00:00:%02x", i+1)
		if i < len(h.MACs) {
			mac = h.MACs[i]
		}
		hw.NICs = append(hw.NICs, vspheretest.HardwareNIC{MAC: mac, Network: network, Connected: true})
	}
	if disk == nil {
		disk = r.lab.Install(hw)
	}
	g := r.lab.Boot(&vspheretest.Machine{Disk: disk, Hardware: hw}).(*lab.Guest)
	g.AwaitStartup()
	r.guests[h.Name], r.disks[h.Name] = g, disk
	return g
}

// off powers a host off and returns its disk.
func (r *rig) off(h Host) vspheretest.Disk {
	r.guests[h.Name].Kill()
	delete(r.guests, h.Name)
	return r.disks[h.Name]
}

// An output is what a script left.
type output struct {
	stdout, stderr string
	code           int
}

// scripts runs texts on a host, one after the other, as the harness does.
func (r *rig) scripts(h Host, texts ...string) []output {
	r.t.Helper()
	host := r.guests[h.Name].Host()
	var b strings.Builder
	env := r.topology.env(h)
	for _, k := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "export %s='%s'\n", k, strings.ReplaceAll(env[k], "'", `'\''`))
	}
	base := fmt.Sprintf("/run/script-%d", serial.Add(1))
	for i, text := range texts {
		name := fmt.Sprintf("%s-%d", base, i)
		require.NoError(r.t, host.Disk().WriteFile(name, []byte(text), 0o700))
		fmt.Fprintf(&b, "%s >%s.out 2>%s.err\necho $? >%s.code\n", name, name, name, name)
	}
	out, code := host.Run(r.t.Context(), b.String())
	require.Zero(r.t, code, out)
	var outputs []output
	for i := range texts {
		read := func(ext string) string {
			data, err := host.Disk().ReadFile(fmt.Sprintf("%s-%d.%s", base, i, ext))
			require.NoError(r.t, err)
			return string(data)
		}
		o := output{stdout: read("out"), stderr: read("err")}
		_, err := fmt.Sscan(read("code"), &o.code)
		require.NoError(r.t, err)
		outputs = append(outputs, o)
	}
	return outputs
}

// write puts a file on a host's disk.
func (r *rig) write(h Host, file, text string) {
	r.t.Helper()
	d := r.guests[h.Name].Host().Disk()
	require.NoError(r.t, d.MkdirAll(path.Dir(file), 0o755))
	require.NoError(r.t, d.WriteFile(file, []byte(text), 0o600))
}

// script is scripts for one.
func (r *rig) script(h Host, text string) (stdout, stderr string, code int) {
	r.t.Helper()
	o := r.scripts(h, text)[0]
	return o.stdout, o.stderr, o.code
}

// step runs one step of the recipe, and reports whether the host was rebooted for it.
func (r *rig) step(h Host, name string) (rebooted bool) {
	r.t.Helper()
	if name == "secrets" {
		d, env := r.guests[h.Name].Host().Disk(), r.topology.env(h)
		dir := env["SECRETS_DIR"]
		require.NoError(r.t, d.MkdirAll(dir, 0o700))
		require.NoError(r.t, d.WriteFile(path.Join(dir, env["CREDENTIALS"]), []byte("secret\n"), 0o600))
		if h.Role != Dis {
			require.NoError(r.t, d.WriteFile(path.Join(dir, env["PULL_SECRET"]), []byte("secret\n"), 0o600))
		}
	}
	stdout, stderr, code := r.script(h, script("steps", name))
	require.Zero(r.t, code, "%s: step %s: exit code %d\n%s%s", h.Name, name, code, stdout, stderr)
	if rebooted = name == "update" && strings.HasSuffix(stdout, "reboot needed\n"); rebooted {
		r.boot(h, r.off(h))
	}
	return rebooted
}

// configure runs all steps of a host's role, but those named.
func (r *rig) configure(h Host, but ...string) {
	r.t.Helper()
	for _, name := range steps[h.Role] {
		if !slices.Contains(but, name) {
			r.step(h, name)
		}
	}
}

// verify runs all checks of a host and returns "want X, got Y" of those that fail, by name.
func (r *rig) verify(h Host) map[string]string {
	r.t.Helper()
	failed := map[string]string{}
	env := r.topology.env(h)
	var texts []string
	for _, c := range checks[h.Role] {
		texts = append(texts, script("checks", c.name))
	}
	for i, o := range r.scripts(h, texts...) {
		c := checks[h.Role][i]
		want, got := expand(c.want, env), strings.TrimSpace(o.stdout)
		if o.code != 0 || got != want {
			failed[c.name] = fmt.Sprintf("want %q, got %q (exit code %d) %s", want, got, o.code, o.stderr)
		}
	}
	return failed
}

// tree is all that is on a disk, but what a boot throws away: path to kind, mode, owner, content.
func tree(t testing.TB, d *sshtest.Disk) map[string]string {
	all := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := d.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			p := path.Join(dir, e.Name())
			if slices.Contains([]string{"/run", "/proc", "/dev", "/tmp", "/sys"}, p) {
				continue
			}
			info, err := d.Lstat(p)
			require.NoError(t, err)
			content := ""
			switch {
			case info.IsDir():
				walk(p)
			case info.Mode().IsRegular():
				data, err := d.ReadFile(p)
				require.NoError(t, err)
				content = string(data)
			default:
				content, err = d.Readlink(p)
				require.NoError(t, err)
			}
			all[p] = fmt.Sprintf("%v %v %s", info.Mode(), info.Sys(), content)
		}
	}
	walk("/")
	return all
}
