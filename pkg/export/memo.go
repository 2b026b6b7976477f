package export

import (
	"context"
	"sync"
)

// memo does each thing once, for whoever asks first; the others get what came of it. What fails is done again for the next.
type memo[K comparable, V any] struct {
	mu   sync.Mutex
	made map[K]*making[V]
}

// making is a thing that is done, or is being done.
type making[V any] struct {
	done  chan struct{}
	value V
	err   error
}

func (m *memo[K, V]) do(ctx context.Context, k K, f func() (V, error)) (V, error) {
	for {
		m.mu.Lock()
		it, known := m.made[k]
		if !known {
			it = &making[V]{done: make(chan struct{})}
			if m.made == nil {
				m.made = map[K]*making[V]{}
			}
			m.made[k] = it
		}
		m.mu.Unlock()
		if !known {
			it.value, it.err = f()
			if it.err != nil {
				m.mu.Lock()
				delete(m.made, k)
				m.mu.Unlock()
			}
			close(it.done)
			return it.value, it.err
		}
		select {
		case <-it.done:
		case <-ctx.Done():
			var none V
			return none, context.Cause(ctx)
		}
		if it.err == nil {
			return it.value, nil
		}
		// The other may have been cancelled: ours may do better.
	}
}

// slots bounds how many do something at once.
type slots chan struct{}

// take waits for a slot.
func (s slots) take(ctx context.Context) (release func(), err error) {
	select {
	case s <- struct{}{}:
		return func() { <-s }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
