// Package bundles reads, checks, signs and unpacks bundles as Tyk does.
package bundles

import (
	"bytes"
	"crypto"
	"crypto/md5"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
)

// ManifestName is the file that makes a folder a bundle.
const ManifestName = "manifest.json"

// Manifest has every key of the file, including those that this program does not know.
type Manifest map[string]any

// ReadManifest reads the manifest of an unpacked bundle, or of an open ZIP.
func ReadManifest(files fs.FS) (Manifest, error) {
	text, err := fs.ReadFile(files, ManifestName)
	if err != nil {
		return nil, err
	}
	read := Manifest{}
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("%s: %w", ManifestName, err)
	}
	return read, nil
}

// Text returns the string under a key, or an empty one.
func (m Manifest) Text(key string) string {
	value, _ := m[key].(string)
	return value
}

// content returns the bytes that are hashed: the listed files, joined in the order of the list.
func (m Manifest) content(files fs.FS) ([]byte, error) {
	listed, _ := m["file_list"].([]any)
	if len(listed) == 0 {
		return nil, errors.New("file_list is empty")
	}
	var content bytes.Buffer
	for _, name := range listed {
		file, isText := name.(string)
		if !isText {
			return nil, fmt.Errorf("file_list: %v is not a name", name)
		}
		data, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, err
		}
		content.Write(data)
	}
	return content.Bytes(), nil
}

// Verify compares the checksum. With a key it also verifies the signature, and refuses an unsigned bundle.
func (m Manifest) Verify(files fs.FS, key *rsa.PublicKey) error {
	if key != nil && m.Text("signature") == "" {
		return errors.New("the bundle is not signed")
	}
	content, err := m.content(files)
	if err != nil {
		return err
	}
	if sum := checksum(content); sum != m.Text("checksum") {
		return fmt.Errorf("checksum: the manifest says %q, the files have %q", m.Text("checksum"), sum)
	}
	if key == nil {
		return nil
	}
	signature, err := base64.StdEncoding.DecodeString(m.Text("signature"))
	if err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	digest := sha256.Sum256(content)
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature); err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	return nil
}

// Sign puts checksum and signature into the manifest.
func (m Manifest) Sign(files fs.FS, key *rsa.PrivateKey) error {
	content, err := m.content(files)
	if err != nil {
		return err
	}
	digest := sha256.Sum256(content)
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return err
	}
	m["checksum"] = checksum(content)
	m["signature"] = base64.StdEncoding.EncodeToString(signature)
	return nil
}

func checksum(content []byte) string {
	return fmt.Sprintf("%x", md5.Sum(content))
}
