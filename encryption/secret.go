package encryption

import (
	"crypto/ecdh"
	"errors"
	"fmt"

	"weft/model"
)

const redacted = "[private key]"

// NewPrivateKey returns the key of 32 random bytes, clamped as X25519 wants it (RFC 7748, section 5).
// Bytes that are all zero are refused: that is a source of randomness which is not one.
func NewPrivateKey(random [32]byte) (PrivateKey, error) {
	if random == [32]byte{} {
		return PrivateKey{}, errors.New("private key: 32 zero bytes are not a key")
	}
	random[0] &= 248
	random[31] = random[31]&127 | 64
	return PrivateKey{random}, nil
}

// Bytes returns the key itself, for the device and the key file only.
func (k PrivateKey) Bytes() [32]byte { return k.key }

// IsZero tells whether no key is set.
func (k PrivateKey) IsZero() bool { return k == PrivateKey{} }

// Public returns the public key.
func (k PrivateKey) Public() (model.PublicKey, error) {
	p, err := ecdh.X25519().NewPrivateKey(k.key[:])
	if err != nil {
		return model.PublicKey{}, fmt.Errorf("public key of a private key: %w", err)
	}
	return model.PublicKey(p.PublicKey().Bytes()), nil
}

// String redacts.
func (PrivateKey) String() string { return redacted }

// GoString redacts.
func (PrivateKey) GoString() string { return redacted }

// Format redacts whatever the verb.
func (PrivateKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText redacts, in JSON, YAML and logs.
func (PrivateKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }
