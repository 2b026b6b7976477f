package bench

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// workload is something to build.
type workload struct {
	name, what string
	// slow ones take minutes and are built once.
	slow bool
	// warm is built once before it is measured; between the two edit changes something.
	warm bool
	edit func(b *testing.B, dir string)
	// push goes to the registry instead of a file.
	push  bool
	write writer
}

// writer writes a Dockerfile and its context.
type writer func(b *testing.B, dir string, base bases)

// bases are names of base images.
type bases struct{ busybox, debian string }

func workloads() []workload {
	apt := dockerfile("FROM DEBIAN\nRUN apt-get update && apt-get install -y gcc\n")
	return []workload{
		{name: "W1", what: "FROM scratch, COPY one program", write: oneProgram},
		{name: "W2", what: "FROM debian, RUN true", write: dockerfile("FROM DEBIAN\nRUN true\n")},
		{name: "W3", what: "20 RUN steps on busybox", write: steps(20)},
		{name: "W4", what: "COPY 20,000 files, 200 MB", slow: true, write: files(20000, 10000)},
		{name: "W5", what: "COPY 512 MB random, 512 MB text", slow: true, write: large},
		{name: "W6", what: "FROM debian, apt-get install gcc", slow: true, write: apt},
		{name: "W7", what: "two stages of 3 s at once", write: dockerfile(sleeper("a") + sleeper("b") +
			"FROM BUSYBOX\nCOPY --from=a /a.bin /a.sum /out/\nCOPY --from=b /b.bin /b.sum /out/\n")},
		{name: "W8", what: "W3 again, nothing changed", warm: true, write: steps(20)},
		{name: "W8b", what: "W6 again, nothing changed", slow: true, warm: true, write: apt},
		{name: "W9", what: "metadata only on debian, pushed", push: true,
			write: dockerfile("FROM DEBIAN\nENV A=1 B=2\nLABEL org.example.x=y\nCMD [\"/bin/bash\",\"-c\",\"echo hi\"]\n")},
		{name: "W10", what: "one file of 200 edited, two stages, cache mount", warm: true, edit: editSource, write: compile},
		{name: "W10b", what: "W10 again, nothing changed", warm: true, write: compile},
		{name: "W11", what: "FROM debian, COPY one small file, pushed", push: true, write: dockerfile("FROM DEBIAN\nCOPY tiny /tiny\n")},
		{name: "W11b", what: "the same with COPY --link", push: true, write: dockerfile("FROM DEBIAN\nCOPY --link tiny /tiny\n")},
	}
}

// heavy are workloads whose memory is looked at.
func heavy() []workload {
	return []workload{
		{name: "M4", what: "COPY 300,000 files, again from that stage, RUN", write: twice(files(300_000, 1000))},
		{name: "M5", what: "COPY 512 MB random, 512 MB text", write: large},
		{name: "M2", what: "FROM debian, RUN that writes 512 MB", write: dockerfile("FROM DEBIAN\nRUN head -c 512M /dev/zero | tr '\\0' x >/file\n")},
	}
}

// growth is a kind of work in several sizes.
type growth struct {
	name, unit string
	sizes      []int
	write      func(n int) writer
}

func growths() []growth {
	return []growth{
		{"steps", "RUN steps", []int{10, 100, 1000}, steps},
		{"files", "files copied", []int{1000, 10_000, 100_000, 300_000}, func(n int) writer { return files(n, 1000) }},
		{"layers", "layers, then a RUN", []int{1, 10, 100}, layers},
	}
}

func dockerfile(format string) writer {
	return func(b *testing.B, dir string, base bases) {
		file(b, dir, "Dockerfile", strings.NewReplacer("BUSYBOX", base.busybox, "DEBIAN", base.debian).Replace(format))
		file(b, dir, "tiny", "hello\n")
	}
}

func sleeper(name string) string {
	return strings.ReplaceAll("FROM BUSYBOX AS @\nRUN sleep 3; dd if=/dev/urandom of=/@.bin bs=1M count=20; sha256sum /@.bin >/@.sum\n", "@", name)
}

func steps(n int) writer {
	var s strings.Builder
	s.WriteString("FROM BUSYBOX\n")
	for i := range n {
		fmt.Fprintf(&s, "RUN echo %d > /f%d\n", i, i)
	}
	return dockerfile(s.String())
}

func layers(n int) writer {
	return func(b *testing.B, dir string, base bases) {
		var s strings.Builder
		s.WriteString("FROM BUSYBOX\n")
		rnd := rand.New(rand.NewPCG(3, uint64(n)))
		for i := range n {
			file(b, dir, fmt.Sprintf("f%d", i), prose(rnd, 100_000))
			fmt.Fprintf(&s, "COPY f%d /f%d\n", i, i)
		}
		s.WriteString("RUN true\n")
		dockerfile(s.String())(b, dir, base)
	}
}

// files are n files in directories of 50, of mean bytes on average.
func files(n, mean int) writer {
	return func(b *testing.B, dir string, base bases) {
		dockerfile("FROM BUSYBOX\nCOPY tree /tree\n")(b, dir, base)
		rnd := rand.New(rand.NewPCG(1, 2))
		text := prose(rnd, 1<<20)
		for i := range n {
			size := mean/20 + rnd.IntN(mean*19/10)
			at := rnd.IntN(len(text) - size)
			file(b, dir, fmt.Sprintf("tree/d%d/f%d.txt", i/50, i), text[at:at+size])
		}
	}
}

// twice copies what a writer wrote from one stage to the next, where a RUN sees it.
func twice(write writer) writer {
	return func(b *testing.B, dir string, base bases) {
		write(b, dir, base)
		dockerfile("FROM BUSYBOX AS first\nCOPY tree /tree\nFROM BUSYBOX\nCOPY --from=first /tree /copy\nRUN find /copy -type f | wc -l\n")(b, dir, base)
	}
}

func oneProgram(b *testing.B, dir string, base bases) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	dockerfile("FROM scratch\nCOPY app /app\nENTRYPOINT [\"/app\"]\n")(b, dir, base)
	file(b, dir, "app", string(data))
}

// compile stands for a compiler: it works through 200 files and keeps objects in a cache mount.
func compile(b *testing.B, dir string, base bases) {
	dockerfile(`FROM DEBIAN AS build
WORKDIR /src
COPY deps.txt .
RUN sleep 1 && cp deps.txt /deps.out
COPY src/ src/
COPY build.sh .
RUN --mount=type=cache,target=/cache sh build.sh
FROM BUSYBOX
COPY --from=build /app /app
CMD ["/app"]
`)(b, dir, base)
	file(b, dir, "deps.txt", "dep1\n")
	file(b, dir, "build.sh", `set -e
: >/app
for f in src/*.c; do
  s=$(sha256sum $f | cut -c1-64)
  o=/cache/$s.o
  if [ ! -f $o ]; then gzip -9 <$f >$o.tmp; sleep 0.02; mv $o.tmp $o; fi
  cat $o >>/app
done
`)
	rnd := rand.New(rand.NewPCG(4, 5))
	for i := range 200 {
		file(b, dir, fmt.Sprintf("src/f%03d.c", i), prose(rnd, 12_000))
	}
}

func editSource(b *testing.B, dir string) {
	f, err := os.OpenFile(filepath.Join(dir, "src/f007.c"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("int edited;\n"); err != nil {
		b.Fatal(err)
	}
}

func prose(rnd *rand.Rand, n int) string {
	var s strings.Builder
	for s.Len() < n {
		fmt.Fprintf(&s, "word%d ", rnd.IntN(5000))
	}
	return s.String()
}

func large(b *testing.B, dir string, base bases) {
	dockerfile("FROM BUSYBOX\nCOPY rand.bin /rand.bin\nCOPY text.bin /text.bin\n")(b, dir, base)
	const size, block = 512 << 20, 1 << 20
	rnd := rand.NewChaCha8([32]byte{1})
	text := []byte(prose(rand.New(rnd), 2*block))
	for _, name := range []string{"rand.bin", "text.bin"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			b.Fatal(err)
		}
		part := make([]byte, block)
		for i := range size / block {
			copy(part, text[i*1009%block:])
			if name == "rand.bin" {
				_, _ = rnd.Read(part)
			}
			if _, err := f.Write(part); err != nil {
				b.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
