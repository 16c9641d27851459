package sshx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// maxKeys is how many keys are offered: OpenSSH hangs up at the sixth.
const maxKeys = 5

// errAgent is an agent that is of no use, now or later.
var errAgent = errors.New("agent")

// signers returns the keys to offer: Config.Keys, and those of the agent, which sign until ctx
// ends or done is called.
func (c Config) signers(ctx context.Context) (keys []ssh.Signer, done func(), err error) {
	keys, done = slices.Clone(c.Keys), func() {}
	if c.Agent != "" {
		keys, done, err = c.askAgent(ctx, keys)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, fmt.Errorf("agent %s: %w", c.Agent, context.Cause(ctx))
		}
		return nil, nil, fmt.Errorf("%w %s: %w", errAgent, c.Agent, err)
	}
	return keys[:min(len(keys), maxKeys)], done, nil
}

// askAgent adds the agent's keys to others.
func (c Config) askAgent(ctx context.Context, keys []ssh.Signer) (_ []ssh.Signer, done func(), err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.Agent)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	done = func() {
		stop()
		conn.Close()
	}
	held, err := agent.NewClient(conn).Signers()
	for i, s := range held {
		held[i] = agentKey{s.(ssh.AlgorithmSigner)}
	}
	if err == nil {
		keys, err = c.choose(keys, held)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return keys, done, nil
}

// agentKey is a key of the agent's. That the agent does not sign is no refusal of the machine's.
type agentKey struct{ ssh.AlgorithmSigner }

func (k agentKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	sig, err := k.AlgorithmSigner.SignWithAlgorithm(rand, data, algorithm)
	if err != nil {
		return nil, fmt.Errorf("%w: sign with %s: %w", errAgent, fingerprint(k.PublicKey()), err)
	}
	return sig, nil
}

// choose adds the keys that the agent holds to others, or those of them that Config.AgentKeys
// names, in its order.
func (c Config) choose(keys, held []ssh.Signer) ([]ssh.Signer, error) {
	if len(c.AgentKeys) == 0 {
		keys = append(keys, held...)
		if len(keys) == 0 {
			return nil, errors.New("it holds no keys")
		}
		return keys, nil
	}
	wanted, err := parsePublic("Config.AgentKeys", c.AgentKeys)
	if err != nil {
		return nil, err
	}
	for _, w := range wanted {
		i := slices.IndexFunc(held, func(s ssh.Signer) bool { return contains([]ssh.PublicKey{w}, s.PublicKey()) })
		if i < 0 {
			return nil, fmt.Errorf("it does not hold %s", fingerprint(w))
		}
		keys = append(keys, held[i])
	}
	return keys, nil
}
