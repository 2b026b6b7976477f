package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cairn-build/cairn/test/harness"
	"github.com/cairn-build/cairn/test/torture"
)

// overlapping are Dockerfiles that share steps, stages and layers.
func overlapping(base string) []string {
	shared := "FROM " + base + " AS shared\nRUN echo one > /one; sleep 0.05\nCOPY file /file\nRUN cat /one /file > /two\n"
	return []string{
		shared,
		shared + "FROM shared\nRUN echo three > /three\n",
		shared + "FROM " + base + "\nCOPY --from=shared /two /\nWORKDIR /made/here\n",
		shared + "FROM shared AS a\nRUN echo a > /a\nFROM shared AS b\nRUN echo b > /b\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
	}
}

// build1 is one of several builds at once.
type build1 struct {
	h          *harness.Home
	root       string
	dockerfile int
	n          int
}

// command makes the same bytes every time.
func (b build1) command() *exec.Cmd {
	return b.h.CairnCommand("build", "--root", b.root, "--progress=quiet", "-f", b.h.Path(fmt.Sprint("Dockerfile.", b.dockerfile)),
		"-o", "type=image,rewrite-timestamp=true", "-t", fmt.Sprint("localhost/held", b.dockerfile),
		"--metadata-file", b.h.Path(fmt.Sprint("meta.", b.n)), b.h.Path("ctx"))
}

// digest is what came of it.
func (b build1) digest() (string, error) {
	data, err := os.ReadFile(b.h.Path(fmt.Sprint("meta.", b.n)))
	if err != nil {
		return "", err
	}
	var meta map[string]any
	if err := json.Unmarshal(data, &meta); err != nil {
		return "", err
	}
	return fmt.Sprint(meta["containerimage.digest"]), nil
}

// TestOneStore is T8: many builds use one store at once while it is pruned, and some are killed. The others give what builds one after another give.
func TestOneStore(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	h.Env = append(h.Env, "SOURCE_DATE_EPOCH=1700000000")
	files := map[string]string{"ctx/file": "content\n"}
	dockerfiles := overlapping(base)
	for i, d := range dockerfiles {
		files[fmt.Sprint("Dockerfile.", i)] = d
	}
	h.Files(files)
	want := map[int]string{}
	for i := range dockerfiles {
		b := build1{h, filepath.Join(h.Dir, "serial"), i, i}
		harness.Execute(t, b.command()).OK(t)
		d, err := b.digest()
		if err != nil {
			t.Fatal(err)
		}
		want[i] = d
	}
	n, killed := 0, 0
	rounds, at := torture.Times(2, 10), 4
	if torture.On() {
		at = 8
	}
	for range rounds {
		stop := make(chan struct{})
		var pruning, building sync.WaitGroup
		pruning.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					// Busy is no fault; the harness looks at the store afterwards.
					_ = h.CairnCommand("system", "prune", "--root", h.Root, "--force").Run()
				}
			}
		})
		for range at {
			n++
			b := build1{h, h.Root, n % len(dockerfiles), 1000 + n}
			kill := rand.IntN(10) == 0
			if kill {
				killed++
			}
			building.Go(func() { runOne(t, b, kill, want[b.dockerfile]) })
		}
		building.Wait()
		close(stop)
		pruning.Wait()
		if r := h.Cairn("system", "check", "--read-data", "--root", h.Root); r.Code != 0 {
			t.Fatal(r)
		}
	}
	torture.Figure(t, "T8", "%d builds, %d at once over one store while it was pruned, %d of them killed: the others gave the digests of builds one after another, "+
		"and the store checked clean after each of %d rounds", n, at, killed, rounds)
}

