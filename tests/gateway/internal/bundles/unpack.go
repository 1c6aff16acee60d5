package bundles

import (
	"archive/zip"
	"crypto/md5"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Hash returns a gateway's name for a bundle: the hex MD5 of its name, or of several names joined by commas.
func Hash(name string) string {
	return fmt.Sprintf("%x", md5.Sum([]byte(name)))
}

// Folders returns the folders below `base` for the bundles of an API: <hash>/ for one, sub-folders of it for several,
// each named after the file without its extension, "/" written as "__".
func Folders(base, names string) map[string]string {
	root := filepath.Join(base, Hash(names))
	if !strings.Contains(names, ",") {
		return map[string]string{names: root}
	}
	folders := map[string]string{}
	for _, name := range Split(names) {
		part := strings.TrimSuffix(name, filepath.Ext(name))
		folders[name] = filepath.Join(root, strings.ReplaceAll(part, "/", "__"))
	}
	return folders
}

// Split returns the names of an API's bundles in their order.
func Split(names string) []string {
	var split []string
	for _, name := range strings.Split(names, ",") {
		split = append(split, strings.TrimSpace(name))
	}
	return split
}

// Unpack writes a ZIP's contents into a folder that only its user may read. An existing folder is not changed: Tyk's
// ZipBundleSaver. A sub-folder needs an entry of its own, before its files.
func Unpack(archivePath, folder string) error {
	if _, err := os.Stat(folder); err == nil {
		return nil
	}
	archive, err := zip.OpenReader(archivePath)
	if err != nil {
		return fmt.Errorf("%s: %w", archivePath, err)
	}
	defer archive.Close()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	for _, entry := range archive.File {
		if err := unpackEntry(archive, entry, filepath.Join(folder, filepath.FromSlash(entry.Name))); err != nil {
			return err
		}
	}
	return nil
}

func unpackEntry(archive fs.FS, entry *zip.File, path string) error {
	if entry.FileInfo().IsDir() {
		return os.Mkdir(path, 0o700)
	}
	data, err := fs.ReadFile(archive, entry.Name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
