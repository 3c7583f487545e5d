// Package api holds the contracts; everything under gen is generated from them.
package api

import _ "embed"

//go:generate go tool -modfile=../tools/go.mod ogen --target gen/oas --package oas --config openapi/ogen.yml --clean openapi/penstock.yaml

// OpenAPI is the REST contract, in YAML.
//
//go:embed openapi/penstock.yaml
var OpenAPI []byte