// runOne carries a build out, or kills it on the way.
func runOne(t *testing.T, b build1, kill bool, want string) {
	cmd := b.command()
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	limit := 2 * time.Minute // a deadlock
	if kill {
		limit = time.Duration(rand.IntN(1000)) * time.Millisecond
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	err := cmd.Wait()
	if timer.Stop(); err != nil {
		if !kill {
			t.Errorf("a build failed: %v\n%s", err, out.String())
		}
		return
	}
	if got, err := b.digest(); err != nil || got != want {
		t.Errorf("a build among others gives %s (%v), alone it gives %s", got, err, want)
	}
}

// reproducible are Dockerfiles that between them use most of what there is, from a base with busybox. The first is built in every way, the others
// in some.
func reproducible(base string) []string {
	from := "FROM " + base
	return []string{
		from + " AS a\nRUN umask 022; mkdir -p /d/e; echo x > /d/e/f; ln /d/e/f /d/g; ln -s g /d/l; chown 7:8 /d/g\n" +
			"RUN rm /d/e/f; rm -r /usr/bin; touch /tmp/n\nCOPY --chmod=644 . /ctx/\nWORKDIR /w/x\n" + from + "\nCOPY --from=a /d /d\nCOPY --from=a --chown=1:2 /ctx /c\n" +
			"ADD --chmod=600 one /one\nRUN --mount=type=cache,target=/k echo k > /k/k; echo done > /done\nLABEL b=1 a=2\n",
		"FROM scratch\nCOPY --chmod=755 . /\n",
		"FROM scratch\nCOPY --link --chmod=644 one /a/b/c\nCOPY --link --chmod=0700 sub /a/b/\nENTRYPOINT [\"/a\"]\nEXPOSE 2 1\nVOLUME /v /u\n",
		from + "\nCOPY <<a <<\"b\" /here/\n$HOME\na\n$HOME\nb\nRUN <<EOT\nmkdir -m 1777 /t\numask 027\necho y > /t/y\nEOT\n",
		from + "\nUSER ann\nWORKDIR /tmp/w\nCOPY --chown=ann --chmod=600 one .\nRUN echo mine > /tmp/mine; chmod 4711 /tmp/mine\nUSER 0\nRUN chown -R 5:6 .\n",
		from + "\nRUN tar -C / -cf /x.tar etc/passwd\n" + from + "\nCOPY --from=0 --chmod=640 /etc /e\nADD --chmod=640 sub/two /x/\nRUN mknod /fifo p; mknod /null c 1 3; chmod 666 /null /fifo\n",
		"ARG V=1\n" + from + "\nARG V\nARG W=$V.2\nENV A=$W B=\"two words\" C=${A:-z}\nRUN env | grep -v HOSTNAME | sort > /env; chmod 644 /env\nHEALTHCHECK --interval=3s CMD true\nSTOPSIGNAL 9\nONBUILD RUN true\n",
		from + " AS a\nRUN seq 20000 > /big; chmod 644 /big\n" + from + " AS b\nRUN seq 20000 | tac > /big; chmod 644 /big\nFROM scratch\nCOPY --from=b /big /b\nCOPY --from=a /big /a\nCOPY --from=a --exclude=big /etc /etc\n",
		from + "\nRUN --mount=type=bind,target=/c --mount=type=tmpfs,target=/t umask 022; cat /c/one /c/sub/* > /all; cp /all /t\nRUN umask 022; truncate -s 1M /sparse; dd if=/dev/zero of=/sparse bs=1 count=1 seek=9999999 2>/dev/null\n",
		from + "\nRUN umask 022; mkdir /d; for i in $(seq 300); do echo $i > /d/$i; done; ln -s /d /l\nRUN rm /d/1*; mv /d/2 /d/new\nCOPY --chmod=644 one /l/one\nRUN rm -r /d; umask 022; mkdir /d; echo again > /d/3\n",
	}
}

// TestReproducible is T13: with SOURCE_DATE_EPOCH and rewrite-timestamp=true the digest of an image depends on nothing but what was declared.
func TestReproducible(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	files := reproducible(registry.Busybox(t))
	user := harness.Unprivileged(t)
	ways := []way{
		{name: "a user", shell: "CAIRN DIR"},
		{name: "umask 077, one job, one processor", shell: "umask 077; CAIRN --jobs 1 DIR", env: []string{"GOMAXPROCS=1", "TZ=Asia/Tokyo", "LC_ALL=C"}},
		{name: "without mounts", shell: "CAIRN --isolation ptrace DIR"},
		{name: "other times and order of the context", shell: "mkdir n; for f in one Dockerfile; do cp DIR/$f n/; done; mkdir n/sub; cp DIR/sub/t* n/sub; " +
			"touch -d 2031-05-06 n/one; touch -d 2024-01-01 n/sub/two n/sub n; CAIRN n"},
		{name: "umask 000, many jobs", shell: "umask 000; CAIRN --jobs 16 DIR", env: []string{"GOMAXPROCS=16", "TZ=America/New_York", "LANG=tr_TR.UTF-8"}},
		{name: "another directory, a warm cache", shell: "mkdir -p a/b/c/d; cd a/b/c/d; CAIRN DIR; CAIRN DIR"},
		{name: "without the cache", shell: "CAIRN DIR; CAIRN --no-cache DIR"},
	}
	if os.Getuid() == 0 {
		ways = append(ways, way{name: "root", root: true, shell: "cd /; umask 027; CAIRN DIR"})
	}
	built := 0
	for i, file := range files {
		some := ways
		switch {
		case i > 0 && !torture.On(): // each Dockerfile meets two others, and each way some Dockerfiles
			some = []way{ways[i%2], ways[2+i%(len(ways)-2)]}
		case i > 0:
			some = ways[:4]
		}
		var want string
		for _, w := range some {
			built++
			t.Run(fmt.Sprintf("%d/%s", i, w.name), func(t *testing.T) {
				u := user
				if w.root {
					u = harness.User{Name: "root"}
				}
				got := w.build(t, u, file)
				if want == "" {
					want = got
				}
				if got != want || !strings.HasPrefix(got, "sha256:") {
					t.Errorf("the digest is %s, first it was %s", got, want)
				}
			})
		}
	}
	torture.Figure(t, "T13", "%d builds of %d Dockerfiles, on overlay and native, by user, umask, time zone, locale, jobs, processors, times and order of the context, "+
		"directory and cache: one digest each", built, len(files))
}

// way is how an image is built: by a shell, in which CAIRN and DIR stand for the command and the context, as an ordinary user or root.
type way struct {
	name, shell string
	env         []string
	root        bool
}

// build returns the digest.
func (w way) build(t *testing.T, u harness.User, dockerfile string) string {
	h := harness.NewHome(t, u)
	h.Env = append(h.Env, "SOURCE_DATE_EPOCH=1700000000")
	h.Env = append(h.Env, w.env...)
	h.Files(map[string]string{"c/Dockerfile": dockerfile, "c/one": "1\n", "c/sub/two": "2\n", "c/sub/three": "3\n"})
	cairn := h.CairnCommand().Path + " build --root " + h.Root + " -o type=oci,dest=" + h.Path("o.tar") +
		",rewrite-timestamp=true --metadata-file " + h.Path("meta")
	h.Run("sh", "-ec", strings.NewReplacer("CAIRN", cairn, "DIR", h.Path("c")).Replace(w.shell))
	var meta map[string]any
	data, err := os.ReadFile(h.Path("meta"))
	if err == nil {
		err = json.Unmarshal(data, &meta)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(meta["containerimage.digest"])
}
