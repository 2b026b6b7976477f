package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// matches compares output with a pattern, each line whole.
func matches(t *testing.T, what, got string, lines ...string) {
	t.Helper()
	if !regexp.MustCompile("^" + strings.Join(lines, "\n") + "\n$").MatchString(got) {
		t.Errorf("%s printed\n%s\nwant\n%s", what, got, strings.Join(lines, "\n"))
	}
}

// TestImages: the list, its columns, formats and filters.
func TestImages(t *testing.T) {
	h := harness.NewHome(t, harness.Unprivileged(t))
	one := build(t, h, "one", "-t", "example.com/one:v1", "-t", "one")
	two := build(t, h, "two", "-t", "two:v2")
	none := build(t, h, "none")
	short := func(id string) string { return id[7:19] }
	matches(t, "images", cairn(t, h, "images"),
		`REPOSITORY +TAG +IMAGE ID +CREATED +SIZE`,
		`<none> +<none> +`+short(none)+` +\S.* ago +\S+B`,
		`two +v2 +`+short(two)+` +\S.* ago +\S+B`,
		`one +latest +`+short(one)+` +\S.* ago +\S+B`,
		`example.com/one +v1 +`+short(one)+` +\S.* ago +\S+B`)
	matches(t, "images -q", cairn(t, h, "images", "-q"), short(none), short(two), short(one), short(one))
	matches(t, "images -q --no-trunc two", cairn(t, h, "images", "-q", "--no-trunc", "two"), two)
	matches(t, "images --digests two:v2", cairn(t, h, "images", "--digests", "two:v2"), `REPOSITORY +TAG +DIGEST +IMAGE ID +CREATED +SIZE`,
		`two +v2 +sha256:[0-9a-f]{64} +`+short(two)+` +\S.* ago +\S+B`)
	matches(t, "a template", cairn(t, h, "images", "--format", `{{.Repository}}={{.Tag | upper}}\t{{.ID}}`, "two"), "two=V2\t"+short(two))
	matches(t, "a table template", cairn(t, h, "images", "--format", `table {{.ID}}\t{{.Repository}}`, "two"), `IMAGE ID +REPOSITORY`, short(two)+" +two")
	var row map[string]string
	if err := json.Unmarshal([]byte(cairn(t, h, "images", "--format", "json", "two")), &row); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"Containers", "CreatedAt", "CreatedSince", "Digest", "ID", "Repository", "SharedSize", "Size", "Tag", "UniqueSize"} {
		if row[key] == "" {
			t.Errorf("json has no %s: %v", key, row)
		}
	}
	for filter, want := range map[string]string{
		"dangling=true": short(none), "dangling=false": short(two) + "\n" + short(one) + "\n" + short(one), "label=content=two": short(two),
		"label=content": "", "label=none": "-", "reference=example.com/*": short(one), "reference=one:*": short(one), "before=two:v2": short(one) + "\n" + short(one),
		"since=two:v2": short(none), "until=24h": "-", "until=2999-01-01": "",
	} {
		got := strings.TrimSpace(cairn(t, h, "images", "-q", "-f", filter))
		if want == "" && strings.Count(got, "\n") != 3 || want == "-" && got != "" || want != "" && want != "-" && got != want {
			t.Errorf("--filter %s: %q, want %q", filter, got, want)
		}
	}
	try(h, "images", "--filter", "colour=red").Fails(t, 2, "unknown key")
	try(h, "images", "--filter", "until=soon").Fails(t, 2, "until=soon")
	try(h, "images", "--format", "{{.Nothing}}").Fails(t, 2, "--format")
	try(h, "images", "--format", "{{").Fails(t, 2, "--format")
}

