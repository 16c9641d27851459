package lease

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	noon  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	later = noon.Add(time.Hour)
)

// in returns an entry in a state, and what a transition must not lose.
func in(s State) Entry {
	e := Entry{Format: format, Stored: s, Build: "b1", Boots: []string{"boot"}, LastUser: "TestLast", Failures: 1, Failure: "no address", FailedAt: noon}
	switch s {
	case Leased, Building:
		e.Lease = &Lease{Holder: "alice", Purpose: "TestA", Token: "t", AcquiredAt: noon, ExpiresAt: later}
	case Kept, Quarantined, Recovering:
		e.Reason, e.Until = "because", later
	case Clean:
		e.Proof = &Proof{At: noon, By: "alice"}
	case Broken:
		e.Broken = "no disk"
	}
	return e
}

func transitions() map[string]Transition {
	l := &Lease{Holder: "bob", Purpose: "TestB", Token: "u", AcquiredAt: noon, ExpiresAt: later}
	failed := errors.New("no reset\nmore")
	return map[string]Transition{
		"acquire": acquire(l), "operate": operate(l), "build": build(l), "renew": renew(later.Add(time.Hour), "reset"),
		"resetting": Resetting("TestA"), "prepared": Prepared("b2", []string{"new"}), "cleaned": Cleaned("b2", &Proof{At: noon}, []string{"new"}),
		"built clean": Built("b2", &Proof{At: noon}, []string{"new"}), "built dirty": Built("b2", nil, nil),
		"released": Released(), "used": Used("TestA"), "untouched": Untouched(in(Clean)),
		"reset failed": ResetFailed(failed, true), "cleanup failed": ResetFailed(failed, false), "build failed": BuildFailed(failed),
		"verify failed": VerifyFailed(failed), "keep": Keep("to look", later, "TestA"), "free": Free(),
	}
}

// The table says for each state where each transition leads; "" is nowhere.
func TestTransitions(t *testing.T) {
	t.Parallel()
	table := map[string]map[State]State{
		"acquire":        {Clean: Leased, Dirty: Leased},
		"operate":        {Clean: Leased, Dirty: Leased, Broken: Leased},
		"build":          {Clean: Building, Dirty: Building, Broken: Building},
		"renew":          {Leased: Leased, Building: Building},
		"resetting":      {Leased: Leased},
		"prepared":       {Leased: Leased},
		"cleaned":        {Leased: Clean},
		"built clean":    {Building: Clean},
		"built dirty":    {Building: Dirty},
		"released":       {Leased: Dirty, Building: Dirty},
		"used":           {Leased: Dirty},
		"untouched":      {Leased: Clean, Building: Clean},
		"reset failed":   {Leased: Broken, Building: Broken},
		"cleanup failed": {Leased: Dirty, Building: Dirty},
		"build failed":   {Building: Quarantined},
		"verify failed":  {Leased: Dirty},
		"keep":           {Leased: Kept, Kept: Kept},
		"free":           {Kept: Dirty, Quarantined: Dirty, Dirty: Dirty, Broken: Broken},
	}
	require.Len(t, transitions(), len(table))
	for name, tr := range transitions() {
		for _, from := range States() {
			e := in(from)
			before, err := json.Marshal(e)
			require.NoError(t, err)
			err = tr.Apply(&e, noon)
			to, ok := table[name][from]
			if !ok {
				require.Error(t, err, "%s from %s", name, from)
				after, err := json.Marshal(e)
				require.NoError(t, err)
				assert.JSONEq(t, string(before), string(after), "%s from %s changes nothing", name, from)
				continue
			}
			require.NoError(t, err, "%s from %s", name, from)
			assert.Equal(t, to, e.State(noon), "%s from %s", name, from)
			assert.Equal(t, to == Leased || to == Building, e.Lease != nil, "%s from %s: a lease", name, from)
			assert.Equal(t, to == Clean, e.Proof != nil, "%s from %s: a proof", name, from)
			assert.Equal(t, to == Kept || to == Quarantined, !e.Until.IsZero(), "%s from %s: an end", name, from)
		}
	}
}

