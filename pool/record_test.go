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
