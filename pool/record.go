package pool

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/poolready/poolready/sshx"
)

const recordFormat = 2

// maxRecord is how many bytes a record of an ordinary Spec takes at most. No document says how much
// a description holds; what decides must not depend on much.
const maxRecord = 512

// A record is what a ready snapshot carries as its description, written in the call that takes
// it: the snapshot and its record are there together or not at all. Nothing else that is
// written to a VM decides whether it is ready, since a revert rolls the VM's own settings back
// and a clone inherits them. It holds what decides; what explains is an account, in the ledger.
type record struct {
	Format      int    `json:"poolready"`
	Set         string `json:"set"`
	VM          string `json:"vm"`
	Layer       string `json:"layer"` // "golden/..." or the role
	Pool        int    `json:"pool,omitempty"`
	Fingerprint string `json:"print"`
	Template    string `json:"template,omitempty"` // golden: fingerprint.template
	Build       string `json:"build"`              // this build, unlike any other
	Golden      string `json:"golden,omitempty"`   // the golden build it was cloned from
	// Needs maps the earlier roles that it was made ready with to their builds: VMs of one
	// pool belong together only while these are the current ones.
	Needs map[string]string `json:"needs,omitempty"`
	// Boot is the boot id of a VM that ran when the snapshot was taken, with its memory; else "".
	Boot     string  `json:"boot,omitempty"`
	At       seconds `json:"at"`
	HostKeys keys    `json:"keys"`
}

// seconds is a time that is short in JSON.
type seconds struct{ time.Time }

func (s seconds) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, s.Unix(), 10), nil }

func (s *seconds) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseInt(string(data), 10, 64)
	s.Time = time.Unix(n, 0).UTC()
	return err
}

// keys are pins of host keys, as sshx.Pin makes them, which in JSON lack what they have in common.
type keys []string

const pinHash = " SHA256:"

func (k keys) MarshalJSON() ([]byte, error) {
	short := []string{}
	for _, s := range k {
		short = append(short, strings.Replace(s, pinHash, ":", 1))
	}
	return json.Marshal(short)
}

func (k *keys) UnmarshalJSON(data []byte) error {
	var short []string
	err := json.Unmarshal(data, &short)
	*k = nil
	for _, s := range short {
		*k = append(*k, strings.Replace(s, ":", pinHash, 1))
	}
	return err
}

// pins are the short forms of public keys.
func pins(lines []string) (all keys, err error) {
	for _, l := range lines {
		k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l))
		if err != nil {
			return nil, fmt.Errorf("host key %q: %w", l, err)
		}
		all = append(all, sshx.Pin(k))
	}
	return all, nil
}

// newBuild is a name for one build, short, since records have several.
func newBuild() string { return rand.Text()[:16] }

func (r record) encode() string {
	r.Format = recordFormat
	text, err := json.Marshal(r)
	if err != nil {
		panic("pool: a record cannot be encoded: " + err.Error()) // it holds strings and numbers only
	}
	return string(text)
}

var (
	errNoRecord  = errors.New("no record: not taken by poolready")
	errOtherForm = errors.New("use one version of poolready for one set")
	errCutRecord = errors.New("the hypervisor has cut its record; see what limits the descriptions of snapshots there, then remove the VM")
)

// decodeRecord reads a snapshot's description. errNoRecord means that it is none of ours.
func decodeRecord(text string) (record, error) {
	text = strings.TrimSpace(text)
	var probe struct {
		Format *int `json:"poolready"`
	}
	if !strings.HasPrefix(text, "{") {
		return record{}, errNoRecord
	}
	if json.Unmarshal([]byte(text), &probe) != nil || probe.Format == nil {
		if strings.HasPrefix(text, `{"poolready":`) {
			return record{}, errCutRecord
		}
		return record{}, errNoRecord
	}
	if *probe.Format != recordFormat {
		return record{}, fmt.Errorf("its record has format %d, this program knows format %d: %w", *probe.Format, recordFormat, errOtherForm)
	}
	var r record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return record{}, fmt.Errorf("damaged record: %w", err)
	}
	return r, nil
}

// An owner is the text on a VM that names the set that made it. It is written in the clone call and
// never changed, so that reverts keep it; it names the VM, so that a clone, which inherits it, does
// not pass for ours. It decides what may be removed, never what is ready.
type owner struct {
	Set, VM, Layer string
	From           string // golden: hash of template and hardware; role: golden's build
}

func (o owner) String() string {
	return fmt.Sprintf("poolready/1 set=%s vm=%s layer=%s from=%s", o.Set, o.VM, o.Layer, o.From)
}

func parseOwner(text string) (o owner, ok bool) {
	words := strings.Fields(text)
	if len(words) != 5 || words[0] != "poolready/1" {
		return owner{}, false
	}
	for i, field := range []struct {
		key string
		to  *string
	}{{"set=", &o.Set}, {"vm=", &o.VM}, {"layer=", &o.Layer}, {"from=", &o.From}} {
		value, found := strings.CutPrefix(words[i+1], field.key)
		if !found || value == "" {
			return owner{}, false
		}
		*field.to = value
	}
	return o, true
}

// ours reports whether this set made the VM, under the name that it has now.
func ours(set string, info VMInfo) (owner, bool) {
	o, ok := parseOwner(info.Owner)
	return o, ok && o.Set == set && o.VM == info.Name
}

// goldenLayer begins the names of goldens' layers.
const goldenLayer = "golden/"

// readySnapshot finds the one snapshot that makes vm ready, or says why there is none.
func readySnapshot(vm VMInfo, name string) (rec record, id, why string, err error) {
	var exact []Snapshot
	var others []string
	for _, snap := range vm.Snapshots {
		if snap.Name == name {
			exact = append(exact, snap)
		} else {
			others = append(others, fmt.Sprintf("%q", snap.Name))
		}
	}
	switch {
	case len(exact) == 0 && len(others) > 0:
		return rec, "", fmt.Sprintf("has no snapshot %q (but %s)", name, strings.Join(others, ", ")), errUnfinished
	case len(exact) == 0:
		return rec, "", fmt.Sprintf("has no snapshot %q", name), errUnfinished
	case len(exact) > 1:
		return rec, "", fmt.Sprintf("has %d snapshots %q", len(exact), name), errUnfinished
	}
	rec, err = decodeRecord(exact[0].Record)
	switch {
	case errors.Is(err, errNoRecord):
		return rec, "", fmt.Sprintf("snapshot %q on it was not taken by poolready; rename or remove the snapshot", name), errForeign
	case err != nil:
		return rec, "", fmt.Sprintf("snapshot %q: %v", name, err), err
	case rec.VM != vm.Name:
		return rec, "", fmt.Sprintf("snapshot %q is that of %q", name, rec.VM), errUnfinished
	}
	return rec, exact[0].ID, "", nil
}

var (
	errUnfinished = errors.New("no ready snapshot")
	errForeign    = errors.New("the ready snapshot is not ours")
)

// foreignSnapshots reports whether the VM has snapshots that we did not take: then it is renamed, not
// destroyed.
func (vm VMInfo) foreignSnapshots() bool {
	return slices.ContainsFunc(vm.Snapshots, func(s Snapshot) bool {
		_, err := decodeRecord(s.Record)
		return errors.Is(err, errNoRecord)
	})
}
