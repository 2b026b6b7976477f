package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/secret"
)

func TestParseArgs(t *testing.T) {
	t.Parallel()
	got, err := parseArgs([]string{"A=1", "B=x=y", "C=", "D", "E", "A=2"}, environment{"D": "from outside"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"A": "2", "B": "x=y", "C": "", "D": "from outside"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := parseArgs([]string{"=x"}, nil); err == nil {
		t.Error("an argument without a name was taken")
	}
}

func TestParseHosts(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a:10.0.0.1": "a 10.0.0.1", "a=10.0.0.1": "a 10.0.0.1", "a:::1": "a ::1", "a=::1": "a ::1", "a:[::1]": "a ::1", "a.b=[fe80::1]": "a.b fe80::1",
	} {
		got, err := parseHosts([]string{in})
		if err != nil {
			t.Errorf("%s: %v", in, err)
		} else if s := got[0].Name + " " + got[0].IP.String(); s != want {
			t.Errorf("%s is %s, want %s", in, s, want)
		}
	}
	for _, in := range []string{"", "a", "a:", ":10.0.0.1", "a:b", "a:10.0.0", "a:host-gateway"} {
		if got, err := parseHosts([]string{in}); err == nil {
			t.Errorf("%q was taken for %v", in, got)
		}
	}
}

func TestParseUlimits(t *testing.T) {
	t.Parallel()
	got, err := parseUlimits([]string{"nofile=1024:2048", "core=-1", "nproc=5"})
	if err != nil {
		t.Fatal(err)
	}
	want := []executor.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core", Soft: -1, Hard: -1}, {Name: "nproc", Soft: 5, Hard: 5}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, in := range []string{"nofile", "nofile=", "nofile=x", "nofile=2:1", "nofiles=1", "nofile=1:2:3"} {
		if _, err := parseUlimits([]string{in}); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

func TestParseShmSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{"": 0, "64m": 64 << 20, "1g": 1 << 30, "100": 100, "8K": 8 << 10, "1.5k": 1536} {
		if got, err := parseShmSize(in); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"x", "-1", "1q"} {
		if _, err := parseShmSize(in); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

func TestParseSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, []byte("in file"), 0o600); err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, maxSecret+1), 0o600); err != nil {
		t.Fatal(err)
	}
	env := environment{"KEY": "in env", "named": "by id"}
	for in, want := range map[string]string{
		"id=a,src=" + file: "in file", "id=a,source=" + file: "in file", "type=file,id=a,src=" + file: "in file",
		"id=a,env=KEY": "in env", "id=a,type=env,src=KEY": "in env", "id=named": "by id",
		`"id=a","src=` + file + `"`: "in file",
	} {
		got, err := readBoth(in, env)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		for _, v := range got {
			if string(v.Reveal()) != want {
				t.Errorf("%s is %q, want %q", in, v.Reveal(), want)
			}
		}
	}
	for _, in := range []string{
		"", "src=" + file, "id=a", "id=a,env=NONE", "id=a,src=" + file + ",env=KEY", "id=a,colour=red", "id=a,type=disk", "id=a,src=" + dir, "id=a,src=" + big, `"id=a`,
	} {
		if _, err := readBoth(in, env); err == nil {
			t.Errorf("%q was taken", in)
		} else if strings.Contains(err.Error(), "in env") || strings.Contains(err.Error(), "in file") {
			t.Errorf("%q: the error tells the secret: %v", in, err)
		}
	}
}

func readBoth(text string, env environment) (map[string]secret.Value, error) {
	sources, err := parseSecrets([]string{text}, env)
	if err != nil {
		return nil, err
	}
	return readSecrets(sources, env)
}

func TestParsePlatforms(t *testing.T) {
	t.Parallel()
	got, err := parsePlatforms([]string{"linux/arm64,linux/arm/v7", "linux/x86_64"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range got {
		names = append(names, strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/"))
	}
	if s := strings.Join(names, " "); s != "linux/arm64 linux/arm/v7 linux/amd64" {
		t.Errorf("got %s", s)
	}
	if _, err := parsePlatforms([]string{"a/b/c/d"}); err == nil {
		t.Error("a/b/c/d was taken")
	}
}

func TestParseContexts(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"x", "x=", "=y", "context=y"} {
		if _, err := parseContexts([]string{in}); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
	got, err := parseContexts([]string{"src=/tmp", "alpine=docker-image://busybox:1=2"})
	if err != nil || got["src"] != "/tmp" || got["alpine"] != "docker-image://busybox:1=2" {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestParseVolumes(t *testing.T) {
	t.Parallel()
	for in, readOnly := range map[string]bool{"/:/x": false, "/:/x:ro": true, "/:/x:rw": false, "/:/x:z": false, "/:/x:ro,Z": true, "/:/x/../y:z,ro": true} {
		got, err := parseVolumes([]string{in})
		if err != nil || got[0].ReadOnly != readOnly || got[0].Source != "/" || !strings.HasPrefix(got[0].Target, "/") {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "/", "/:x", ":/x", "/:/x:ro:z", "/:/x:rshared", "/no/such:/x"} {
		if got, err := parseVolumes([]string{in}); err == nil {
			t.Errorf("%q was taken for %v", in, got)
		}
	}
}

func TestReadEnvFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "env")
	for text, want := range map[string]string{"# comment\nA=1\n\n B \nC=": "A=1 B=b C=", "NONE\nD=x=y": "D=x=y", "=x": ""} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readEnvFile(file, environment{"B": "b"})
		if (err != nil) != (want == "") || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestAttestations(t *testing.T) {
	t.Parallel()
	for _, v := range []string{"", "false", "0", "f", "FALSE"} {
		if err := parseAttestation("provenance", v); err != nil {
			t.Errorf("%q: %v", v, err)
		}
	}
	for _, v := range []string{"true", "1", "mode=max", "mode=min", "x"} {
		if err := parseAttestation("provenance", v); err == nil {
			t.Errorf("%q was taken", v)
		}
	}
}
