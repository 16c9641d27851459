package pool

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An account explains a build: what it was made of, part by part, and how long each part took. It lies
// in the ledger, and may be lost: then a plan knows that something changed and not what, and how long
// a build takes only from the Spec.
type account struct {
	Build  string      `json:"build"` // of the record that it belongs to
	Parts  fingerprint `json:"parts"`
	Took   []took      `json:"took"`
	By     string      `json:"by"`
	Checks string      `json:"checks"` // a digest of the checks' results
}

// took is how long one part of a build took.
type took struct {
	What    string  `json:"what"`
	Seconds float64 `json:"s"`
}

func (a account) took(what string) time.Duration {
	for _, t := range a.Took {
		if t.What == what {
			return time.Duration(t.Seconds * float64(time.Second))
		}
	}
	return 0
}

// Accounts take values of the ledger, each of which has its limit, "account.<VM>.<n>", n from 0.
const (
	accountPrefix = "account."
	maxValues     = 8
	maxValue      = 3 << 10
)

// packers compress accounts; each is most of a MiB.
var packers = sync.Pool{New: func() any {
	w, _ := flate.NewWriter(io.Discard, flate.BestCompression) // the level is valid
	return w
}}

// values are what the account of a VM is written as. One that does not fit is left out.
func (a account) values(vm string) map[string]string {
	text, err := json.Marshal(a)
	if err != nil {
		panic("pool: an account cannot be encoded: " + err.Error()) // it holds strings and numbers only
	}
	var packed bytes.Buffer
	w := packers.Get().(*flate.Writer)
	w.Reset(&packed)
	_, _ = w.Write(text) // into memory
	_ = w.Close()
	packers.Put(w)
	code := base64.StdEncoding.EncodeToString(packed.Bytes())
	if len(code) > maxValues*maxValue {
		code = ""
	}
	all := map[string]string{}
	for i := range maxValues {
		n := min(len(code), maxValue)
		all[accountPrefix+vm+"."+strconv.Itoa(i)] = code[:n] // "" removes what is left of an earlier one
		code = code[n:]
	}
	return all
}

// accountOf finds the account of a VM's build among the values of a shard, by keys without prefix. One
// of another build, or that cannot be read, is none.
func accountOf(values map[string]string, vm, build string) (account, bool) {
	var code strings.Builder
	for i := range maxValues {
		code.WriteString(values[vm+"."+strconv.Itoa(i)])
	}
	packed, err := base64.StdEncoding.DecodeString(code.String())
	if err != nil {
		return account{}, false
	}
	const most = 1 << 20 // what is in the ledger may be anything
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), most))
	var a account
	if err != nil || json.Unmarshal(text, &a) != nil || a.Build != build {
		return account{}, false
	}
	return a, true
}

// account returns that of the record's build, if there is one.
func (o *observation) account(rec record) (account, bool) {
	return accountOf(o.ledger.Values(rec.Pool, accountPrefix), accountName(rec), rec.Build)
}

// accountName is the name of the VM of whose builds the ledger has the last. Generations of a golden
// share one.
func accountName(rec record) string {
	if base, ok := strings.CutPrefix(rec.Layer, goldenLayer); ok {
		return base
	}
	return rec.VM
}

// changed says in words what is not as it was when a VM became ready, or "" if all is.
func (o *observation) changed(now fingerprint, rec record) string {
	if now.sum() == rec.Fingerprint {
		return ""
	}
	if a, ok := o.account(rec); ok && a.Parts.sum() == rec.Fingerprint {
		return now.diff(a.Parts)
	}
	what := []string{"steps, checks, hardware or parameters"}
	if template := now.template(); template != rec.Template {
		what = []string{"the template"}
		if now.sumWith(rec.Template) != rec.Fingerprint {
			what = append(what, "steps, checks, hardware or parameters")
		}
	}
	return fmt.Sprintf("%s changed (the ledger no longer has what was there before)", strings.Join(what, ", and "))
}

// changedWithout is changed for a golden whose template is gone.
func (o *observation) changedWithout(now fingerprint, rec record) string {
	if now.sumWith(rec.Template) == rec.Fingerprint {
		return ""
	}
	if a, ok := o.account(rec); ok && a.Parts.sum() == rec.Fingerprint {
		is := slices.DeleteFunc(slices.Clone(now), part.ofTemplate)
		return is.diff(slices.DeleteFunc(slices.Clone(a.Parts), part.ofTemplate))
	}
	return "steps, checks, hardware or parameters changed (the ledger no longer has what was there before)"
}
