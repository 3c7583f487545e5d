// Package cursor makes the opaque tokens with which clients page through lists and
// feeds. A token says where the last page ended and for which query it was made; used
// with another query, or damaged, it is refused. It is not a secret and not signed.
package cursor

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"

	"github.com/penstockhq/penstock/internal/fault"
)

// Encode returns a token for the query that scope describes, holding fields.
func Encode(scope string, fields ...string) string {
	b := make([]byte, 4, 64)
	for _, f := range fields {
		b = binary.AppendUvarint(b, uint64(len(f)))
		b = append(b, f...)
	}
	binary.BigEndian.PutUint32(b, checksum(scope, b[4:]))
	return base64.RawURLEncoding.EncodeToString(b)
}

// Decode returns the n fields of a token that Encode made for the same scope. name is
// the parameter's, for the error, a fault.InvalidRequest.
func Decode(name, token, scope string, n int) ([]string, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < 4 || binary.BigEndian.Uint32(b) != checksum(scope, b[4:]) {
		return nil, fault.New(fault.InvalidRequest,
			"%s is not one that this server gave for this query; start without it", name)
	}
	rest, fields := b[4:], make([]string, 0, n)
	for len(rest) > 0 {
		size, used := binary.Uvarint(rest)
		if used <= 0 || size > uint64(len(rest)-used) {
			return nil, fault.New(fault.InvalidRequest, "%s is damaged; start without it", name)
		}
		rest = rest[used:]
		fields = append(fields, string(rest[:size]))
		rest = rest[size:]
	}
	if len(fields) != n {
		return nil, fault.New(fault.InvalidRequest, "%s is damaged; start without it", name)
	}
	return fields, nil
}

func checksum(scope string, fields []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE([]byte(scope)), crc32.IEEETable, fields)
}
