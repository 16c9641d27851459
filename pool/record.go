package pool

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const recordFormat = 1

// A record is what a ready snapshot carries as its description, written in the call that takes
// it: the snapshot and its record are there together or not at all. Nothing else that is
// written to a VM decides whether it is ready, since a revert rolls the VM's own settings back
// and a clone inherits them.
type record struct {
	Format      int         `json:"poolready"`
	Set         string      `json:"set"`
	VM          string      `json:"vm"`
	Layer       string      `json:"layer"` // "golden" or the role
	Pool        int         `json:"pool,omitempty"`
	Fingerprint string      `json:"fingerprint"`
	Parts       fingerprint `json:"parts"`
	Build       string      `json:"build"`            // this build, unlike any other
	Golden      string      `json:"golden,omitempty"` // the golden build it was cloned from
	// Needs maps the earlier roles that it was made ready with to their builds: VMs of one
	// pool belong together only while these are the current ones.
	Needs map[string]string `json:"needs,omitempty"`
	// Boot is the boot id of a VM that ran when the snapshot was taken, with its memory; else "".
	Boot     string    `json:"boot,omitempty"`
	At       time.Time `json:"at"`
	By       string    `json:"by"`
	Took     []took    `json:"took"`
	HostKeys []string  `json:"hostKeys"`
	Checks   string    `json:"checks"` // a digest of the checks' results
}

// took is how long one part of a build took.
type took struct {
	What    string  `json:"what"`
	Seconds float64 `json:"s"`
}

func (r record) took(what string) time.Duration {
	for _, t := range r.Took {
		if t.What == what {
			return time.Duration(t.Seconds * float64(time.Second))
		}
	}
	return 0
}

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
)

// decodeRecord reads a snapshot's description. errNoRecord means that it is none of ours.
func decodeRecord(text string) (record, error) {
	text = strings.TrimSpace(text)
	var probe struct {
		Format *int `json:"poolready"`
	}
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &probe) != nil || probe.Format == nil {
		return record{}, errNoRecord
	}
	if *probe.Format != recordFormat {
		return record{}, fmt.Errorf("its record has format %d, this program knows format %d: %w", *probe.Format, recordFormat, errOtherForm)
	}
	var r record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return record{}, fmt.Errorf("damaged record: %w", err)
	}
	if r.Fingerprint != r.Parts.sum() {
		return record{}, errors.New("damaged record: the fingerprint is not that of its parts")
	}
	return r, nil
}

// An owner is the mark on a VM that says who made it. It is written in the clone call and never
// changed, so that reverts keep it; it names the VM, so that a clone, which inherits it, does
// not pass for ours. It tells what may be removed, never what is ready.
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

// ours tells whether this set made the VM, under the name that it has now.
func ours(set string, info VMInfo) (owner, bool) {
	o, ok := parseOwner(info.Owner)
	return o, ok && o.Set == set && o.VM == info.Name
}
