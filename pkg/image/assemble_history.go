package image

import (
	"fmt"
	"reflect"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// writeHistory returns the config's history: one entry that is no empty layer for each layer, in the same order, and with times.
func writeHistory(s Spec, epoch *time.Time) ([]ocispec.History, error) {
	n := len(s.Config.History) - s.OwnHistory
	if n < 0 {
		return nil, fmt.Errorf("%d history entries are the build's own, of only %d", s.OwnHistory, len(s.Config.History))
	}
	original := s.Config.History[:n]
	all := fitBase(original, len(s.Base))

	own := append([]ocispec.History(nil), s.Config.History[n:]...)
	made := 0
	for i := range own {
		if epoch != nil && own[i].Created == nil {
			own[i].Created = epoch
		}
		if own[i].EmptyLayer {
			continue
		}
		if made < len(s.Layers) && own[i].Created == nil && !s.Layers[made].Created.IsZero() {
			t := s.Layers[made].Created.UTC()
			own[i].Created = &t
		}
		made++
	}
	if made != len(s.Layers) {
		return nil, fmt.Errorf("the history names %d new layers, %d were made", made, len(s.Layers))
	}
	all = append(all, own...)
	fillTimes(all)
	if epoch != nil {
		clampTimes(all, original, *epoch)
	}
	return all, nil
}

// fitBase makes the history of a base image agree with its number of layers: tools that write no history at all, or one that
// counts wrong, would otherwise shift every later entry onto another layer.
func fitBase(history []ocispec.History, layers int) []ocispec.History {
	var out []ocispec.History
	n := 0
	for _, h := range history {
		if n >= layers {
			h.EmptyLayer = true
		}
		if !h.EmptyLayer {
			n++
		}
		out = append(out, h)
	}
	for ; n < layers; n++ {
		out = append(out, ocispec.History{Comment: "layer of the base image"})
	}
	return out
}

// fillTimes gives entries without a time one. An entry after a timed one that was itself missing its time takes the time of
// the entry before it; those before take the time of the first new layer: the first timed entry after the first untimed one,
// or, if there is none, the last timed entry of all. So metadata in front of the first new layer is not dated like the base
// image.
func fillTimes(history []ocispec.History) {
	var created *time.Time
	untimed := false
	for _, h := range history {
		if h.Created == nil {
			untimed = true
			continue
		}
		created = h.Created
		if untimed {
			break
		}
	}
	untimed = false
	for i := range history {
		switch {
		case history[i].Created == nil:
			untimed = true
			history[i].Created = created
		case untimed:
			created = history[i].Created
		}
	}
}

// clampTimes lowers times to the epoch, except those of the entries that are the base image's as they were.
func clampTimes(history, base []ocispec.History, epoch time.Time) {
	epoch = epoch.UTC()
	same := true
	for i, h := range history {
		if same = same && i < len(base) && reflect.DeepEqual(h, base[i]); same {
			continue
		}
		if h.Created == nil || h.Created.After(epoch) {
			history[i].Created = &epoch
		}
	}
}
