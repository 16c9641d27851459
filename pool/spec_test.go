package pool

import (
	"context"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSpecFaultsAreReportedAllAtOnceWithTheirPaths(t *testing.T) {
	t.Parallel()
	err := Spec{}.validate()
	require.Error(t, err)
	assert.Equal(t, `invalid spec:
Spec.Name: is required
Spec.Provider: is required (vsphere.New makes one)
Spec.SSH.Keys: is empty, and there is no Agent: no way to log in
Spec.SSH.HostKeys: trusts no key, so that no new golden is let in
Spec.Golden.Template: is required
Spec.Golden.VM.Name: is required
Spec.Roles: is empty: a pool needs at least one role`, err.Error())
	_, err = Open(t.Context(), Spec{})
	assert.ErrorContains(t, err, "pool: invalid spec:")
	_, err = Plan(t.Context(), Spec{})
	assert.ErrorContains(t, err, "pool: invalid spec:")
}

func TestSpecFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		mend func(*Spec)
		want string // a line
	}{
		{"a name that is no DNS label", func(s *Spec) { s.Name = "My Lab" }, `Spec.Name: "My Lab" must be made of a-z, 0-9 and "-"`},
		{"negative pools", func(s *Spec) { s.Pools = -1 }, `Spec.Pools: is -1, must not be negative`},
		{"more MinPools than pools", func(s *Spec) { s.MinPools = 9 }, `Spec.MinPools: is 9, more than the 2 in Spec.Pools`},
		{"negative limits", func(s *Spec) { s.Limits.Boot = -time.Second }, `Spec.Limits.Boot: is -1000000000, must not be negative`},
		{"two roles of one name", func(s *Spec) { s.Roles[1].Name = "con" }, `Spec.Roles[1] ("con"): has the name of Spec.Roles[0]`},
		{"a need of an unknown role", func(s *Spec) { s.Roles[1].Needs[0].Role = "cno" }, `Spec.Roles[1] ("dis"): Needs[0] ("dns"): role "cno" is not an earlier role; those are "con"`},
		{"a need of a later role", func(s *Spec) { s.Roles[0].Needs = s.Roles[1].Needs }, `Spec.Roles[0] ("con"): Needs[0] ("dns"): role "con" is not an earlier role; the first role can need none`},
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
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := twoRoles(2)
			require.NoError(t, s.validate())
			tt.mend(&s)
			err := s.validate()
			require.Error(t, err)
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

func TestAnAgentIsAWayToLogIn(t *testing.T) {
	t.Parallel()
	s := twoRoles(1)
	s.SSH.Keys, s.SSH.Agent = nil, "/run/agent"
	assert.NoError(t, s.validate())
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
	assert.Equal(t, `2 of 4 checks failed
check "other": want "10.0.0.1", got "ok"
check "dollars": want "$6$salt 10.0.0.1 ${PI}", got "ok"`, err.Error())
	assert.True(t, results[0].OK())
	assert.True(t, results[2].OK())
}
