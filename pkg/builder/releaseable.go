package builder

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// NewReleaseableLayer is a ROLayer in the form of the contract before 2017-10. It owns the layer.
func NewReleaseableLayer(l ROLayer) ReleaseableLayer { return &releaseable{ro: l} }

type releaseable struct {
	ro ROLayer
	rw RWLayer
}

func (l *releaseable) Mount() (string, error) {
	if l.rw == nil {
		rw, err := l.ro.NewRWLayer()
		if err != nil {
			return "", err
		}
		l.rw = rw
	}
	return l.rw.Root(), nil
}

func (l *releaseable) Commit() (ReleaseableLayer, error) {
	if l.rw == nil {
		return nil, fmt.Errorf("committing layer %s: it is not mounted", l.ro.DiffID())
	}
	ro, err := l.rw.Commit()
	if err != nil {
		return nil, err
	}
	return NewReleaseableLayer(ro), nil
}

func (l *releaseable) DiffID() digest.Digest { return l.ro.DiffID() }

func (l *releaseable) Release() error {
	var err error
	if l.rw != nil {
		err = l.rw.Release()
	}
	return errors.Join(err, l.ro.Release())
}
