package tiers

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestOneResult builds owners/Dockerfile in six tiers, of every kind of isolation that `auto` takes: each of its layers must be one and the same in all.
func TestOneResult(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be everybody") // the rest of the suite covers an ordinary user
	}
	s := newStage(t)
	var first built
	for _, r := range tiers() {
		if !slices.Contains([]string{"T0u", "T2", "T2b", "T3", "T4", "T6"}, r.name) {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			v := s.visit(r)
			defer v.leave()
			b, err := v.build("owners")
			if err != nil {
				t.Fatal(err)
			}
			if first.digest == "" {
				first = b
			}
			for i := range b.layers {
				if i >= len(first.layers) || b.layers[i] != first.layers[i] {
					t.Fatalf("layer %d of %q is not that of the first tier, %q", i, b.layers, first.layers)
				}
			}
			if b.digest != first.digest || len(b.layers) < 11 {
				t.Errorf("image %s of %d layers, want %s", b.digest, len(b.layers), first.digest)
			}
		})
	}
}

var (
	rounds = flag.Int("rounds", 0, "how `often` the table's images are built in every tier (make tiers)")
	only   = flag.String("only", "", "only these `tiers`: T2,T3")
	docs   = flag.String("docs", "", "write the table and what doctor says into this `file`")
	more   = flag.String("flags", "", "further `flags` of cairn build")
)

// dockerfiles are what the table's images are built from.
func dockerfiles() []string { return []string{"install", "owners"} }

// row is a tier in the table: its isolation, what doctor says, and the digests that each Dockerfile gave, or why it gave none.
type row struct {
	tier
	isolation, doctor string
	digests           map[string][]string
	failed            map[string]bool
}

// TestTable builds both Dockerfiles in every tier, in rounds, and writes the table after each.
func TestTable(t *testing.T) {
	if *rounds == 0 && *docs == "" {
		t.Skip("this is `make tiers`, which takes an hour") // TestOneResult is the part of it that every change is tested with
	}
	s := newStage(t)
	var rows []*row
	for _, r := range tiers() {
		if *only == "" || slices.Contains(strings.Split(*only, ","), r.name) {
			rows = append(rows, s.row(r))
		}
	}
	if *docs != "" {
		publishDoctor(t, rows)
	}
	for range *rounds {
		for _, r := range rows {
			s.round(r)
		}
		publish(t, rows)
	}
	for _, name := range dockerfiles() {
		var all []string
		for _, r := range rows {
			all = append(all, r.digests[name]...)
		}
		if len(slices.Compact(all)) > 1 {
			t.Errorf("%s has more than one digest", name)
		}
	}
}

// row asks doctor about a tier.
func (s *stage) row(r tier) *row {
	v := s.visit(r)
	defer v.leave()
	says := strings.ReplaceAll(v.do("cairn", "doctor").Stdout, v.volume, "/home/user")
	isolation := "none"
	if m := regexp.MustCompile(`isolation ([a-z-]+)`).FindStringSubmatch(says); m != nil {
		isolation = m[1]
	}
	return &row{r, isolation, says, map[string][]string{}, map[string]bool{}}
}

// round builds each Dockerfile once, in a new place.
func (s *stage) round(r *row) {
	for _, name := range dockerfiles() {
		v := s.visit(r.tier)
		b, err := v.build(name, strings.Fields(*more)...)
		v.leave()
		if err != nil {
			s.t.Errorf("%s %s: %v", r.name, name, err)
			r.failed[name] = true
			continue
		}
		s.t.Log(r.name, name, b.digest)
		r.digests[name] = append(r.digests[name], b.digest)
	}
}

// says is a cell of the table.
func (r *row) says(name string) string {
	digests := slices.Compact(slices.Clone(r.digests[name]))
	switch {
	case r.failed[name]:
		return "fails"
	case len(digests) > 1:
		return "differs"
	}
	if len(digests) == 0 {
		return "not built"
	}
	return fmt.Sprintf("%d × `%s`", len(r.digests[name]), digests[0][7:19])
}

// publish prints the table, and writes it into the documentation if that is wanted.
func publish(t *testing.T, rows []*row) {
	table := "| tier | what it stands for | isolation | install | owners |\n| --- | --- | --- | --- | --- |\n"
	for _, r := range rows {
		table += fmt.Sprintf("| %s | %s | `%s` | %s | %s |\n", r.name, r.what, r.isolation, r.says("install"), r.says("owners"))
	}
	t.Log("\n" + table)
	if *docs == "" {
		return
	}
	if err := replace(*docs, "table of tiers", table); err != nil {
		t.Error(err)
	}
}

// publishDoctor writes what doctor said in some places.
func publishDoctor(t *testing.T, rows []*row) {
	said := ""
	for _, r := range rows {
		if slices.Contains([]string{"T0u", "T2b", "T3c", "T3b", "T2", "T2a", "T3"}, r.name) {
			said += fmt.Sprintf("\n### %s: %s\n\n```\n%s```\n", r.name, r.what, r.doctor)
		}
	}
	if err := replace(*docs, "what doctor says", strings.TrimPrefix(said, "\n")); err != nil {
		t.Error(err)
	}
}

// replace puts text between the marks of a part that is written by this program.
func replace(file, part, text string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- make tiers: "+part+" -->\n", "<!-- end: "+part+" -->\n"
	before, rest, ok := strings.Cut(string(data), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s has no part %q", file, part)
	}
	return os.WriteFile(file, []byte(before+begin+"\n"+text+"\n"+end+after), 0o644)
}
