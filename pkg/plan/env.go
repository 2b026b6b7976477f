package plan

import "slices"

// env is an ordered set of variables. Setting one moves it to the end: that is the order BuildKit gives the environment of a RUN.
// It implements dockerfile.Env.
type env struct {
	keys   []string
	values map[string]string
}

func newEnv() *env { return &env{values: map[string]string{}} }

func (e *env) Get(key string) (string, bool) {
	v, ok := e.values[key]
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
	c := &env{keys: slices.Clone(e.keys), values: make(map[string]string, len(e.values))}
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
	}
	return out
}