// TestTagAndRmi: names come and go, and the image goes with the last.
func TestTagAndRmi(t *testing.T) {
	h := harness.NewHome(t, harness.Unprivileged(t))
	id := build(t, h, "one", "-t", "one")
	for _, source := range []string{"one", "one:latest", id, id[7:19]} {
		cairn(t, h, "tag", source, "example.com/x:"+source[:3])
	}
	try(h, "tag", "nothing", "x").Fails(t, 1, "no such image: nothing")
	try(h, "tag", "one", "UPPER").Fails(t, 2, "UPPER")
	try(h, "tag", "one", "x@"+id).Fails(t, 1, "not a name with a tag")
	try(h, "rmi", id[7:19]).Fails(t, 1, "conflict", "must be forced")
	matches(t, "rmi of a name", cairn(t, h, "rmi", "one"), "Untagged: one:latest")
	r := try(h, "rmi", "nothing", "example.com/x:sha").Fails(t, 1, "no such image: nothing")
	matches(t, "rmi of several", r.Stdout, "Untagged: example.com/x:sha")
	cairn(t, h, "rmi", "-f", "nothing")
	matches(t, "rmi of the last name", cairn(t, h, "rmi", "example.com/x:one", "example.com/x:"+id[7:10]),
		"Untagged: example.com/x:one", "Untagged: example.com/x:"+id[7:10], "Deleted: "+id)
	if out := cairn(t, h, "images", "-aq"); out != "" {
		t.Errorf("left: %q", out)
	}
	id = build(t, h, "one", "-t", "a", "-t", "b")
	matches(t, "rmi -f ID", cairn(t, h, "rmi", "-f", id), "Untagged: a:latest", "Untagged: b:latest", "Deleted: "+id)
}

func TestHistory(t *testing.T) {
	h := harness.NewHome(t, harness.Unprivileged(t))
	id := build(t, h, "one", "-t", "one")
	matches(t, "history", cairn(t, h, "history", "one"),
		`IMAGE +CREATED +CREATED BY +SIZE +COMMENT`,
		id[7:19]+` +.* ago +CMD \["/file"\] +0B +buildkit.dockerfile.v0`,
		`<missing> +.* ago +LABEL content=one +0B +buildkit.dockerfile.v0`,
		`<missing> +.* ago +COPY file /file # buildkit +3B +buildkit.dockerfile.v0`)
	matches(t, "history -q --no-trunc", cairn(t, h, "history", "-q", "--no-trunc", "one"), id, "<missing>", "<missing>")
	matches(t, "history --human=false", cairn(t, h, "history", "--human=false", "--format", "{{.Size}} {{.CreatedSince}}", id[7:19]),
		`0 20\d\d-\d\d-\d\dT\S+`, `0 20\d\d-\S+`, `3 20\d\d-\S+`)
	try(h, "history", "nothing").Fails(t, 1, "no such image: nothing")
}

func TestInspect(t *testing.T) {
	h := harness.NewHome(t, harness.Unprivileged(t))
	id := build(t, h, "one", "-t", "one", "-t", "example.com/one:v1")
	var found []struct {
		Id                   string //nolint:revive // Docker's name
		RepoTags             []string
		RepoDigests          []string
		Architecture, Os     string
		Created              string
		Size                 int64
		Config               struct{ Cmd []string }
		RootFS               struct{ Layers []string }
		Author, Unknown, Foo string
	}
	if err := json.Unmarshal([]byte(cairn(t, h, "inspect", "one")), &found); err != nil {
		t.Fatal(err)
	}
	i := found[0]
	if i.Id != id || strings.Join(i.RepoTags, " ") != "one:latest example.com/one:v1" && strings.Join(i.RepoTags, " ") != "example.com/one:v1 one:latest" ||
		len(i.RepoDigests) != 2 || i.Os != "linux" || i.Created == "" || i.Size == 0 || i.Config.Cmd[0] != "/file" || len(i.RootFS.Layers) != 1 {
		t.Errorf("%+v", i)
	}
	matches(t, "a template", cairn(t, h, "inspect", "-f", `{{.Id}} {{index .Config.Labels "content"}} {{json .Config.Cmd}}`, id[7:19]), id+` one \["/file"\]`)
	if out := cairn(t, h, "inspect", "-f", "json", "one"); strings.Count(out, "\n") != 1 || !json.Valid([]byte(out)) {
		t.Errorf("json: %q", out)
	}
	r := try(h, "inspect", "-f", "{{.Id}}", "nothing", "one").Fails(t, 1, "no such image: nothing")
	matches(t, "inspect of one that is there and one that is not", r.Stdout, id)
	try(h, "inspect", "-f", "{{.Nothing}}", "one").Fails(t, 2, "--format")
}

