package pool

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/poolready/poolready/pool/events"
	"github.com/poolready/poolready/pool/internal/lease"
	"github.com/poolready/poolready/sshx"
)

// resumeTime is how long a host that was resumed, and need not boot, may take to accept a login.
const resumeTime = 2 * time.Minute

// settleScript puts right what is stale in a machine that was stopped for a while. NOW is the time,
// in seconds since 1970. The time service of the guest may correct the clock as far as it knows by
// how much; after a resume it does not know yet, so the clock is set.
// systemd-networkd renews its leases, at which connections stay.
const settleScript = `
if test -n "$NOW"; then
	if command -v chronyc >/dev/null 2>&1; then chronyc makestep >/dev/null 2>&1 || true; fi
	if test "$(date +%s)" != "${NOW%.*}"; then
		date -u -s "@$NOW" >/dev/null || date -u -s "@${NOW%.*}" >/dev/null || exit 1
	fi
fi
if command -v networkctl >/dev/null 2>&1; then
	networkctl --no-legend list 2>/dev/null | while read -r _ link _ _ setup; do
		if test "$setup" = configured; then networkctl renew "$link" || true; fi
	done
fi
exit 0
`

// revert puts the host back to its ready snapshot, in which it has no connections.
func (h *Host) revert(ctx context.Context, snapshot string) error {
	h.drop()
	return h.gates.change(ctx, func() error {
		return timed(ctx, h, events.Phase, "revert", func() error { return h.provider.Revert(ctx, h.id, snapshot) })
	})
}

// awaitUp waits until the host, which was reverted, is up: it is powered on, or resumes. now has the
// hypervisor's clock.
func (h *Host) awaitUp(ctx context.Context, now *lease.Snapshot, report func(string)) error {
	if h.snapshotBoot == "" {
		return timed(ctx, h, events.Phase, "boot", func() error { return h.powerOn(ctx, report) })
	}
	return timed(ctx, h, events.Phase, "resume", func() error { return h.awaitResumed(ctx, now, report) })
}

func (h *Host) awaitResumed(ctx context.Context, now *lease.Snapshot, report func(string)) error {
	limit := min(h.limits.Boot, resumeTime)
	return h.gates.boot(ctx, func() error {
		ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("did not resume within %s", limit))
		defer cancel()
		var final error
		err := poll(ctx, func(ctx context.Context) error {
			err := h.resumed(ctx, report)
			if errors.Is(err, errBooted) {
				final = err // waiting longer changes nothing
				return nil
			}
			if err == nil {
				err = h.settle(ctx, now) // after which it may have another address
			}
			return err
		})
		return cmp.Or(err, final)
	})
}

// errBooted is the error of a host that proved to be the VM, and has booted since its snapshot.
var errBooted = errors.New("it did not resume")

// resumed logs in to the host that resumed. For a while vCenter may report the address from before the
// revert, where another clone may be by now, with the same host keys; MACs tell the two apart, or
// the boot id where the hypervisor does not tell MACs.
func (h *Host) resumed(ctx context.Context, report func(string)) error {
	h.drop()
	if err := h.reach(ctx, report); err != nil {
		return err
	}
	boot, err := h.bootID(ctx)
	if err != nil || boot == h.snapshotBoot {
		return err
	}
	why := errBooted
	if mac, err := h.loginMAC(ctx); err != nil || mac == "" {
		why = errors.New("it is another machine, or did not resume")
	}
	return fmt.Errorf("%s has the boot id %s, the VM in its snapshot has %s: %w", h.Addr(), boot, h.snapshotBoot, why)
}

// settle sets the host's clock to the hypervisor's, which now has, and has its leases renewed, as far
// as the guest's means go.
func (h *Host) settle(ctx context.Context, now *lease.Snapshot) error {
	return h.connected(ctx, func(ctx context.Context, c *sshx.Client) error {
		clock := "" // read only now: connecting takes time
		if h.limits.ClockSkew >= 0 {
			clock = strconv.FormatFloat(float64(now.At(time.Now()).UnixMilli())/1000, 'f', 3, 64)
		}
		_, err := c.Run(ctx, sshx.Cmd{Name: "settle", Script: settleScript, Env: map[string]string{"NOW": clock}, User: h.root()})
		return err
	})
}

// root is the sshx.Cmd.User that is root.
func (h *Host) root() string {
	if cmp.Or(h.cfg.User, "root") == "root" {
		return ""
	}
	return "root"
}

func (h *Host) bootID(ctx context.Context) (string, error) {
	return h.Run(ctx, "cat", "/proc/sys/kernel/random/boot_id")
}

// markClean leaves the clean marker in the memory of a host that resumed and was proved clean, and
// returns what stands for its boot ID: neither a revert nor a boot leaves the marker.
func (h *Host) markClean(ctx context.Context, boot string) (string, error) {
	marker := strings.ToLower(rand.Text())
	if _, err := h.Script(ctx, "set -e\nmkdir -p /dev/shm\necho "+marker+" > "+cleanMarker+"\n"); err != nil {
		return "", err
	}
	return boot + "/" + marker, nil
}

// dirtyMarker is a file on the disks of a pool's hosts while a test holds the pool: a host that has
// it was not reverted. A host that resumed has no boot ID of its own: cleanMarker, a file in memory,
// has in its place what the proof wrote there.
const (
	dirtyMarker = "/var/tmp/.poolready-dirty"
	cleanMarker = "/dev/shm/.poolready-clean"
)
