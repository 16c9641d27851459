package pool

import (
	"testing"
	"time"
)

func init() { clockTime = time.Second } // so that tests of clocks that stay wrong are short

// AddChild makes main what TestMain is in child processes of that mode.
func AddChild(mode string, main func(m *testing.M)) { children[mode] = main }

// ChildEnv is the environment variable that holds the mode.
const ChildEnv = childEnv
