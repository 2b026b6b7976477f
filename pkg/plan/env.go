package plan

import (
	"errors"
	"slices"
)

// maxText bounds the bytes that the variables of one Dockerfile may grow to, in instructions, in history and in the environments of its
// RUNs: forty lines of ENV a=$a$a would fill any memory otherwise.
const maxText = 16 << 20

// meter counts those bytes.
type meter struct{ spent int }

func (m *meter) spend(n int) { m.spent += n }

func (m *meter) err() error {
	if m.spent > maxText {
		return errors.New("expanding variables gives more than 16 MiB of text")
	}
	return nil
}

// env is an ordered set of variables. Setting one moves it to the end: that is the order BuildKit gives the environment of a RUN.
// It implements dockerfile.Env.
type env struct {
	keys   []string
	values map[string]string
	meter  *meter
}

func newEnv(m *meter) *env { return &env{values: map[string]string{}, meter: m} }

// Get returns a variable's value, or nothing of it where there has been too much already: then the meter knows.
func (e *env) Get(key string) (string, bool) {
	v, ok := e.values[key]
	if e.meter.spend(len(v)); e.meter.err() != nil {
		return "", ok
	}
	return v, ok
}

func (e *env) Keys() []string { return e.keys }

func (e *env) set(key, value string) {
	e.remove(key)
	e.keys = append(e.keys, key)
	e.values[key] = value
}

func (e *env) remove(key string) {
	if i := slices.Index(e.keys, key); i >= 0 {
		e.keys = slices.Delete(e.keys, i, i+1)
		delete(e.values, key)
	}
}

func (e *env) clone() *env {
	c := &env{meter: e.meter, keys: slices.Clone(e.keys), values: make(map[string]string, len(e.values))}
	for k, v := range e.values {
		c.values[k] = v
	}
	return c
}

// slice is the environment as "key=value".
func (e *env) slice() []string {
	out := make([]string, 0, len(e.keys))
	for _, k := range e.keys {
		out = append(out, k+"="+e.values[k])
		e.meter.spend(len(k) + len(e.values[k]))
	}
	return out
}
