package e2e

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/poolready/poolready/pool"
)

// likes are the kinds of systems that the recipe knows, by the ID of their os-release.
var likes = map[string]string{
	"rhel": "rhel", "rocky": "rhel", "almalinux": "rhel", "centos": "rhel", "fedora": "rhel", "ol": "rhel",
	"debian": "debian", "ubuntu": "debian",
}

var osName = regexp.MustCompile(`^([a-z]+)([0-9]+)$`)

// like is "rhel" or "debian", by the name of a system such as "rocky9"; "" is neither.
func like(os string) string {
	if m := osName.FindStringSubmatch(os); m != nil {
		return likes[m[1]]
	}
	return ""
}

// On returns the topology with con and dis on these systems, such as "rhel9" and "debian12".
// Templates and goldens get names to match: "e2e-template-debian12", "e2e-golden-debian12".
func (t Topology) On(con, dis string) Topology {
	t.OS, t.Template, t.GoldenName = con, templateOf(con), goldenOf(con)
	t.DisOS, t.DisTemplate, t.DisGolden = "", "", ""
	if dis != con {
		t.DisOS, t.DisTemplate, t.DisGolden = dis, templateOf(dis), goldenOf(dis)
	}
	return t
}

func templateOf(os string) string { return "e2e-template-" + os }
func goldenOf(os string) string   { return "e2e-golden-" + os }

// Mixed reports whether dis is on another system than con.
func (t Topology) Mixed() bool { return t.DisOS != "" }

// os is the system of a role.
func (t Topology) os(role string) string {
	if role == Dis && t.Mixed() {
		return t.DisOS
	}
	return t.OS
}

// Templates are the paths of the templates, by what they are like: "rhel" or "debian".
func (t Topology) Templates() map[string]string {
	all := map[string]string{like(t.OS): t.Template}
	if t.Mixed() {
		all[like(t.DisOS)] = t.DisTemplate
	}
	return all
}

// disGolden is the golden of dis, where it has one of its own.
func (t Topology) disGolden() Host { return Host{Role: Golden, OS: t.DisOS, Name: t.DisGolden} }

// named gives what the source does not name the names that go with the systems.
func (t *Topology) named(from Origins) {
	standard := t.On(t.OS, t.os(Dis))
	for key, f := range map[string]struct{ field, value *string }{
		"template": {&t.Template, &standard.Template}, "golden": {&t.GoldenName, &standard.GoldenName},
		"dis-template": {&t.DisTemplate, &standard.DisTemplate}, "dis-golden": {&t.DisGolden, &standard.DisGolden},
	} {
		if from[key] == "" {
			*f.field = *f.value
		}
	}
}

// osFaults finds what is wrong with the systems.
func (t Topology) osFaults() (all []topologyFault) {
	fault := func(key, format string, args ...any) {
		all = append(all, topologyFault{key, fmt.Errorf(format, args...)})
	}
	if like(t.OS) == "" {
		fault("os", "%q is no system such as rhel9, rocky9, debian12 or ubuntu24", t.OS)
	}
	switch {
	case !t.Mixed():
		if t.DisTemplate+t.DisGolden != "" {
			fault("dis-os", "is empty, but dis-template or dis-golden is set")
		}
	case like(t.DisOS) == "":
		fault("dis-os", "%q is no system such as rhel9, rocky9, debian12 or ubuntu24", t.DisOS)
	case t.DisOS == t.OS:
		fault("dis-os", "is that of con: leave it empty")
	case t.DisTemplate == "":
		fault("dis-template", "is required: dis is on %s, and con on %s", t.DisOS, t.OS)
	case !hostName.MatchString(t.DisGolden) || len(t.DisGolden) > 40:
		fault("dis-golden", "%q must be 1 to 40 characters of a-z, 0-9 and \"-\"", t.DisGolden)
	case t.DisGolden == t.GoldenName:
		fault("dis-golden", "is that of con")
	}
	for key, list := range map[string][]string{"packages": t.Packages, "packages-removed": t.PackagesRemoved} {
		for _, p := range list {
			if kind, _, ok := strings.Cut(p, ":"); ok && kind != "rhel" && kind != "debian" {
				fault(key, "%q is for neither rhel nor debian", p)
			}
		}
	}
	return all
}

// packagesFor are the names of a list that are for a system.
func packagesFor(os string, list []string) string {
	var names []string
	for _, p := range list {
		kind, name, ok := strings.Cut(p, ":")
		switch {
		case !ok:
			names = append(names, p)
		case kind == like(os):
			names = append(names, name)
		}
	}
	return strings.Join(names, " ")
}

// introduce makes a dis that is from another golden than its con known to it: dis gets con's key
// pair, which con lets in, and con's host keys, which its own connection has proved. Where both are
// from one golden, they have all that from there.
func introduce() pool.Step {
	step := pool.Script("introduce", script("steps", "introduce"))
	install := step.Do
	step.Version += "+files"
	step.Do = func(ctx context.Context, h *pool.Host) error {
		con := h.Peer(Con)
		var files []secretFile
		for _, name := range []string{"id_ed25519", "id_ed25519.pub"} {
			var data bytes.Buffer
			if err := con.Get(ctx, "/root/.ssh/"+name, &data); err != nil {
				return err
			}
			files = append(files, secretFile{name, data.Bytes()})
		}
		keys, err := con.Script(ctx, "#!/bin/sh\nset -eu\ncut -d' ' -f1,2 /etc/ssh/ssh_host_*_key.pub\n")
		if err != nil {
			return err
		}
		if err := putSecrets(ctx, h, append(files, secretFile{"host_keys", []byte(keys + "\n")})...); err != nil {
			return err
		}
		return install(ctx, h)
	}
	return step
}

// stepsOf are the names of a role's steps, in order.
func (t Topology) stepsOf(role string) []string {
	list := steps[role]
	if role == Dis && t.Mixed() {
		list = slices.Insert(slices.Clone(list), slices.Index(list, "time"), "introduce")
	}
	return list
}
