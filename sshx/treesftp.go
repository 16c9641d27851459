package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

// sftpWorkers is how many files go at once where each costs several round trips.
const sftpWorkers = 8

// writeSFTP is writeTar for a machine without tar: file by file, and many times slower over a
// network, to an sftp-server in the directory that the tree belongs into.
func (t *treePut) writeSFTP(w *io.PipeWriter, r io.Reader, last string, sent *counted) error {
	sc, err := sftp.NewClientPipe(r, w, sftp.UseConcurrentWrites(true))
	if err != nil {
		return err
	}
	if err = t.createAll(sc, sent); err == nil {
		err = create(sc, last, &whole{r: strings.NewReader("")})
	}
	w.CloseWithError(err)
	sc.Close() // returns when the machine's side has ended
	return err
}

func (t *treePut) createAll(sc *sftp.Client, sent *counted) error {
	of := func(e entry, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		return nil
	}
	for _, e := range t.entries {
		if e.mode.IsDir() && e.name != "." {
			if err := sc.Mkdir(e.name); err != nil {
				return of(e, err)
			}
		}
	}
	work, failed := errgroup.WithContext(context.Background())
	work.SetLimit(sftpWorkers)
	for _, e := range t.entries {
		work.Go(func() error {
			switch {
			case failed.Err() != nil:
				return context.Cause(failed)
			case e.mode.IsDir():
				return nil
			case e.mode.IsRegular():
				return t.copy(e, func(r *whole) error {
					r.r = io.TeeReader(r.r, sent)
					if err := create(sc, e.name, r); err != nil {
						return err
					}
					return sc.Chmod(e.name, e.mode)
				})
			}
			return of(e, sc.Symlink(e.link, e.name))
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	for _, e := range slices.Backward(t.entries) { // what they hold is in place
		if e.mode.IsDir() {
			if err := sc.Chmod(e.name, e.mode.Perm()); err != nil {
				return of(e, err)
			}
		}
	}
	return nil
}

// create makes a file of what r has.
func create(sc *sftp.Client, name string, r *whole) error {
	f, err := sc.Create(name)
	if err != nil {
		return err
	}
	_, err = f.ReadFrom(r)
	return errors.Join(err, f.Close())
}
