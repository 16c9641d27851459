package userland

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// lacking are commands that RHEL 9 and Debian 12 have in their smallest installations, and that are
// not simulated: a machine says so, instead of "command not found", which would be a lie.
var lacking = strings.Fields(`
	arch awk b2sum base32 basenc cksum comm csplit expand expr factor fmt fold groups hostid join link mawk mkfifo mknod nl numfmt od
	paste pathchk pinky pr ptx sha1sum sha224sum sha384sum sha512sum shred shuf split stty sum tsort tty unexpand unlink users vdir who yes
	blkid blockdev chrt fallocate fdisk flock fsck getopt hexdump ionice last look losetup lsblk lscpu lslocks lsmem mkfs mkswap more mount
	namei nsenter partx renice rev script sfdisk su swapoff swapon taskset umount unshare wall wdctl wipefs
	free pidof pmap pwdx top uptime vmstat w watch diff3 sdiff gunzip gzip zcat zgrep bzip2 bunzip2 bzcat xz unxz xzcat less
	hostnamectl timedatectl loginctl localectl systemd-analyze systemd-run systemd-cat systemd-tmpfiles udevadm sysctl ip
	depmod insmod lsmod modinfo modprobe rmmod clear reset tput iconv getconf tabs tset`)

func cmdLacking(_ context.Context, p *machine.Proc) int {
	return p.NotSimulated(strings.Join(slices.Concat([]string{"the command"}, p.Args[1:]), " "))
}

// cmdWhich is which.
var cmdWhich = parsed("", func(_ context.Context, p *machine.Proc, o *options) int {
	code := 0
	for _, name := range o.args {
		file, err := p.Which(name)
		if err != nil {
			if p.Host.Debian() {
				code = 1
			} else {
				code = min(code+1, 255)
				p.Fail(1, "no %s in (%s)", name, p.Env["PATH"])
			}
			continue
		}
		fmt.Fprintln(p.Stdout, file)
	}
	return code
})

// cmdPrintenv is printenv.
var cmdPrintenv = parsed("", func(_ context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		return p.NotSimulated("all variables: env does that")
	}
	code := 0
	for _, name := range o.args {
		value, ok := p.Env[name]
		if !ok {
			code = 1
			continue
		}
		fmt.Fprintln(p.Stdout, value)
	}
	return code
})

// cmdTac is tac.
var cmdTac = parsed("", func(ctx context.Context, p *machine.Proc, o *options) int {
	if len(o.args) == 0 {
		o.args = []string{"-"}
	}
	return eachText(ctx, p, o.args, func(_, text string) error {
		list := strings.SplitAfter(text, "\n")
		slices.Reverse(list)
		_, err := fmt.Fprint(p.Stdout, strings.Join(list, ""))
		return err
	})
})
