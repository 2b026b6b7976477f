package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// publish writes the table and the picture.
func publish(b *testing.B, rows []row) {
	b.Helper()
	svg := strings.TrimSuffix(*docs, ".md") + ".svg"
	var s strings.Builder
	fmt.Fprintf(&s, "# Performance\n\nWritten by `make bench`: medians of %d builds in alternation with the peer (`%s`), %d cores, as uid %d. Each build begins with an\n"+
		"empty store, but for those called \"again\". The result goes into an OCI archive, or to a registry where it says pushed. Compare columns, not\n"+
		"absolute times: they are those of one machine at one time.\n\n![CPU time](%s)\n\n",
		*rounds, filepath.Base(*peer), runtime.NumCPU(), os.Getuid(), filepath.Base(svg))
	s.WriteString("| work | wall s: cairn / peer | ratio | CPU s: cairn / peer | ratio | peak MB: cairn / peer | MB pulled: cairn / peer |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		o, t := r.ours, r.theirs
		fmt.Fprintf(&s, "| %s: %s | %.2f / %.2f | %.1f × | %.2f / %.2f | %.1f × | %d / %d | %.1f / %.1f |\n", r.name, r.what,
			o.wall.Seconds(), t.wall.Seconds(), t.wall.Seconds()/o.wall.Seconds(), o.cpu.Seconds(), t.cpu.Seconds(), t.cpu.Seconds()/max(o.cpu.Seconds(), 0.001),
			o.memory>>20, t.memory>>20, float64(o.pulled)/1e6, float64(t.pulled)/1e6)
	}
	if err := os.WriteFile(*docs, []byte(s.String()), 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(svg, []byte(picture(rows)), 0o644); err != nil {
		b.Fatal(err)
	}
}

// picture draws CPU times, each workload in units of the peer's.
func picture(rows []row) string {
	const line, left, width = 26, 330, 420
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", left+width+90, line*len(rows)+40)
	fmt.Fprintf(&s, `<rect width="100%%" height="100%%" fill="white"/><text x="%d" y="18">CPU time: cairn (dark) in parts of the peer's (light)</text>`+"\n", left)
	for i, r := range rows {
		y := 30 + i*line
		part := r.ours.cpu.Seconds() / max(r.theirs.cpu.Seconds(), 0.001)
		fmt.Fprintf(&s, `<text x="8" y="%d">%s: %s</text><rect x="%d" y="%d" width="%d" height="18" fill="#cbd5e1"/>`, y+14, r.name, r.what, left, y, width)
		fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.0f" height="18" fill="#1e3a5f"/><text x="%d" y="%d">1 / %.1f</text>`+"\n", left, y, min(part, 1)*width,
			left+width+8, y+14, 1/max(part, 0.001))
	}
	return s.String() + "</svg>\n"
}