// TestSystem: what the store takes up, and what prune gives back, as every user.
func TestSystem(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		dir := h.Files(map[string]string{"Dockerfile.app": "FROM " + base + "\nRUN --mount=type=cache,target=/c echo x > /c/x; echo y > /y; chown 7:8 /y\n"})
		log := func() string {
			return try(h, "build", "--progress=plain", "-f", filepath.Join(dir, "Dockerfile.app"), "-t", "app", dir).OK(t).Stderr
		}
		log()
		build(t, h, "none")
		df := cairn(t, h, "system", "df")
		matches(t, "system df", df, `TYPE +TOTAL +ACTIVE +SIZE +RECLAIMABLE`, `Images +2 +0 +\S+B +\S+B \(100%\)`,
			`Containers +0 +0 +0B +0B`, `Local Volumes +0 +0 +0B +0B`, `Build Cache +[1-9]\d* +0 +\S+B +\S+B`)
		matches(t, "a template", cairn(t, h, "system", "df", "--format", "{{.Type}}: {{.TotalCount}}"), "Images: 2", "Containers: 0", "Local Volumes: 0", `Build Cache: \d+`)
		try(h, "system", "prune").Fails(t, 2, "cannot be undone", "--force")
		try(h, "system", "prune", "-f", "--filter", "colour=red").Fails(t, 2, "unknown key")
		if out := cairn(t, h, "system", "prune", "-f", "--filter", "until=24h"); strings.Contains(out, "deleted") {
			t.Errorf("what is new was removed: %s", out)
		}
		matches(t, "system prune", cairn(t, h, "system", "prune", "-f"), "Deleted Images:", "deleted: sha256:[0-9a-f]{64}", "", `Total reclaimed space: \S+B`)
		if again := log(); strings.Count(again, "CACHED") != 2 {
			t.Errorf("prune without --all forgets the build cache:\n%s", again)
		}
		out := cairn(t, h, "system", "prune", "-af")
		for _, want := range []string{"untagged: app:latest\ndeleted: sha256:", "Deleted build cache objects: ", "Total reclaimed space: "} {
			if !strings.Contains(out, want) {
				t.Errorf("prune --all without %q:\n%s", want, out)
			}
		}
		matches(t, "system df of nothing", cairn(t, h, "system", "df", "--format", "{{.Type}}: {{.TotalCount}} {{.Size}}"),
			"Images: 0 0B", "Containers: 0 0B", "Local Volumes: 0 0B", `Build Cache: 0 \S+[kB]B?`)
		if again := log(); strings.Count(again, "CACHED") != 1 {
			t.Errorf("prune --all keeps the build cache:\n%s", again)
		}
	})
}

