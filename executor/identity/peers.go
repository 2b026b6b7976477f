package identity

import (
	"bytes"
	"strconv"
	"sync"
)

// Peers remembers who processes were when the kernel noted them in a Unix socket, for whoever asks for the other end of one (SO_PEERCRED in
// unix(7)): a connection keeps who listened and who connected, whatever has become of them since. A process that connects as one user, becomes another and
// connects again is remembered as the second. It is safe for concurrent use; its zero value remembers nobody.
type Peers struct {
	mu    sync.Mutex
	noted map[peerKey]Peer
	// clients are the inodes of sockets that have connected.
	clients map[uint64]bool
}

// Peer is who a process was. PID is its number where it is.
type Peer struct {
	Credentials
	PID int
}

type peerKey struct {
	process int
	how     Noting
}

// Noting is the call by which the kernel notes a process.
type Noting int

// The calls.
const (
	Listening  Noting = iota // listen(2): for those who connect
	Connecting               // connect(2): for who accepts
	Pairing                  // socketpair(2): for both
)

// Note says who a process is at a call.
func (p *Peers) Note(process int, how Noting, who Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.noted == nil {
		p.noted, p.clients = map[peerKey]Peer{}, map[uint64]bool{}
	}
	p.noted[peerKey{process, how}] = who
}

// Connect is Note for connect(2), by a socket with an inode.
func (p *Peers) Connect(process int, inode uint64, who Peer) {
	p.Note(process, Connecting, who)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clients[inode] = true
}

// Of says who a process was that the kernel names as the other end of the socket with an inode. table is the /proc/net/unix with that socket. ok is
// false for a process that was not seen.
func (p *Peers) Of(process int, inode uint64, table []byte) (who Peer, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	how := notedIn(table, inode)
	if p.clients[inode] {
		how = Listening
	}
	who, ok = p.noted[peerKey{process, how}]
	return who, ok
}

// notedIn tells by /proc/net/unix (proc_net(5)) by which call a socket that has not connected knows another: what was accepted has the name that was
// listened at, ends of a pair have none. One that listens has itself.
func notedIn(table []byte, inode uint64) Noting {
	number := strconv.AppendUint(nil, inode, 10)
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		switch {
		case len(f) < 7 || !bytes.Equal(f[6], number):
		case string(f[3]) == "00010000": // __SO_ACCEPTCON
			return Listening
		case len(f) > 7:
			return Connecting
		default:
			return Pairing
		}
	}
	return Connecting
}
