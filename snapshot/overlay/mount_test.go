package overlay

import (
	"strings"
	"testing"
)

// TestTooManyLayers asks for one layer more than can be mounted. Nothing is mounted before that is known.
func TestTooManyLayers(t *testing.T) {
	err := mountOverlay(t.TempDir(), make([]string, 1000))
	if err == nil || !strings.Contains(err.Error(), "999 at most") {
		t.Errorf("1000 layers: %v", err)
	}
}
