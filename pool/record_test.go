package pool

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRecordComesBackAsItWas(t *testing.T) {
	t.Parallel()
	r := record{
		Format: recordFormat, Set: "lab", VM: "con1", Layer: "con", Pool: 1, Fingerprint: "F", Template: "T", Build: "B", Golden: "G",
		Needs: map[string]string{"con": "X"}, Boot: "b", At: seconds{now.UTC().Truncate(time.Second)}, HostKeys: keys{"ssh-ed25519 SHA256:AAAA"},
	}
	got, err := decodeRecord(r.encode())
	require.NoError(t, err)
	assert.Equal(t, r, got)
}

// What a hypervisor has cut is no ready VM, and not somebody else's snapshot either: it is found, and
// told.
func TestACutRecordIsKnownAsOne(t *testing.T) {
	t.Parallel()
	text := record{Set: "lab", VM: "con1", Layer: "con"}.encode()
	for n := len(`{"poolready":`); n < len(text); n++ {
		_, err := decodeRecord(text[:n])
		assert.ErrorIs(t, err, errCutRecord, text[:n])
	}
	vm := VMInfo{Name: "con1", Snapshots: []Snapshot{{Name: "pool-ready", Record: text[:40]}}}
	assert.False(t, vm.foreignSnapshots())
}

// The longest that an ordinary Spec has: names of twenty characters, three host keys, two roles that
// are needed, and a snapshot with memory.
func TestARecordIsSmall(t *testing.T) {
	t.Parallel()
	sum := pinHash + strings.Repeat("x", 43)
	r := record{
		Set: strings.Repeat("s", 20), VM: strings.Repeat("v", 20), Layer: strings.Repeat("l", 10), Pool: 100, Fingerprint: hash("f"),
		Build: newBuild(), Golden: newBuild(), Needs: map[string]string{"con": newBuild(), "registry": newBuild()},
		Boot: "01234567-0123-0123-0123-0123456789ab", At: seconds{now}, HostKeys: keys{"ssh-ed25519" + sum, "ecdsa-sha2-nistp256" + sum, "ssh-rsa" + sum},
	}
	assert.LessOrEqual(t, len(r.encode()), maxRecord)
}

func TestAnAccountComesBackAsItWas(t *testing.T) {
	t.Parallel()
	var f fingerprint
	for i := range 300 {
		f.add(fmt.Sprintf("step %q", fmt.Sprint("number ", i)), fmt.Sprint(i))
	}
	a := account{Build: "B", Parts: f, Took: []took{{"all", 1.5}}, By: "me", Checks: "c"}
	stored, longest := map[string]string{}, 0
	for k, v := range a.values("con1") {
		stored[strings.TrimPrefix(k, accountPrefix)] = v
		longest = max(longest, len(v))
	}
	assert.Less(t, longest, 4096)
	got, ok := accountOf(stored, "con1", "B")
	require.True(t, ok)
	assert.Equal(t, a, got)
	assert.Equal(t, 1500*time.Millisecond, got.took("all"))
	assert.Zero(t, got.took("nothing"))
	_, ok = accountOf(stored, "con1", "another build")
	assert.False(t, ok)
	_, ok = accountOf(stored, "con2", "B")
	assert.False(t, ok)
	delete(stored, "con1.1")
	_, ok = accountOf(stored, "con1", "B")
	assert.False(t, ok, "a part of it is lost")
	for range 10_000 {
		f.add(rand.Text(), rand.Text())
	}
	for _, v := range (account{Build: "C", Parts: f}).values("con1") {
		assert.Empty(t, v, "what does not fit removes what was there")
	}
}

func TestOwnerIsReadStrictly(t *testing.T) {
	t.Parallel()
	o := owner{"lab", "con1", "con", "G"}
	got, ok := parseOwner(o.String())
	assert.True(t, ok)
	assert.Equal(t, o, got)
	for _, text := range []string{"", "poolready/1", "poolready/2 set=a vm=b layer=c from=d", "poolready/1 set= vm=b layer=c from=d", o.String() + " more", "poolready/1 vm=b set=a layer=c from=d"} {
		_, ok := parseOwner(text)
		assert.False(t, ok, text)
	}
	_, ok = ours("lab", VMInfo{Name: "con1-copy", Owner: o.String()})
	assert.False(t, ok, "a clone inherits the mark, not the name")
	_, ok = ours("other", VMInfo{Name: "con1", Owner: o.String()})
	assert.False(t, ok, "another set's VM")
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add("")
	f.Add("before the upgrade")
	f.Add(`{"poolready":2}`)
	f.Add(`{"poolready":7,"set":"x"}`)
	f.Add(record{Set: "lab", VM: "con1"}.encode())
	f.Add(`{"poolready":2,"at":1e999,"keys":[null]}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := decodeRecord(text)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode())
		require.NoError(t, err)
		assert.Equal(t, r.Fingerprint, again.Fingerprint)
		assert.True(t, r.At.Equal(again.At.Time))
	})
}

func FuzzAccountOf(f *testing.F) {
	f.Add("", "")
	f.Add(account{Build: "B"}.values("con1")[accountPrefix+"con1.0"], "")
	f.Fuzz(func(_ *testing.T, one, two string) {
		_, _ = accountOf(map[string]string{"con1.0": one, "con1.1": two}, "con1", "B")
	})
}

func TestFingerprintParts(t *testing.T) {
	t.Parallel()
	var a, b fingerprint
	a.add("x", "1", "2")
	b.add("x", "12")
	assert.NotEqual(t, a.sum(), b.sum(), "what is hashed together does not run together")
	one, two := fingerprint{{"a", "1"}, {"b", "2"}}, fingerprint{{"b", "2"}, {"a", "1"}}
	assert.Equal(t, "steps or checks are in another order", one.diff(two))
	assert.Empty(t, one.diff(one))
	assert.Equal(t, "b changed, c is gone", fingerprint{{"a", "1"}, {"b", "2"}}.diff(fingerprint{{"a", "1"}, {"b", "3"}, {"c", "4"}}))
}

// Whoever reads vCenter reads the hash: one guess must not be good for all VMs, nor quick.
func TestHashesOfEnvAreSalted(t *testing.T) {
	t.Parallel()
	vm := func(name, value string) VM { return VM{Name: name, Env: map[string]string{"PASSWORD": value}} }
	all := map[string]bool{}
	for _, h := range []string{
		hashEnv("lab", vm("con1", "secret")), hashEnv("lab", vm("con2", "secret")),
		hashEnv("other", vm("con1", "secret")), hashEnv("lab", vm("con1", "secret2")),
	} {
		all[h] = true
	}
	assert.Len(t, all, 4)
	assert.Equal(t, hashEnv("lab", vm("con1", "secret")), hashEnv("lab", vm("con1", "secret")))
	assert.Empty(t, hashEnv("lab", VM{Name: "con1"}))
	assert.GreaterOrEqual(t, envRounds, 10_000)
	split := VM{Name: "con1", Env: map[string]string{"A": `1" "B" "2`}}
	joined := VM{Name: "con1", Env: map[string]string{"A": "1", "B": "2"}}
	assert.NotEqual(t, hashEnv("lab", split), hashEnv("lab", joined), "values do not run together")
}
