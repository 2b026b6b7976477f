package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// results are what docs/performance.md is made of. They are kept beside it, so that parts can be measured again.
type results struct {
	Rows map[string]row
	// Growth is by kind and size.
	Growth map[string]map[int]cost
	Memory map[string]footprint
	// Place says where it was measured last.
	Place string
}

// row is a workload's costs, cairn's and the peer's: medians of so many builds.
type row struct {
	Builds       int
	Ours, Theirs cost
}

func (r *results) grown(name string) map[int]cost {
	if r.Growth[name] == nil {
		r.Growth[name] = map[int]cost{}
	}
	return r.Growth[name]
}

func beside(suffix string) string { return strings.TrimSuffix(*docs, ".md") + suffix }

func readResults(b *testing.B) *results {
	r := &results{Rows: map[string]row{}, Growth: map[string]map[int]cost{}, Memory: map[string]footprint{}}
	if *docs == "" {
		return r
	}
	data, err := os.ReadFile(beside(".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return r
	}
	if err == nil {
		err = json.Unmarshal(data, r)
	}
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// publish writes tables and pictures. What is written by hand, from the heading "What the figures say" on, stays.
func (r *results) publish(b *testing.B) {
	if *docs == "" {
		return
	}
	r.Place = fmt.Sprintf("%d cores, as uid %d, peer `%s`", runtime.NumCPU(), os.Getuid(), filepath.Base(*peer))
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		b.Fatal(err)
	}
	const byHand = "## What the figures say"
	old, _ := os.ReadFile(*docs)
	_, after, found := strings.Cut(string(old), byHand)
	text := r.text()
	if found {
		text += byHand + after
	}
	for name, content := range map[string]string{
		*docs: text, beside(".json"): string(data) + "\n", beside(".svg"): picture(r), beside("-growth.svg"): plots(r),
	} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func (r *results) text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Performance\n\nTables and pictures are written by `make bench` (%s): medians of builds in alternation with the peer, of as many as the column "+
		"says. Each\nbuild begins with an empty store, but for those called \"again\" or \"edited\". The result goes into an OCI archive, or to a registry where it says\n"+
		"pushed. Compare columns, not absolute times: they are those of one machine at one time.\n\n![CPU time](%s)\n\n", r.Place, filepath.Base(beside(".svg")))
	s.WriteString("| work | builds | wall s: cairn / peer | ratio | CPU s: cairn / peer | ratio | peak MB: cairn / peer | MB pulled: cairn / peer |\n" +
		"|---|---|---|---|---|---|---|---|\n")
	r.eachRow(func(w workload, m row) {
		o, t := m.Ours, m.Theirs
		fmt.Fprintf(&s, "| %s: %s | %d | %.2f / %.2f | %.1f × | %.2f / %.2f | %.1f × | %d / %d | %.1f / %.1f |\n", w.name, w.what, m.Builds,
			o.Wall.Seconds(), t.Wall.Seconds(), t.Wall.Seconds()/o.Wall.Seconds(), o.CPU.Seconds(), t.CPU.Seconds(), t.CPU.Seconds()/max(o.CPU.Seconds(), 0.001),
			o.Memory>>20, t.Memory>>20, float64(o.Pulled)/1e6, float64(t.Pulled)/1e6)
	})
	if len(r.Growth) > 0 {
		fmt.Fprintf(&s, "\n## As the work grows\n\ncairn alone, each built once. Linear growth is a straight line of slope one, dashed.\n\n![growth](%s)\n\n"+
			"| work | wall s | CPU s | peak MB | CPU ms for one |\n|---|---|---|---|---|\n", filepath.Base(beside("-growth.svg")))
		for _, g := range growths() {
			for _, n := range slices.Sorted(maps.Keys(r.Growth[g.name])) {
				c := r.Growth[g.name][n]
				fmt.Fprintf(&s, "| %d %s | %.2f | %.2f | %d | %.2f |\n", n, g.unit, c.Wall.Seconds(), c.CPU.Seconds(), c.Memory>>20, c.CPU.Seconds()*1000/float64(n))
			}
		}
	}
	if len(r.Memory) > 0 {
		fmt.Fprintf(&s, "\n## Memory\n\nBuilds in a memory cgroup of %d MiB without swap, in which page cache and every process count; they end well. The largest process is "+
			"what the\nkernel has seen of one process, its executable included.\n\n| work | held by a cgroup | largest process, MB | CPU s |\n|---|---|---|---|\n", memoryBound>>20)
		for _, name := range slices.Sorted(maps.Keys(r.Memory)) {
			m := r.Memory[name]
			fmt.Fprintf(&s, "| %s | %s | %d | %.2f |\n", m.What, map[bool]string{true: "yes", false: "no"}[m.Cgroup], m.Process>>20, m.CPU.Seconds())
		}
	}
	return s.String() + "\n"
}

// eachRow goes through what is measured in the order of workloads.
func (r *results) eachRow(f func(workload, row)) {
	for _, w := range workloads() {
		if m, ok := r.Rows[w.name]; ok {
			f(w, m)
		}
	}
}

const svgHead = `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12"><rect width="100%%" height="100%%" fill="white"/>` + "\n"

// picture draws CPU and wall times, each workload in units of the peer's.
func picture(r *results) string {
	const line, left, width = 40, 340, 420
	var s strings.Builder
	fmt.Fprintf(&s, svgHead, left+width+90, line*len(r.Rows)+40)
	fmt.Fprintf(&s, `<text x="%d" y="18">CPU time (dark) and wall time (blue) of cairn, in parts of the peer's (light)</text>`+"\n", left)
	y := 30
	r.eachRow(func(w workload, m row) {
		fmt.Fprintf(&s, `<text x="8" y="%d">%s: %s</text><rect x="%d" y="%d" width="%d" height="34" fill="#e2e8f0"/>`, y+21, w.name, w.what, left, y, width)
		for i, part := range []float64{
			m.Ours.CPU.Seconds() / max(m.Theirs.CPU.Seconds(), 0.001), m.Ours.Wall.Seconds() / max(m.Theirs.Wall.Seconds(), 0.001),
		} {
			fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.0f" height="15" fill="%s"/><text x="%d" y="%d">1 / %.1f</text>`, left, y+1+17*i, max(min(part, 1)*width, 1),
				[]string{"#1e3a5f", "#4a90d9"}[i], left+width+8, y+13+17*i, 1/max(part, 0.001))
		}
		s.WriteString("\n")
		y += line
	})
	return s.String() + "</svg>\n"
}
