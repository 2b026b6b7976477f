package engine

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/cairn-build/cairn/pkg/registry"
)

// This file is the only one of the library that reads the environment: a program that imports it and says nothing gets the
// store and the credentials that the command has.

// defaultRoot is where the command keeps its state without --root (XDG base directory specification; relative values are ignored).
func defaultRoot() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "cairn"), nil
	}
	if home := os.Getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "cairn"), nil
	}
	return "", errors.New("no place to keep images: neither XDG_DATA_HOME nor HOME is set, and no root was given")
}

func defaultAuthFiles() []string {
	return registry.DefaultAuthFiles(os.Getenv("REGISTRY_AUTH_FILE"), os.Getenv("DOCKER_CONFIG"), os.Getenv("XDG_RUNTIME_DIR"), os.Getenv("HOME"))
}
