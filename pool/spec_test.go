package pool

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

// testKey logs in nowhere.
var testKey = func() ssh.Signer {
	key, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		panic(err)
	}
	return key
}()

func TestSpecFaultsAreReportedAllAtOnceWithTheirPaths(t *testing.T) {
	t.Parallel()
	err := Spec{}.validate()
	require.ErrorIs(t, err, ErrInvalidSpec)
	var paths []string
	for line := range strings.Lines(err.Error()) {
		path, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		paths = append(paths, strings.TrimSuffix(path, ":"))
	}
	assert.Equal(t, []string{
		"invalid", "Spec.Name", "Spec.Provider", "Spec.SSH.HostKeys", "Spec.SSH.Keys", "Spec.Golden.Template",
		"Spec.Golden.VM.Name", "Spec.Roles",
	}, paths)
	_, err = Open(t.Context(), Spec{})
	assert.ErrorIs(t, err, ErrInvalidSpec)
	_, err = MakePlan(t.Context(), Spec{})
	assert.ErrorIs(t, err, ErrInvalidSpec)
}

func TestSpecFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		mend func(*Spec)
		want string // a line
	}{
		{"a name that is no DNS label", func(s *Spec) { s.Name = "My Lab" }, `Spec.Name: "My Lab" must consist of a-z, 0-9 and "-"`},
		{"negative pools", func(s *Spec) { s.Pools = -1 }, `Spec.Pools: is -1, must not be negative`},
		{"more MinPools than pools", func(s *Spec) { s.MinPools = 9 }, `Spec.MinPools: is 9, more than the 2 in Spec.Pools`},
		{"negative limits", func(s *Spec) { s.Limits.Boot = -time.Second }, `Spec.Limits.Boot: is -1s, must not be negative`},
		{"two roles of one name", func(s *Spec) { s.Roles[1].Name = "con" }, `Spec.Roles[1] ("con"): has the name of Spec.Roles[0]`},
		{"a need of an unknown role", func(s *Spec) { s.Roles[1].Needs[0].Role = "cno" }, `Spec.Roles[1] ("dis"): Needs[0] ("dns"): role "cno" is not an earlier role; those are "con"`},
		{"a need of a later role", func(s *Spec) { s.Roles[0].Needs = s.Roles[1].Needs }, `Spec.Roles[0] ("con"): Needs[0] ("dns"): role "con" is not an earlier role; the first role cannot need another`},
		{"a step without version", func(s *Spec) { s.Roles[0].Steps[0].Version = "" }, `Spec.Roles[0] ("con"): Steps[0] ("dnsmasq"): Version is required: a function cannot be hashed (pool.Script and the like set it)`},
		{"a check without a function", func(s *Spec) { s.Golden.Checks[0].Do = nil }, `Spec.Golden: Checks[0] ("time"): Do is required`},
		{"two steps of one name", func(s *Spec) { s.Golden.Steps = append(s.Golden.Steps, s.Golden.Steps[0]) }, `Spec.Golden: Steps[1] ("update"): has the name of an earlier one`},
		{"files that cannot be read", func(s *Spec) { s.Golden.Steps[0] = Files("conf", "/etc", fstest.MapFS{"../x": {}}) }, `Spec.Golden: Steps[0] ("conf")`},
		{"a role without VMs", func(s *Spec) { s.Roles[0].VM = nil }, `Spec.Roles[0] ("con"): VM is required`},
		{"one name for two VMs", func(s *Spec) { s.Roles[1].VM = s.Roles[0].VM }, `Spec.Roles[1] ("dis"): VM(1): Name "con1" is that of Spec.Roles[0] ("con"): VM(1)`},
		{"one MAC for two VMs", func(s *Spec) { s.Roles[1].VM = s.Roles[0].VM }, `Spec.Roles[1] ("dis"): VM(2): MAC "00:50:56:00:02:01" is that of Spec.Roles[0] ("con"): VM(2)`},
		{"golden's name for another", func(s *Spec) { s.Golden.VM.Name = "con2" }, `Spec.Roles[0] ("con"): VM(2): Name "con2" is that of Spec.Golden.VM`},
		{"a linked clone that grows", func(s *Spec) { s.changeCon(func(vm *VM) { vm.DiskGiB = 9 }) }, `Spec.Roles[0] ("con"): VM(1).DiskGiB: is 9: a linked clone's disk cannot grow; set Spec.Golden.VM.DiskGiB`},
		{"a MAC that is none", func(s *Spec) { s.changeCon(func(vm *VM) { vm.NICs[0].MAC = "x" }) }, `Spec.Roles[0] ("con"): VM(1).NICs[0].MAC: "x" is not of the form 00:50:56:00:01:02`},
		{"a folder outside the set's", func(s *Spec) { s.changeCon(func(vm *VM) { vm.Folder = "a/../../b" }) }, `Spec.Roles[0] ("con"): VM(1).Folder: "a/../../b" must be below the set's folder`},
		{"a MAC in a form that vCenter does not know", func(s *Spec) { s.changeCon(func(vm *VM) { vm.NICs[0].MAC = "00-50-56-00-01-01" }) }, `Spec.Roles[0] ("con"): VM(1).NICs[0].MAC: "00-50-56-00-01-01" is not of the form 00:50:56:00:01:02`},
		{"golden's name for a role", func(s *Spec) { s.Roles[1].Name = "golden" }, `Spec.Roles[1] ("golden"): Name: "golden" is the name of what roles are cloned from`},
		{"golden's name on another datastore", func(s *Spec) {
			s.spread("ds1", "ds2")
			s.Roles[1].VM = func(n int) VM { return VM{Name: fmt.Sprint("golden-ds", n), Datastore: "ds1"} }
		}, `Spec.Golden.VM: golden on datastore "ds2": Name "golden-ds2" is that of Spec.Roles[1] ("dis"): VM(2)`},
		{"datastores whose goldens would have one name", func(s *Spec) { s.spread("DS 1", "ds-1") }, `Spec.Golden.VM: golden on datastore "ds-1": Name "golden-ds-1" is that of Spec.Golden.VM`},
		{"a datastore whose name is too long for golden's", func(s *Spec) { s.spread("a", strings.Repeat("b", 80)) }, `Spec.Golden.VM: golden on datastore "` + strings.Repeat("b", 80) + `": its name would have 87 characters, at most 76 are allowed`},
		{"a variable that no shell has", func(s *Spec) { s.changeCon(func(vm *VM) { vm.Env = map[string]string{"A-B": ""} }) }, `Spec.Roles[0] ("con"): VM(1).Env: "A-B" is not a name for an environment variable`},
		{"a provider that is a nil pointer", func(s *Spec) { s.Provider = (*unused)(nil) }, `Spec.Provider: is required`},
		{"pools by the thousands", func(s *Spec) { s.Pools = 10000 }, `Spec.Pools: is 10000, at most 1000 are allowed`},
		{"a pool twice in Only", func(s *Spec) { s.Only = []int{1, 1} }, `Spec.Only[1]: is 1, like Spec.Only[0]`},
		{"Keep without When", func(s *Spec) { s.Keep.For = time.Hour }, `Spec.Keep.When: is empty`},
		{"a cleanup without a function", func(s *Spec) { s.Cleanups = map[string]func(context.Context, string) error{"dns": nil} }, `Spec.Cleanups["dns"]: the function is required`},
		{"a time without a unit", func(s *Spec) { s.Limits.Shutdown = 30 }, `Spec.Limits.Shutdown: is 30ns; numbers count nanoseconds, so write 30*time.Second`},
		{"a lease that cannot be renewed in time", func(s *Spec) { s.Limits.Lease = time.Millisecond }, `Spec.Limits.Lease: is 1ms, at least 1s is needed`},
		{"a boot that cannot be in time", func(s *Spec) { s.Limits.Boot = time.Millisecond }, `Spec.Limits.Boot: is 1ms, at least 1s is needed`},
		{"a timeout without a unit", func(s *Spec) { s.Roles[1].Needs[0].Timeout = 5 }, `Spec.Roles[1] ("dis"): Needs[0] ("dns"): Timeout: is 5ns;`},
		{"a golden that is always too old", func(s *Spec) { s.Golden.MaxAge = time.Second }, `Spec.Golden.MaxAge: is 1s, at least 1m0s is needed`},
		{"a host key that is none", func(s *Spec) { s.SSH.HostKeys.Pinned = []string{"nonsense"} }, `Spec.SSH.HostKeys.Pinned[0] "nonsense": `},
		{"a known_hosts file that is not there", func(s *Spec) { s.SSH.HostKeys.KnownHosts = "/none" }, `Spec.SSH.HostKeys.KnownHosts: open /none`},
		{"a key that is nil", func(s *Spec) { s.SSH.Keys = []ssh.Signer{nil} }, `Spec.SSH.Keys has a nil key`},
		{"a jump host without an address", func(s *Spec) { s.SSH.Jump = []sshx.Config{{Keys: s.SSH.Keys}} }, `Spec.SSH.Jump[0]: Config.Address is empty`},
		{"a jump host that nothing proves", func(s *Spec) { s.SSH.Jump = []sshx.Config{{Address: "j", Keys: s.SSH.Keys}} }, `Spec.SSH.Jump[0].HostKeys: no trusted host key`},
		{"one address for all hosts", func(s *Spec) { s.SSH.Address = "10.0.0.1" }, `Spec.SSH: Name and Address must be empty`},
		{"a VM function that panics", func(s *Spec) { s.Roles[0].VM = func(int) VM { panic("boom") } }, `Spec.Roles[0] ("con"): VM(1): panics: boom`},
		{"a VM function that knows two pools", func(s *Spec) {
			s.Pools, s.Roles[1].VM = 3, func(n int) VM { return []VM{{Name: "a"}, {Name: "b"}}[n-1] }
		}, `Spec.Roles[1] ("dis"): VM(3): panics: runtime error: index out of range [2] with length 2`},
		{"a VM function of changing results", func(s *Spec) {
			calls := 0
			s.changeCon(func(vm *VM) { calls++; vm.Name = fmt.Sprint("con-", calls) })
		}, `Spec.Roles[0] ("con"): VM(1): returns Name con-1 at the first call, and Name con-2 at the second`},
		{"a VM function that changes what it returned", func(s *Spec) {
			env := map[string]string{}
			s.changeCon(func(vm *VM) { env[fmt.Sprint("V", len(env))] = "secret"; vm.Env = env })
		}, `Spec.Roles[0] ("con"): VM(1): returns an Env of 1 variables at the first call, and an Env of 2 variables at the second`},
		{"memory that is no multiple of 4", func(s *Spec) { s.Golden.VM.MemoryMiB = 3 }, `Spec.Golden.VM.MemoryMiB: is 3; the memory of a VM is a multiple of 4 MiB`},
		{"memory in bytes", func(s *Spec) { s.Golden.VM.MemoryMiB = 4 << 30 }, `Spec.Golden.VM.MemoryMiB: is 4294967296, at most 25165824 are allowed`},
		{"a thousand CPUs", func(s *Spec) { s.changeCon(func(vm *VM) { vm.CPUs = 1000 }) }, `Spec.Roles[0] ("con"): VM(1).CPUs: is 1000, at most 768 are allowed`},
		{"a disk in MiB", func(s *Spec) { s.Golden.VM.DiskGiB = 81920 }, `Spec.Golden.VM.DiskGiB: is 81920, at most 63488 are allowed`},
		{"the ledger's folder", func(s *Spec) { s.changeCon(func(vm *VM) { vm.Folder = "Ledger/con" }) }, `Spec.Roles[0] ("con"): VM(1).Folder: "Ledger/con" is reserved`},
		{"a folder without a name", func(s *Spec) { s.changeCon(func(vm *VM) { vm.Folder = "a//b" }) }, `Spec.Roles[0] ("con"): VM(1).Folder: "a//b" must be names with / between them`},
		{"a folder with a long name", func(s *Spec) { s.Golden.VM.Folder = strings.Repeat("x", 81) }, `Spec.Golden.VM.Folder: "` + strings.Repeat("x", 81) + `" has 81 characters`},
		{"a variable with a NUL", func(s *Spec) { s.changeCon(func(vm *VM) { vm.Env["HOST"] = "a\x00b" }) }, `Spec.Roles[0] ("con"): VM(1).Env: the value of "HOST" has a NUL`},
		{"a variable of sshx's", func(s *Spec) { s.Golden.VM.Env = map[string]string{"_sshx": ""} }, `Spec.Golden.VM.Env: "_sshx": names that begin with _sshx are reserved`},
		{"a MAC of many", func(s *Spec) { s.changeCon(func(vm *VM) { vm.NICs[0].MAC = "01:00:5e:00:00:01" }) }, `Spec.Roles[0] ("con"): VM(1).NICs[0].MAC: "01:00:5e:00:00:01" is not the address of one NIC`},
		{"more NICs than a VM has", func(s *Spec) { s.Golden.VM.NICs = make([]NIC, 11) }, `Spec.Golden.VM.NICs: are 11, at most 10 are allowed`},
		{"a template of two lines", func(s *Spec) { s.Golden.Template = "rhel9\n" }, `Spec.Golden.Template: "rhel9\n" has a line break`},
		{"white space around Want", func(s *Spec) { s.Golden.Checks[0].Want = "ok\n" }, `Spec.Golden: Checks[0] ("time"): Want: "ok\n" has white space around it`},
		{"an unknown variable in Want", func(s *Spec) {
			s.Roles[0].AfterReset = []Check{{Name: "name", Version: "1", Want: "${HOST} ${NOPE}", Do: looks}}
		}, `Spec.Roles[0] ("con"): AfterReset[0] ("name"): Want: unknown variable ${NOPE}; want one of the Env of con1: HOST`},
		{"a variable that one pool lacks", func(s *Spec) {
			s.changeCon(func(vm *VM) { vm.Env["OF_"+strings.ToUpper(vm.Name)] = "x" })
			s.Roles[0].Checks = []Check{{Name: "name", Version: "1", Want: "${OF_CON1}", Do: looks}}
		}, `Spec.Roles[0] ("con"): Checks[0] ("name"): Want: unknown variable ${OF_CON1}; want one of the Env of con2: HOST, OF_CON2`},
		{"an empty script", func(s *Spec) { s.Golden.Steps[0] = Script("update", " \n") }, `Spec.Golden: Steps[0] ("update"): the script is empty`},
		{"a script with CRLF", func(s *Spec) { s.Golden.Checks[0] = ScriptCheck("time", "", "date\n# now\r\n") }, `Spec.Golden: Checks[0] ("time"): line 2 of the script ends in CRLF`},
		{"facts with a NUL", func(s *Spec) { s.Facts = "echo \x00" }, `Spec.Facts: the script has a NUL`},
		{"files from nowhere", func(s *Spec) { s.Golden.Steps[0] = Files("conf", "/etc", nil) }, `Spec.Golden: Steps[0] ("conf"): read the files of a <nil>: panic`},
		{"files that are not there", func(s *Spec) { s.Golden.Steps[0] = Files("conf", "/etc", os.DirFS("none")) }, `Spec.Golden: Steps[0] ("conf"): stat .: no such file`},
		{"files to a relative path", func(s *Spec) { s.Golden.Steps[0] = Files("conf", "etc", fstest.MapFS{}) }, `Spec.Golden: Steps[0] ("conf"): the destination "etc" is not an absolute path`},
		{"files to no path", func(s *Spec) { s.Golden.Steps[0] = Files("conf", "", fstest.MapFS{}) }, `Spec.Golden: Steps[0] ("conf"): the destination "" is not an absolute path`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := twoRoles(2)
			require.NoError(t, s.validate())
			tt.mend(&s)
			err := s.validate()
			require.ErrorIs(t, err, ErrInvalidSpec)
			found := false
			for line := range strings.Lines(err.Error()) {
				found = found || strings.HasPrefix(line, tt.want)
			}
			assert.True(t, found, "no line %q in:\n%v", tt.want, err)
		})
	}
}