// TestSystemCheck: a sound store has no problems, and a flipped bit, a lost blob and a damaged name are found.
func TestSystemCheck(t *testing.T) {
	h := harness.NewHome(t, harness.Unprivileged(t))
	build(t, h, "one", "-t", "one")
	check := func(args ...string) harness.Result { return try(h, append([]string{"system", "check"}, args...)...) }
	if r := check("--read-data").OK(t); r.Stdout != "" {
		t.Errorf("a sound store has problems: %s", r.Stdout)
	}
	check("more").Fails(t, 2, "no arguments")
	manifest := strings.TrimSpace(cairn(t, h, "images", "--no-trunc", "--format", "{{.Digest}}"))
	blobs, err := filepath.Glob(filepath.Join(h.Root, "blobs", "sha256", "*"))
	if err != nil || len(blobs) < 3 {
		t.Fatal(blobs, err)
	}
	for _, blob := range blobs {
		data, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		write := func(data []byte) {
			if err := errors.Join(os.Chmod(blob, 0o600), os.WriteFile(blob, data, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		flipped := bytes.Clone(data)
		flipped[len(flipped)/2] ^= 1
		write(flipped)
		r := check("--read-data").Fails(t, 1, "problem", "hint")
		matches(t, "system check of a flipped bit in "+blob, r.Stdout, `(?s).*`+filepath.Base(blob)+`.*`)
		write(data)
	}
	gone := filepath.Join(h.Root, "blobs", "sha256", strings.TrimPrefix(manifest, "sha256:"))
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	r := check().Fails(t, 1, "problem")
	matches(t, "system check without a manifest", r.Stdout, `ref "docker.io/library/one:latest": manifest sha256:[0-9a-f]{64}: .*`)
}

// TestLogin: credentials are tried, kept where Docker keeps them, used, and forgotten.
func TestLogin(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{Auth: true})
	h := harness.NewHome(t, harness.Unprivileged(t))
	login := func(password string, args ...string) harness.Result {
		return h.CairnStdin(strings.NewReader(password+"\n"), append([]string{"login"}, args...)...)
	}
	push := func() harness.Result { return try(h, "push", registry.Name("one")) }
	build(t, h, "one", "-t", registry.Name("one"))
	config := filepath.Join(h.Dir, ".docker", "config.json")

	push().Fails(t, 1)
	login("wrong", "-u", harness.Username, "--password-stdin", registry.Addr).Fails(t, 1, registry.Addr)
	if _, err := os.Stat(config); err == nil {
		t.Error("wrong credentials were kept")
	}
	login("", "-u", harness.Username, registry.Addr).Fails(t, 2, "no password")
	login("", "--password-stdin", registry.Addr).Fails(t, 2, "without --username")
	login("", registry.Addr).Fails(t, 2, "no credentials are kept")
	login("", "-u", "x", "--password-stdin", registry.Addr).Fails(t, 2, "empty")
	login("x", "-u", "x", "-p", "y", "--password-stdin", registry.Addr).Fails(t, 2, "exclude each other")
	login("x", "-u", "x", "--password-stdin", "no host").Fails(t, 2, "no host")

	// What else is in the file stays.
	if err := os.MkdirAll(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(`{"auths":{"other.example":{"auth":"YTpi"}},"unknown":{"x":[1]}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Own()
	r := login(harness.Password, "-u", harness.Username, "--password-stdin", registry.Addr).OK(t)
	if r.Stdout != "Login Succeeded\n" || !strings.Contains(r.Stderr, "unencrypted") || strings.Contains(r.Stderr+r.Stdout, harness.Password) {
		t.Errorf("login: %v", r)
	}
	data, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	var kept struct {
		Auths   map[string]struct{ Auth string }
		Unknown struct{ X []int }
	}
	if err := json.Unmarshal(data, &kept); err != nil || kept.Auths[registry.Addr].Auth == "" || kept.Auths["other.example"].Auth != "YTpi" || len(kept.Unknown.X) != 1 {
		t.Errorf("config.json: %s %v", data, err)
	}
	if fi, err := os.Stat(config); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	push().OK(t)
	login("", registry.Addr).OK(t)
	matches(t, "logout", h.Cairn("logout", registry.Addr).OK(t).Stdout, "Removing login credentials for "+registry.Addr)
	matches(t, "logout again", h.Cairn("logout", registry.Addr).OK(t).Stdout, "Not logged in to "+registry.Addr)
	if data, err = os.ReadFile(config); err != nil || !strings.Contains(string(data), "other.example") || strings.Contains(string(data), registry.Addr) {
		t.Errorf("config.json: %s %v", data, err)
	}
	push().Fails(t, 1)
}

// TestLoginHelper: with a credential helper, the file holds no secret.
func TestLoginHelper(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{Auth: true})
	h := harness.NewHome(t, harness.Unprivileged(t))
	h.Files(map[string]string{
		"bin/docker-credential-test:0755": `#!/bin/sh
set -e
db="$HOME/secrets"
case $1 in
store) cat > "$db" ;;
erase) grep -q . && rm "$db" ;;
get) read -r server || true; [ -f "$db" ] || { echo "credentials not found in native keychain"; exit 1; }; cat "$db" ;;
esac
`,
		"config/config.json": `{"credsStore":"test"}`,
	})
	h.Env = []string{"DOCKER_CONFIG=" + h.Path("config"), "PATH=" + h.Path("bin") + ":/usr/bin:/bin"}
	build(t, h, "one", "-t", registry.Name("one"))
	r := h.CairnStdin(strings.NewReader(harness.Password), "login", "-u", harness.Username, "--password-stdin", registry.Addr).OK(t)
	if strings.Contains(r.Stderr, "unencrypted") {
		t.Errorf("login: %v", r)
	}
	data, err := os.ReadFile(h.Path("config/config.json"))
	if err != nil || !strings.Contains(string(data), `"credsStore": "test"`) || !strings.Contains(string(data), `"`+registry.Addr+`": {}`) {
		t.Errorf("config.json: %s %v", data, err)
	}
	try(h, "push", registry.Name("one")).OK(t)
	matches(t, "logout", h.Cairn("logout", registry.Addr).OK(t).Stdout, "Removing login credentials for "+registry.Addr)
	try(h, "push", registry.Name("one")).Fails(t, 1)
}
