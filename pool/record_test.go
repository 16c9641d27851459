package pool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRecordComesBackAsItWas(t *testing.T) {
	t.Parallel()
	var f fingerprint
	f.add(`step "a"`, "1")
	r := record{
		Format: recordFormat, Set: "lab", VM: "con1", Layer: "con", Pool: 1, Fingerprint: f.sum(), Parts: f, Build: "B", Golden: "G",
		Needs: map[string]string{"con": "X"}, At: now, By: "me", Took: []took{{"all", 1.5}}, HostKeys: []string{"ssh-ed25519 AAAA"}, Checks: "c",
	}
	got, err := decodeRecord(r.encode())
	require.NoError(t, err)
	assert.Equal(t, r, got)
	assert.Equal(t, 1500*time.Millisecond, got.took("all"))
	assert.Zero(t, got.took("nothing"))
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
	f.Add(`{"poolready":1}`)
	f.Add(`{"poolready":7,"set":"x"}`)
	f.Add(record{Set: "lab", VM: "con1"}.encode())
	f.Add(`{"poolready":1,"took":[{"s":1e999}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := decodeRecord(text)
		if err != nil {
			return
		}
		again, err := decodeRecord(r.encode())
		require.NoError(t, err)
		assert.Equal(t, r.Fingerprint, again.Fingerprint)
		assert.True(t, r.At.Equal(again.At))
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