func (s *Spec) changeCon(f func(*VM)) {
	vm := s.Roles[0].VM
	s.Roles[0].VM = func(n int) VM {
		v := vm(n)
		f(&v)
		return v
	}
}

// spread puts the pools on two datastores.
func (s *Spec) spread(datastores ...string) {
	for i := range s.Roles {
		vm := s.Roles[i].VM
		s.Roles[i].VM = func(n int) VM { v := vm(n); v.Datastore = datastores[n-1]; return v }
	}
}

func TestVersionsFollowContent(t *testing.T) {
	t.Parallel()
	assert.Equal(t, Script("a", "x").Version, Script("b", "x").Version)
	assert.NotEqual(t, Script("a", "x").Version, Script("a", "y").Version)
	files := func(dst, name, text string, mode fs.FileMode) string {
		return Files("f", dst, fstest.MapFS{name: {Data: []byte(text), Mode: mode}, "z": {}}).Version
	}
	base := files("/etc", "a", "x", 0o644)
	assert.Equal(t, base, files("/etc", "a", "x", 0o644))
	assert.NotEqual(t, base, files("/opt", "a", "x", 0o644), "the destination counts")
	assert.NotEqual(t, base, files("/etc", "b", "x", 0o644), "names count")
	assert.NotEqual(t, base, files("/etc", "a", "y", 0o644), "contents count")
	assert.NotEqual(t, base, files("/etc", "a", "x", 0o755), "modes count")
}

