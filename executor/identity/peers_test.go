package identity_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cairn-build/cairn/executor/identity"
)

// TestPeers asks for every end of real sockets, all of one process that was somebody else at each call.
func TestPeers(t *testing.T) {
	var p identity.Peers
	who := func(id uint32) identity.Peer {
		return identity.Peer{Credentials: identity.Credentials{UID: identity.Same(id)}, PID: 3}
	}
	const process = 7
	name := filepath.Join(t.TempDir(), "s")
	server, client := socket(t), socket(t)
	if err := unix.Bind(server, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	p.Note(process, identity.Listening, who(1))
	if err := unix.Listen(server, 1); err != nil {
		t.Fatal(err)
	}
	p.Connect(process, inode(t, client), who(2))
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	accepted, _, err := unix.Accept(server)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(accepted)
	p.Note(process, identity.Pairing, who(3))
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		socket int
		want   uint32
	}{{"server", server, 1}, {"client", client, 1}, {"accepted", accepted, 2}, {"one end", pair[0], 3}, {"the other", pair[1], 3}} {
		if got, ok := p.Of(process, inode(t, c.socket), table); !ok || got.UID.E != c.want || got.PID != 3 {
			t.Errorf("%s: user %d (%v), want %d", c.name, got.UID.E, ok, c.want)
		}
	}
	if c, ok := p.Of(8, inode(t, accepted), table); ok {
		t.Errorf("a process that nobody saw is %v", c)
	}
}

func socket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}
