// Package v1 makes the IDs by which images and layers were known before Docker 1.10, when they were not named by their content.
// Archives of docker save had folders of these names.
package v1

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/opencontainers/go-digest"
)

// ValidateID checks that an ID has the form of those days: 64 hexadecimal digits in lower case.
func ValidateID(id string) error {
	if !regexp.MustCompile(`^[a-f0-9]{64}$`).MatchString(id) {
		return fmt.Errorf("image ID %q is invalid", id)
	}
	return nil
}

// CreateID returns the ID of an image with the layers of a ChainID, "" for none, made from an image with a given ID, "" for none:
// the digest of the config together with both, as Docker computes it (moby, image/v1).
func CreateID(v1Image image.V1Image, layerID image.ChainID, parent digest.Digest) (digest.Digest, error) {
	v1Image.ID = ""
	data, err := json.Marshal(v1Image)
	if err != nil {
		return "", fmt.Errorf("making a legacy ID: %w", err)
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		return "", fmt.Errorf("making a legacy ID: %w", err)
	}
	// Two fields that Docker's struct writes even if they are empty.
	if v1Image.Created == nil {
		config["created"] = nil
	}
	config["container_config"] = v1Image.ContainerConfig
	config["layer_id"] = layerID
	if parent != "" {
		config["parent"] = parent
	}
	if data, err = json.Marshal(config); err != nil {
		return "", fmt.Errorf("making a legacy ID: %w", err)
	}
	return digest.FromBytes(data), nil
}
