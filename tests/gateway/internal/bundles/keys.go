package bundles

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

// ReadPublicKey reads PKIX ("PUBLIC KEY") and PKCS#1 ("RSA PUBLIC KEY").
func ReadPublicKey(path string) (*rsa.PublicKey, error) {
	block, err := readBlock(path)
	if err != nil {
		return nil, err
	}
	switch block.Type {
	case "PUBLIC KEY":
		return asRSA[*rsa.PublicKey](x509.ParsePKIXPublicKey(block.Bytes))
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	}
	return nil, fmt.Errorf("%s: a %q is not a public key", path, block.Type)
}

// ReadPrivateKey reads PKCS#8 ("PRIVATE KEY") and PKCS#1 ("RSA PRIVATE KEY").
func ReadPrivateKey(path string) (*rsa.PrivateKey, error) {
	block, err := readBlock(path)
	if err != nil {
		return nil, err
	}
	switch block.Type {
	case "PRIVATE KEY":
		return asRSA[*rsa.PrivateKey](x509.ParsePKCS8PrivateKey(block.Bytes))
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	}
	return nil, fmt.Errorf("%s: a %q is not a private key", path, block.Type)
}

func readBlock(path string) (*pem.Block, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: not PEM", path)
	}
	return block, nil
}

func asRSA[K any](key any, err error) (K, error) {
	wanted, isRSA := key.(K)
	if err == nil && !isRSA {
		err = fmt.Errorf("a %T is not an RSA key", key)
	}
	return wanted, err
}
