package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"path"
	"regexp"

	"github.com/poolready/poolready/pool"
)

// A Product is what is under test, as con gets it when it is made ready: after all of its
// configuration, before it is cleaned and checked. If one of its steps or checks fails, con is not ready,
// and that is an infrastructure failure as any other (pool.ErrInfrastructure). The zero value stands in for it: a file in
// Topology.ProductDir.
type Product struct {
	// Install are the steps that install it, in place of scripts/steps/product.sh: pool.Script and
	// pool.Files make the common ones. Their names must not be those of other steps of con.
	Install []pool.Step
	// Checks are added to con's. Beside them, every host is checked for Topology.ProductDir: con
	// has it, golden and dis have not.
	Checks []pool.Check
	// Ports are those that it opens in con's firewall, beside 22/tcp and 8443/tcp, such as "7070/tcp" or
	// "9000-9010/udp": a check of con finds every other one that is open.
	Ports []string
}

// portName matches a port, or several, as firewalld writes them.
var portName = regexp.MustCompile(`^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?/(tcp|udp|sctp|dccp)$`)

// steps are those that install the product.
func (p Product) steps() []pool.Step {
	if len(p.Install) > 0 {
		return p.Install
	}
	return []pool.Step{pool.Script("product", script("steps", "product"))}
}

// A secretFile is one that goes to a host over SSH only, for a script to install.
type secretFile struct {
	name string
	data []byte
}

// withFiles puts files into SECRETS_DIR before a step's script runs, which removes it. The step's
// version holds a hash of them.
func withFiles(step pool.Step, files ...secretFile) pool.Step {
	sum := sha256.New()
	fmt.Fprint(sum, step.Version)
	for _, f := range files {
		fmt.Fprintf(sum, " %q %x", f.name, sha256.Sum256(f.data))
	}
	script := step.Do
	step.Version = fmt.Sprintf("%x", sum.Sum(nil))[:16]
	step.Do = func(ctx context.Context, h *pool.Host) error {
		if err := putSecrets(ctx, h, files...); err != nil {
			return err
		}
		return script(ctx, h)
	}
	return step
}

func putSecrets(ctx context.Context, h *pool.Host, files ...secretFile) error {
	dir := h.VM.Env["SECRETS_DIR"]
	if _, err := h.Run(ctx, "install", "-d", "-m", "700", dir); err != nil {
		return err
	}
	for _, f := range files {
		if err := h.Put(ctx, path.Join(dir, f.name), bytes.NewReader(f.data), 0o600); err != nil {
			return err
		}
	}
	return nil
}
