package ptrace

import "sync"

// maxPlain bounds plainPaths.
const maxPlain = 1 << 16

// plainPaths remembers absolute paths that lead, without any link, to what is no link. Compilers ask that of the same directories
// over and over: two thirds of what gcc calls on paths is readlink of what is none. Only unlink and rename can make it untrue, since nobody
// but these tasks changes the root filesystem.
type plainPaths struct {
	mu    sync.RWMutex
	paths map[string]struct{}
	// age counts what could have made paths untrue.
	age uint64
}

// has reports whether a path is known, and the age with which to add it if it is found to be plain.
func (p *plainPaths) has(path string) (known bool, age uint64) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, known = p.paths[path]
	return known, p.age
}

// add notes a path, unless something has happened since its look-up began.
func (p *plainPaths) add(path string, age uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.age != age || len(p.paths) >= maxPlain {
		return
	}
	if p.paths == nil {
		p.paths = map[string]struct{}{}
	}
	p.paths[path] = struct{}{}
}

// clear forgets all: a name is gone, or leads elsewhere.
func (p *plainPaths) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.age++
	clear(p.paths)
}
