package sshd

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/pkg/sftp"

	"github.com/poolready/poolready/sshx/sshtest/internal/disk"
	"github.com/poolready/poolready/sshx/sshtest/internal/machine"
)

// ServeSFTP is the command sftp-server: SFTP on the machine's disk, with the rights of the user
// who runs it, on stdin and stdout. Options are not simulated.
func ServeSFTP(ctx context.Context, p *machine.Proc) int {
	for _, a := range p.Args[1:] {
		return p.NotSimulated(a)
	}
	h := &sftpHandler{v: p.View(), start: p.Dir}
	stream := &duplex{r: p.Stdin, w: p.Stdout}
	if o, ok := p.Stdout.(*machine.Output); ok {
		stream.w = o.Survivor()
	}
	srv := sftp.NewRequestServer(stream, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h}, sftp.WithStartDirectory(p.Dir))
	if err := srv.Serve(); err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		return 1
	}
	return 0
}

type duplex struct {
	r io.Reader
	w io.Writer
}

func (d *duplex) Read(b []byte) (int, error)  { return d.r.Read(b) }
func (d *duplex) Write(b []byte) (int, error) { return d.w.Write(b) }
func (d *duplex) Close() error {
	if f, ok := d.r.(*os.File); ok {
		return f.Close()
	}
	return nil
}

type sftpHandler struct {
	v     disk.View
	start string
}

func (h *sftpHandler) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	f, err := h.v.Open(r.Filepath, os.O_RDONLY, 0)
	if err != nil {
		return nil, unwrap(err)
	}
	return f, nil
}

func (h *sftpHandler) Filewrite(r *sftp.Request) (io.WriterAt, error) { return h.openFile(r) }

func (h *sftpHandler) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) { return h.openFile(r) }

func (h *sftpHandler) openFile(r *sftp.Request) (*disk.File, error) {
	f := r.Pflags()
	flag := os.O_WRONLY
	if f.Read {
		flag = os.O_RDWR
	}
	for _, b := range []struct {
		set  bool
		flag int
	}{{f.Append, os.O_APPEND}, {f.Creat, os.O_CREATE}, {f.Trunc, os.O_TRUNC}, {f.Excl, os.O_EXCL}} {
		if b.set {
			flag |= b.flag
		}
	}
	w, err := h.v.Open(r.Filepath, flag, 0o666) // a request's attributes cannot be told: pkg/sftp drops their flags
	return w, unwrap(err)
}

func (h *sftpHandler) Filecmd(r *sftp.Request) error {
	switch r.Method {
	case "Setstat":
		return h.setstat(r)
	case "Rename": // refuses what exists, unlike PosixRename
		if _, err := h.v.Lstat(r.Filepath); err != nil {
			return unwrap(err)
		}
		if _, err := h.v.Lstat(r.Target); err == nil {
			return sftp.ErrSSHFxFailure
		}
		return unwrap(h.v.Rename(r.Filepath, r.Target))
	case "Rmdir":
		if i, err := h.v.Lstat(r.Filepath); err == nil && !i.IsDir() {
			return sftp.ErrSSHFxNoSuchFile
		}
		return unwrap(h.v.Remove(r.Filepath))
	case "Remove":
		if i, err := h.v.Lstat(r.Filepath); err == nil && i.IsDir() {
			return sftp.ErrSSHFxFailure
		}
		return unwrap(h.v.Remove(r.Filepath))
	case "Mkdir":
		return unwrap(h.v.Mkdir(r.Filepath, 0o777))
	case "Link":
		return unwrap(h.v.Link(r.Filepath, r.Target))
	case "Symlink":
		return unwrap(h.v.Symlink(r.Filepath, r.Target))
	}
	return sftp.ErrSSHFxOpUnsupported
}

func (h *sftpHandler) PosixRename(r *sftp.Request) error {
	return unwrap(h.v.Rename(r.Filepath, r.Target))
}

// unwrap is sftp-server's errno_to_portable. pkg/sftp looks no deeper than one error.
func unwrap(err error) error {
	is := func(errs ...error) bool {
		return slices.ContainsFunc(errs, func(e error) bool { return errors.Is(err, e) })
	}
	switch {
	case err == nil:
		return nil
	case is(fs.ErrNotExist, syscall.ENOTDIR, syscall.ELOOP, syscall.EBADF):
		return sftp.ErrSSHFxNoSuchFile
	case is(fs.ErrPermission):
		return sftp.ErrSSHFxPermissionDenied
	case is(syscall.EINVAL, syscall.ENAMETOOLONG):
		return sftp.ErrSSHFxBadMessage
	}
	return sftp.ErrSSHFxFailure
}

func (h *sftpHandler) setstat(r *sftp.Request) error {
	flags, a := r.AttrFlags(), r.Attributes()
	if flags.Size {
		f, err := h.v.Open(r.Filepath, os.O_WRONLY, 0)
		if err != nil {
			return unwrap(err)
		}
		err = f.Truncate(int64(a.Size))
		_ = f.Close()
		if err != nil {
			return unwrap(err)
		}
	}
	if flags.Permissions {
		if err := h.v.Chmod(r.Filepath, a.FileMode()); err != nil {
			return unwrap(err)
		}
	}
	if flags.UidGid {
		if err := h.v.Chown(r.Filepath, int(a.UID), int(a.GID), true); err != nil {
			return unwrap(err)
		}
	}
	if flags.Acmodtime {
		if err := h.v.Chtimes(r.Filepath, a.ModTime()); err != nil {
			return unwrap(err)
		}
	}
	return nil
}

// lister is a list of files.
type lister []os.FileInfo

func (l lister) ListAt(out []os.FileInfo, off int64) (int, error) {
	if off >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(out, l[off:])
	if n < len(out) {
		return n, io.EOF
	}
	return n, nil
}

func (h *sftpHandler) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	if r.Method == "List" {
		entries, err := h.v.ReadDir(r.Filepath)
		if err != nil {
			return nil, unwrap(err)
		}
		var l lister
		for _, e := range disk.Unsorted(entries) {
			l = append(l, e.(*disk.FileInfo))
		}
		return l, nil
	}
	i, err := h.v.Stat(r.Filepath)
	if err != nil {
		return nil, unwrap(err)
	}
	return lister{i}, nil
}

func (h *sftpHandler) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	i, err := h.v.Lstat(r.Filepath)
	if err != nil {
		return nil, unwrap(err)
	}
	return lister{i}, nil
}

func (h *sftpHandler) Readlink(name string) (string, error) {
	s, err := h.v.Readlink(name)
	return s, unwrap(err)
}

func (h *sftpHandler) RealPath(name string) (string, error) {
	if !path.IsAbs(name) {
		name = path.Join(h.start, name)
	}
	real, err := h.v.Realpath(name, false)
	return real, unwrap(err)
}