func TestStatesThatEnd(t *testing.T) {
	t.Parallel()
	for _, s := range States() {
		e := in(s)
		want := s
		switch s {
		case Leased, Building, Kept, Quarantined, Recovering:
			want = Dirty
		}
		assert.Equal(t, s, e.State(later.Add(-time.Second)), "%s", s)
		assert.Equal(t, want, e.State(later), "%s, when its time is over", s)
		if want == Dirty && s != Dirty {
			e.Broken = "no disk"
			assert.Equal(t, Broken, e.State(later), "%s of a pool that must be rebuilt", s)
		}
	}
	for _, s := range []State{Leased, Building} {
		e := in(s)
		e.holderGone = true
		assert.Equal(t, Dirty, e.State(noon), "%s by a process that has ended", s)
		assert.NotNil(t, e.Gone(noon))
		assert.Nil(t, e.Gone(later), "it would be over anyway")
	}
}

func TestFailuresAreForgottenOnceOneSucceeds(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"prepared", "cleaned", "built clean"} {
		tr := transitions()[name]
		e := in(tr.from[0])
		e.Broken = "no disk"
		require.NoError(t, tr.Apply(&e, noon))
		assert.Zero(t, e.Failures, name)
		assert.Empty(t, e.Failure+e.Broken, name)
		assert.True(t, e.FailedAt.IsZero(), name)
		assert.Equal(t, "b2", e.Build, name)
	}
}

func TestABuildWithoutAProofIsNoSuccess(t *testing.T) {
	t.Parallel()
	e := in(Building)
	e.Broken, e.Failures = "no disk", 2
	require.NoError(t, Built("b2", nil, nil).Apply(&e, noon))
	assert.Equal(t, Dirty, e.State(noon))
	assert.Equal(t, 2, e.Failures, "it may be built well and never become clean")
}

func TestPoolsThatFailAgainAndAgainAreQuarantined(t *testing.T) {
	t.Parallel()
	e := in(Dirty)
	e.Failures = 0
	for i := range QuarantineAfter {
		require.NoError(t, operate(in(Leased).Lease).Apply(&e, noon))
		require.NoError(t, ResetFailed(errors.New("no reset"), true).Apply(&e, noon))
		want := Broken
		if i+1 == QuarantineAfter {
			want = Quarantined
		}
		require.Equal(t, want, e.State(noon))
	}
	assert.Equal(t, Broken, e.State(noon.Add(QuarantineTime)))
	require.NoError(t, Free().Apply(&e, noon))
	assert.Equal(t, Broken, e.State(noon), "free, and to be rebuilt before a test gets it")
	assert.Zero(t, e.Failures)
}

func TestAnEntryComesBackAsItWas(t *testing.T) {
	t.Parallel()
	for _, s := range States() {
		e := in(s)
		text, err := e.text()
		require.NoError(t, err)
		back, err := decode[Entry](text)
		require.NoError(t, err)
		assert.Equal(t, e, back, "%s", s)
	}
	_, err := decode[Entry](`{"poolready":1,"lease":{}}`)
	require.ErrorIs(t, err, ErrFormat)
	_, err = decode[Entry](`{"state":"clean"}`)
	require.ErrorIs(t, err, ErrFormat)
	for _, text := range []string{"", "{", "null,"} {
		_, err = decode[Entry](text)
		require.ErrorIs(t, err, errDamaged, "%q", text)
	}
	e := in(Dirty)
	e.Boots = []string{strings.Repeat("x", entryLimit)}
	_, err = e.text()
	require.Error(t, err, "too long for the ledger")
	e = in(Broken)
	e.Broken = strings.Repeat("ö", 1000)
	text, err := e.text()
	require.NoError(t, err)
	assert.Less(t, len(text), 1000)
}

func TestNumbersAreWrittenAsRanges(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]numbers{"": nil, "1": {1}, "1-3": {1, 2, 3}, "1-3,7": {1, 2, 3, 7}, "2,4,6-7": {2, 4, 6, 7}} {
		got, err := json.Marshal(want)
		require.NoError(t, err)
		assert.JSONEq(t, `"`+text+`"`, string(got))
	}
}

func FuzzNumbers(f *testing.F) {
	for _, s := range []string{"1", "1-3,7", "3-1", "1,1", "1-999999999", "-", ",", "0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		quoted, err := json.Marshal(text)
		require.NoError(t, err)
		var n numbers
		if json.Unmarshal(quoted, &n) != nil {
			return
		}
		again, err := json.Marshal(n)
		require.NoError(t, err)
		var m numbers
		require.NoError(t, json.Unmarshal(again, &m))
		require.Equal(t, n, m)
	})
}
