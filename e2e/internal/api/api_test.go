package api

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"go/constant"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "record the API as it is")

const module = "github.com/poolready/poolready/"

var packages = []string{
	"pool", "pool/events", "pool/report", "pool/pooltest", "vsphere", "vsphere/vspheretest", "vsphere/vspheretest/access",
	"vsphere/vspheretest/sshguest", "sshx", "sshx/sshtest", "e2e",
}

func TestAPIIsAsRecorded(t *testing.T) {
	t.Parallel()
	imports := load(t)
	for _, name := range packages {
		t.Run(name, func(t *testing.T) {
			pkg, err := imports.Import(module + name)
			require.NoError(t, err)
			got := lines(pkg)
			file := filepath.Join("testdata", strings.ReplaceAll(name, "/", "-")+".txt")
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(strings.Join(got, "\n")+"\n"), 0o644))
				return
			}
			recorded, err := os.ReadFile(file)
			require.NoError(t, err)
			want := strings.Split(strings.TrimSuffix(string(recorded), "\n"), "\n")
			for _, line := range want {
				if !slices.Contains(got, line) {
					t.Errorf("- %s", line)
				}
			}
			for _, line := range got {
				if !slices.Contains(want, line) {
					t.Errorf("+ %s", line)
				}
			}
			if t.Failed() {
				t.Log("the exported API has changed; make api records a change that is meant")
			}
		})
	}
}

// load returns an importer of the packages, from the compiler's export data.
func load(t *testing.T) types.Importer {
	t.Helper()
	for _, dir := range []string{"pool", "vsphere", "sshx", "e2e"} {
		// go test repeats a result while what the test itself has read is unchanged: the directories.
		nothing := func(string, fs.DirEntry, error) error { return nil }
		require.NoError(t, filepath.WalkDir(filepath.Join("../../..", dir), nothing))
	}
	args := []string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}
	for _, name := range packages {
		args = append(args, module+name)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", &stderr)
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[path] = file
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) {
		if files[path] == "" {
			return nil, errors.New("no export data of " + path)
		}
		return os.Open(files[path])
	})
}

// lines returns the parts of a package's API, sorted.
func lines(pkg *types.Package) []string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	name := func(t types.Type) string { return types.TypeString(t, qualify(pkg)) }
	for _, n := range pkg.Scope().Names() {
		obj := pkg.Scope().Lookup(n)
		if !obj.Exported() {
			continue
		}
		switch obj := obj.(type) {
		case *types.Const:
			value := obj.Val().ExactString()
			if obj.Val().Kind() == constant.Float {
				value = obj.Val().String()
			}
			add("const %s %s = %s", n, name(obj.Type()), value)
		case *types.Var:
			add("var %s %s", n, name(obj.Type()))
		case *types.Func:
			add("func %s%s", n, strings.TrimPrefix(name(obj.Type()), "func"))
		case *types.TypeName:
			typ := types.Unalias(obj.Type())
			named, ok := typ.(*types.Named)
			if obj.IsAlias() {
				add("type %s = %s", n, name(typ))
				if !ok || !strings.Contains(named.Obj().Pkg().Path()+"/", "/internal/") {
					continue // its own package shows it
				}
			}
			describe(n, named, name, add)
		}
	}
	slices.Sort(all)
	return all
}

// describe adds what a type consists of, and its methods.
func describe(
	n string, named *types.Named, name func(types.Type) string, add func(format string, args ...any),
) {
	params := ""
	if p := named.TypeParams(); p.Len() > 0 {
		_, params, _ = strings.Cut(name(named), "[")
		params = "[" + params
	}
	switch u := named.Underlying().(type) {
	case *types.Struct:
		add("type %s%s struct", n, params)
		for f := range u.Fields() {
			switch {
			case f.Embedded() && f.Exported():
				add("type %s struct, embedded %s", n, name(f.Type()))
			case f.Exported():
				add("type %s struct, %s %s", n, f.Name(), name(f.Type()))
			}
		}
	case *types.Interface:
		add("type %s%s interface", n, params)
		hidden := false
		for m := range u.Methods() { // those of embedded interfaces, too
			if hidden = hidden || !m.Exported(); m.Exported() {
				add("type %s interface, %s%s", n, m.Name(), strings.TrimPrefix(name(m.Type()), "func"))
			}
		}
		if hidden {
			add("type %s interface, unexported methods", n)
		}
	default:
		add("type %s%s %s", n, params, name(u))
	}
	for m := range named.Methods() {
		if m.Exported() {
			recv := n
			if _, ptr := m.Signature().Recv().Type().(*types.Pointer); ptr {
				recv = "*" + n
			}
			add("method (%s) %s%s", recv, m.Name(), strings.TrimPrefix(name(m.Type()), "func"))
		}
	}
}

// qualify names the types of pkg itself without, and those of others with their package's name.
func qualify(pkg *types.Package) types.Qualifier {
	return func(other *types.Package) string {
		if other == pkg {
			return ""
		}
		return other.Name()
	}
}
