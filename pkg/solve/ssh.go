package solve

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cairn-build/cairn/pkg/plan"
)

// agent returns a socket that leads to the user's SSH agent. It is a socket of our own, because the agent's own belongs to
// the user alone and may lie where the sandbox has no path to.
func (m *mounter) agent(pm plan.Mount) (string, error) {
	agent, ok := m.Run.SSH[pm.ID]
	if !ok {
		if pm.Required {
			return "", fmt.Errorf("ssh agent %s: not given (use --ssh %s)", pm.ID, pm.ID)
		}
		return "", nil
	}
	dir, err := m.memory()
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "agent-"+strings.ReplaceAll(pm.ID, "/", "_"))
	l, err := net.Listen("unix", name)
	if err != nil {
		return "", fmt.Errorf("forwarding ssh agent %s: %w", pm.ID, err)
	}
	r := &relay{to: agent, open: map[net.Conn]bool{}}
	r.wg.Go(func() { r.serve(l) })
	m.undo = append(m.undo, func() error {
		err := l.Close()
		r.close()
		return err
	})
	return name, m.own(name, pm, os.FileMode(0o600))
}

// relay connects every connection it accepts with the socket at to.
type relay struct {
	to   string
	wg   sync.WaitGroup
	mu   sync.Mutex
	open map[net.Conn]bool
}

func (r *relay) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		r.wg.Go(func() { r.connect(c) })
	}
}

func (r *relay) connect(c net.Conn) {
	defer r.drop(c)
	agent, err := net.Dial("unix", r.to)
	if err != nil {
		return // the client sees its connection end, as with an agent that is gone
	}
	defer r.drop(agent)
	r.keep(c, agent)
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(agent, c); _ = agent.(*net.UnixConn).CloseWrite() })
	both.Go(func() { _, _ = io.Copy(c, agent); _ = c.(*net.UnixConn).CloseWrite() })
	both.Wait()
}

func (r *relay) keep(cs ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range cs {
		r.open[c] = true
	}
}

func (r *relay) drop(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
	_ = c.Close()
}

// close ends what is still connected and waits for it.
func (r *relay) close() {
	r.mu.Lock()
	for c := range r.open {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}
