package pool

import "errors"

// ErrExists is returned by a Provider when a VM of that name is already there.
var ErrExists = errors.New("a VM of that name exists")