func TestPanicsOfUsersFunctionsAreErrors(t *testing.T) {
	t.Parallel()
	h := &Host{Name: "con1", limits: Limits{}.withDefaults()}
	boom := func(context.Context, *Host) (string, error) { panic("boom") }
	results, err := runChecks(t.Context(), h, []Check{{Name: "a", Do: boom}, {Name: "b", Do: looks}})
	var failed *CheckError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 1)
	assert.ErrorContains(t, results[0].Err, "panic: boom")
	assert.True(t, results[1].OK(), "the other checks are run all the same")
}

func TestCheckResult(t *testing.T) {
	t.Parallel()
	h := &Host{Name: "con1", limits: Limits{}.withDefaults(), VM: VM{Env: map[string]string{"IP": "10.0.0.1"}}}
	results, err := runChecks(t.Context(), h, []Check{
		{Name: "same", Want: "ok", Do: looks},
		{Name: "other", Want: "${IP}", Do: looks},
		{Name: "anything", Do: looks},
		{Name: "dollars", Want: "$6$salt ${IP} ${PI}", Do: looks},
	})
	require.Error(t, err)
	assert.Equal(t, `2 of 4 checks failed: "other", "dollars"
check "other": want "10.0.0.1", got "ok"
check "dollars": want "$6$salt 10.0.0.1 ${PI}", got "ok"`, err.Error())
	assert.True(t, results[0].OK())
	assert.True(t, results[2].OK())
}

func TestChecksTellNoSecrets(t *testing.T) {
	t.Parallel()
	h := &Host{Name: "con1", limits: Limits{}.withDefaults(), VM: VM{Env: map[string]string{"TOKEN": "hunter2hunter2"}}}
	h.cfg.Secrets = []string{"hunter2hunter2"}
	prints := func(text string) func(context.Context, *Host) (string, error) {
		return func(context.Context, *Host) (string, error) { return text, nil }
	}
	results, err := runChecks(t.Context(), h, []Check{
		{Name: "printed", Want: "token=${TOKEN}", Do: prints("token=***")}, // as sshx has it
		{Name: "its own", Want: "token=${TOKEN}", Do: prints("token=hunter2hunter2")},
		{Name: "other", Want: "token=${TOKEN}", Do: prints("token=hunter3")},
	})
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "hunter2")
	assert.Equal(t, []bool{true, true, false}, []bool{results[0].OK(), results[1].OK(), results[2].OK()})
}
