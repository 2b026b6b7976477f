package process

import (
	"fmt"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor"
)

// Rlimit is a resource limit as setrlimit(2) takes it.
type Rlimit struct {
	Type       int
	Soft, Hard uint64
}

// Rlimits translates the limits of --ulimit. -1 is no limit. Where this place has a lower hard limit, which only real
// root may raise, that one holds.
func Rlimits(ulimits []executor.Ulimit) ([]Rlimit, error) {
	var out []Rlimit
	for _, u := range ulimits {
		r, err := (&units.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}).GetRlimit()
		if err != nil {
			return nil, fmt.Errorf("setting the limit %q: %w", u.Name, err)
		}
		if r.Soft > r.Hard {
			return nil, fmt.Errorf("setting the limit %q: soft limit %d is above hard limit %d", u.Name, u.Soft, u.Hard)
		}
		var have unix.Rlimit
		if err := unix.Getrlimit(r.Type, &have); err != nil {
			return nil, fmt.Errorf("reading the limit %q: %w", u.Name, err)
		}
		out = append(out, Rlimit{Type: r.Type, Soft: min(r.Soft, have.Max), Hard: min(r.Hard, have.Max)})
	}
	return out, nil
}
