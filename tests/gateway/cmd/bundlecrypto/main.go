// Bundlecrypto signs and verifies bundles with Go's own crypto/rsa, as Tyk does.
//
//	bundlecrypto verify --key PUBLIC.pem BUNDLE.zip   (or an unpacked bundle's folder)
//	bundlecrypto sign --key PRIVATE.pem DIR           (writes checksum and signature into DIR/manifest.json)
//
// Exit codes: 0 done or valid, 1 refused (the reason is on standard error), 2 wrong usage.
package main

import (
	"archive/zip"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"tykpy.test/gateway/internal/bundles"
)

const (
	exitRefused = 1
	exitUsage   = 2
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	key := flags.String("key", "", "PEM file with the RSA key")
	if err := flags.Parse(os.Args[2:]); err != nil || *key == "" || flags.NArg() != 1 {
		usage()
	}
	var err error
	switch os.Args[1] {
	case "verify":
		err = verify(*key, flags.Arg(0))
	case "sign":
		err = sign(*key, flags.Arg(0))
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bundlecrypto:", err)
		os.Exit(exitRefused)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: bundlecrypto verify --key PUBLIC.pem BUNDLE.zip | bundlecrypto sign --key PRIVATE.pem DIR")
	os.Exit(exitUsage)
}

func verify(keyPath, bundlePath string) error {
	key, err := bundles.ReadPublicKey(keyPath)
	if err != nil {
		return err
	}
	files, closeFiles, err := openBundle(bundlePath)
	if err != nil {
		return err
	}
	defer closeFiles()
	manifest, err := bundles.ReadManifest(files)
	if err != nil {
		return err
	}
	return manifest.Verify(files, key)
}

func sign(keyPath, folder string) error {
	key, err := bundles.ReadPrivateKey(keyPath)
	if err != nil {
		return err
	}
	files := os.DirFS(folder)
	manifest, err := bundles.ReadManifest(files)
	if err != nil {
		return err
	}
	if err := manifest.Sign(files, key); err != nil {
		return err
	}
	text, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, bundles.ManifestName), append(text, '\n'), 0o644)
}

// openBundle opens a ZIP or a folder.
func openBundle(path string) (fs.FS, func(), error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return os.DirFS(path), func() {}, nil
	}
	archive, err := zip.OpenReader(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return archive, func() { archive.Close() }, nil
}
