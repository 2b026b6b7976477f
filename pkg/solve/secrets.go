package solve

import (
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/cairn-build/cairn/pkg/hint"

	"github.com/cairn-build/cairn/pkg/layer"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/secret"
	"github.com/cairn-build/cairn/snapshot"
)

// SecretInLayerError is a RUN that left a secret in the root filesystem. Nothing of the layer was kept.
type SecretInLayerError struct {
	// ID is the secret's, Path the file of the layer that has it.
	ID, Path string
}

func (e *SecretInLayerError) Error() string {
	return hint.Text(fmt.Sprintf("secret %q is in %s, which would be in the image", e.ID, e.Path),
		"remove it in the same RUN, or write it to a tmpfs mount; --allow-secret-in-layer if it is meant")
}

// mounted are the secrets that a RUN sees, with their ids.
func (s *solver) mounted(r *plan.Run) (ids []string, values []secret.Value) {
	for _, m := range r.Mounts {
		if v, ok := s.Run.Secrets[m.ID]; ok && m.Type == "secret" {
			ids, values = append(ids, m.ID), append(values, v)
		}
	}
	return ids, values
}

// commit makes a layer of what a RUN changed, unless there is a secret in it. With early set, its blob may be finished by rest only; else rest is nil.
func (s *solver) commit(rw snapshot.RWLayer, r *plan.Run, early bool) (ro snapshot.ROLayer, rest func() (layer.Layer, error), err error) {
	var forbidden [][]byte
	var of []string // the secret of each of forbidden
	if ids, values := s.mounted(r); !s.Run.AllowSecretInLayer {
		for i, v := range values {
			for _, form := range v.Forms() {
				forbidden, of = append(forbidden, form), append(of, ids[i])
			}
		}
	}
	if len(forbidden) > 0 {
		g, ok := rw.(snapshot.Guarded)
		if !ok {
			return nil, nil, fmt.Errorf("the snapshotter %s cannot keep secrets out of layers", s.Snapshotter.Name())
		}
		g.Forbid(forbidden)
	}
	// A step that has failed elsewhere does not keep what was made here from being finished; a build that is stopped does.
	if e, ok := rw.(snapshot.Early); ok && early {
		ro, rest, err = e.CommitEarly(s.background)
	} else if c, ok := rw.(snapshot.Stoppable); ok {
		ro, err = c.CommitContext(s.background)
	} else {
		ro, err = rw.Commit()
	}
	var found *layer.ForbiddenError
	if errors.As(err, &found) {
		return nil, nil, &SecretInLayerError{ID: of[found.Index], Path: path.Join("/", found.Path)}
	}
	return ro, rest, err
}

// masked are writers of a RUN's output in which the secrets that it sees are not shown. flush is called when it has ended.
func (s *solver) masked(r *plan.Run, stdout, stderr io.Writer) (o, e io.Writer, flush func() error) {
	_, values := s.mounted(r)
	if len(values) == 0 {
		return stdout, stderr, func() error { return nil }
	}
	mo, me := secret.NewMask(stdout, values...), secret.NewMask(stderr, values...)
	return mo, me, func() error { return errors.Join(mo.Flush(), me.Flush()) }
}
