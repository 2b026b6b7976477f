package plan

import (
	"context"
	"strings"
	"testing"
)

// runEnv plans the text and returns the environment of its first RUN without PATH.
func runEnv(t *testing.T, text string, change ...func(*Options)) []string {
	t.Helper()
	for _, st := range mustPlan(t, text, change...).Target().Steps {
		if st.Run != nil {
			var out []string
			for _, kv := range st.Run.Env {
				if !isPath(kv) {
					out = append(out, kv)
				}
			}
			return out
		}
	}
	t.Fatal("no RUN")
	return nil
}

func TestArg(t *testing.T) {
	tests := []struct {
		name, text string
		args       []string
		want       []string
	}{
		{"default", "FROM scratch\nARG a=1\nRUN x", nil, []string{"a=1"}},
		{"given", "FROM scratch\nARG a=1\nRUN x", []string{"a", "2"}, []string{"a=2"}},
		{"given empty", "FROM scratch\nARG a=1\nRUN x", []string{"a", ""}, []string{"a="}},
		{"no value", "FROM scratch\nARG a\nRUN x", nil, nil},
		{"undeclared", "FROM scratch\nRUN x", []string{"a", "2"}, nil},
		{"declared later", "FROM scratch\nRUN x\nARG a=1", []string{"a", "2"}, nil},
		{"several", "FROM scratch\nARG a=1 b=$a c\nRUN x", nil, []string{"a=1", "b=1"}},
		{"global is not in scope", "ARG a=1\nFROM scratch\nRUN x", nil, nil},
		{"global", "ARG a=1\nFROM scratch\nARG a\nRUN x", nil, []string{"a=1"}},
		{"global, other default", "ARG a=1\nFROM scratch\nARG a=2\nRUN x", nil, []string{"a=2"}},
		{"global of globals", "ARG a=1\nARG b=${a}2\nFROM scratch\nARG b\nRUN x", nil, []string{"b=12"}},
		{"global given", "ARG a=1\nARG b=${a}2\nFROM scratch\nARG b\nRUN x", []string{"a", "x"}, []string{"b=x2"}},
		{"inherited", "FROM scratch AS a\nARG v=1\nFROM a\nRUN x", nil, []string{"v=1"}},
		{"ENV after ARG", "FROM scratch\nARG a=1\nENV a=2\nRUN x", []string{"a", "3"}, []string{"a=2"}},
		{"ARG after ENV", "FROM scratch\nENV a=2\nARG a=1\nRUN x", nil, []string{"a=1"}},
		{"order is that of setting", "FROM base\nARG a=1\nENV b=1\nARG a=2\nRUN x", nil, []string{"B=base", "b=1", "a=2"}},
		{"scanner's arguments are no variables", "FROM scratch\nARG BUILDKIT_SBOM_SCAN_STAGE=1\nRUN x", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			equal(t, "env", runEnv(t, tt.text, args(tt.args...)), tt.want)
		})
	}
}

// TestEnvironmentOfChild: a child's configured variables come after the arguments it inherits, as in BuildKit.
func TestEnvironmentOfChild(t *testing.T) {
	equal(t, "env", runEnv(t, "FROM base AS a\nENV e=1\nARG v=1\nFROM a\nRUN x"), []string{"v=1", "B=base", "e=1"})
}

func TestEnv(t *testing.T) {
	t.Run("a line uses the values before it", func(t *testing.T) {
		equal(t, "env", runEnv(t, "FROM scratch\nENV a=1\nENV a=2 b=$a\nRUN x"), []string{"a=2", "b=1"})
	})
	t.Run("legacy", func(t *testing.T) {
		equal(t, "env", runEnv(t, "FROM scratch\nENV a one  two\nRUN x"), []string{"a=one  two"})
	})
	t.Run("config keeps the place of a variable", func(t *testing.T) {
		p := mustPlan(t, "FROM base\nENV B=new C=1")
		equal(t, "config", p.Target().Image.Config.Env, []string{"PATH=/base/bin", "B=new", "C=1"})
	})
	t.Run("arguments are not in the config", func(t *testing.T) {
		p := mustPlan(t, "FROM base\nARG a=1\nENV b=$a")
		equal(t, "config", p.Target().Image.Config.Env, []string{"PATH=/base/bin", "B=base", "b=1"})
	})
}

func TestExpansion(t *testing.T) {
	for expr, want := range map[string]string{
		"$v": "val", "${v}": "val", "${v:-d}": "val", "${u:-d}": "d", "${e:-d}": "d", "${e-d}": "", "${u-d}": "d",
		"${v:+d}": "d", "${e:+d}": "", "${e+d}": "d", "${u+d}": "", "${v:?x}": "val", "${v?x}": "val",
		"${p#*.}": "b.c", "${p##*.}": "c", "${p%.*}": "a.b", "${p%%.*}": "a", "${p/./-}": "a-b.c", "${p//./-}": "a-b-c",
		`\$v`: "$v", `'$v'`: "$v", `"$v"`: "val", "${u}": "", "${u:-$v}": "val", "$u$v": "val", "${v}s": "vals",
	} {
		text := "FROM scratch\nENV v=val e= p=a.b.c\nENV out=" + expr + "\n"
		env := mustPlan(t, text).Target().Image.Config.Env
		if got := env[len(env)-1]; got != "out="+want {
			t.Errorf("%s: got %s, want %s", expr, got, want)
		}
	}
	for _, bad := range []string{"${v", "${u:?unset}", "${u?unset}", "${v!x}", "'"} {
		_, err := newPlan("FROM scratch\nENV v=val\nUSER " + bad + "\n")
		wantError(t, err, "", 3)
	}
}

// TestExpandedInstructions: where variables count, and with which escape.
func TestExpandedInstructions(t *testing.T) {
	p := mustPlan(t, `FROM scratch
ENV v=val n=8
ADD --chown=$n --chmod=${n/8/644} ${v}1 /$v
COPY --chown=$n --chmod=0${n/8/7} ${v}1 /$v
EXPOSE ${n}0
LABEL $v=$v
STOPSIGNAL $n
USER $v
VOLUME /$v
WORKDIR /$v
RUN --mount=type=cache,id=$v,target=/$v $v
`)
	s := p.Target()
	cfg := s.Image.Config
	equal(t, "add", []string{s.Steps[0].Copy.Sources[0], s.Steps[0].Copy.Dest, s.Steps[0].Copy.Chown, s.Steps[0].Copy.Chmod},
		[]string{"val1", "/val", "8", "644"})
	equal(t, "copy", []string{s.Steps[1].Copy.Sources[0], s.Steps[1].Copy.Dest, s.Steps[1].Copy.Chmod}, []string{"val1", "/val", "07"})
	equal(t, "config", []any{cfg.ExposedPorts, cfg.Labels, cfg.StopSignal, cfg.User, cfg.Volumes, cfg.WorkingDir}, []any{
		map[string]struct{}{"80/tcp": {}}, map[string]string{"val": "val"}, "8", "val", map[string]struct{}{"/val": {}}, "/val",
	})
	run := s.Steps[3].Run
	equal(t, "run", []string{run.Args[2], run.Mounts[0].CacheID, run.Mounts[0].Target}, []string{"$v", "val", "/val"})

	p = mustPlan(t, "# escape=`\nFROM scratch\nENV v=C:\\x w=`$v\nUSER `$v\n")
	equal(t, "user", p.Target().Image.Config.User, "$v")
	equal(t, "env", p.Target().Image.Config.Env[1:], []string{`v=C:\x`, "w=$v"})
}

func TestPlatformArgs(t *testing.T) {
	const all = `FROM scratch AS st
ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT TARGETOSVERSION TARGETSTAGE
ARG BUILDPLATFORM BUILDOS BUILDARCH BUILDVARIANT BUILDOSVERSION
RUN x
`
	equal(t, "arm", runEnv(t, all, platform("linux/arm/v7")), []string{
		"TARGETPLATFORM=linux/arm/v7", "TARGETOS=linux", "TARGETARCH=arm", "TARGETVARIANT=v7", "TARGETOSVERSION=", "TARGETSTAGE=st",
		"BUILDPLATFORM=linux/amd64", "BUILDOS=linux", "BUILDARCH=amd64", "BUILDVARIANT=", "BUILDOSVERSION=",
	})
	equal(t, "overridden", runEnv(t, "FROM scratch\nARG TARGETARCH\nARG TARGETSTAGE\nRUN x", args("TARGETARCH", "mine")),
		[]string{"TARGETARCH=mine", "TARGETSTAGE=default"})
	equal(t, "in FROM", mustPlan(t, "FROM $TARGETOS-$TARGETARCH", namedContext("linux-amd64", "dir")).Target().Base.Context.URL, "dir")
}

// TestProxyArgs: known without being declared, and then neither in history nor among what the cache key is made of.
func TestProxyArgs(t *testing.T) {
	proxies := args("HTTP_PROXY", "h", "https_proxy", "s", "No_Proxy", "n", "all_proxy", "a", "FTP_PROXY", "")
	s := mustPlan(t, "FROM scratch\nRUN x", proxies).Target()
	equal(t, "hidden", s.Steps[0].Run.HiddenEnv, []string{
		"HTTP_PROXY=h", "http_proxy=h", "HTTPS_PROXY=s", "https_proxy=s", "NO_PROXY=n", "no_proxy=n", "ALL_PROXY=a", "all_proxy=a",
	})
	equal(t, "history", ownHistory(s), []string{"RUN /bin/sh -c x # buildkit"})
	s = mustPlan(t, "FROM scratch\nARG HTTP_PROXY\nRUN x", proxies).Target()
	equal(t, "history", ownHistory(s), []string{"ARG HTTP_PROXY=h", "RUN |1 HTTP_PROXY=h /bin/sh -c x # buildkit"})
	equal(t, "env", runEnv(t, "FROM scratch\nARG HTTP_PROXY\nRUN x", proxies), []string{"HTTP_PROXY=h"})
}

func TestUnusedArgs(t *testing.T) {
	p := mustPlan(t, "ARG g\nFROM scratch AS a\nARG s\nFROM scratch\n", args("g", "1", "s", "1", "z", "1", "b", "1", "http_proxy", "1",
		"NO_PROXY", "1", "BUILDKIT_INLINE_CACHE", "1", "SOURCE_DATE_EPOCH", "1", "TARGETARCH", "x"))
	equal(t, "unused", p.UnusedArgs, []string{"b", "z"})
}

func TestEpoch(t *testing.T) {
	seven := int64(7)
	asked := EpochSource{}
	answer := func(o *Options) {
		o.EpochOf = func(_ context.Context, src EpochSource) (*int64, error) { asked = src; return &seven, nil }
	}
	tests := []struct {
		name, text string
		change     []func(*Options)
		want       *int64
	}{
		{"none", "FROM scratch", nil, nil},
		{"options", "FROM scratch", []func(*Options){func(o *Options) { o.Epoch = &seven }}, &seven},
		{"argument", "FROM scratch", []func(*Options){args("SOURCE_DATE_EPOCH", "7")}, &seven},
		{"argument before options", "FROM scratch", []func(*Options){args("SOURCE_DATE_EPOCH", "7"), func(o *Options) { o.Epoch = new(int64) }}, &seven},
		{"ARG", "ARG SOURCE_DATE_EPOCH=7\nFROM scratch", nil, &seven},
		{"ARG unset again", "ARG SOURCE_DATE_EPOCH=7\nFROM scratch", []func(*Options){args("SOURCE_DATE_EPOCH", "")}, nil},
		{"context", "FROM scratch", []func(*Options){answer, args("SOURCE_DATE_EPOCH", "context")}, &seven},
		{"named context", "FROM scratch", []func(*Options){answer, args("SOURCE_DATE_EPOCH", "src"), namedContext("src", "https://x/y")}, &seven},
		{"stage", "FROM scratch AS src\nARG v=1\nADD https://x/$v /\nFROM scratch", []func(*Options){answer, args("SOURCE_DATE_EPOCH", "src")}, &seven},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			asked = EpochSource{}
			equal(t, "epoch", mustPlan(t, tt.text, tt.change...).Epoch, tt.want)
			switch tt.name {
			case "stage":
				equal(t, "source", asked, EpochSource{Remote: &Remote{URL: "https://x/1"}})
			case "named context":
				equal(t, "source", asked, EpochSource{Context: &Context{Name: "src", URL: "https://x/y"}})
			}
		})
	}
	equal(t, "value of ARG", runEnv(t, "FROM scratch\nARG SOURCE_DATE_EPOCH\nRUN x", answer, args("SOURCE_DATE_EPOCH", "context")),
		[]string{"SOURCE_DATE_EPOCH=7"})
	for text, want := range map[string]string{
		"FROM scratch":                                                   "invalid SOURCE_DATE_EPOCH: src",
		"FROM alpine AS src\nADD https://x/ /":                           "must use FROM scratch",
		"FROM scratch AS src\nRUN x":                                     "unsupported RUN instruction",
		"FROM scratch AS src":                                            "exactly one remote ADD",
		"FROM scratch AS src\nADD a /":                                   "single HTTP(S) or Git ADD",
		"FROM scratch AS src\nADD https://a/b /\nADD https://a/b /":      "exactly one remote ADD",
		"FROM scratch AS src\nADD https://a/b https://a/c /\nADD b c /x": "exactly one remote ADD",
	} {
		_, err := newPlan(text, answer, args("SOURCE_DATE_EPOCH", "src"))
		wantError(t, err, want, 0)
	}
	_, err := newPlan("FROM scratch", args("SOURCE_DATE_EPOCH", "context"))
	wantError(t, err, "cannot be asked for", 0)
}

// TestGrowth: variables that double with every line end in an error, not in all of the memory.
func TestGrowth(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for name, text := range map[string]string{
		"ENV":     "FROM scratch\nENV a=" + long + strings.Repeat("\nENV a=$a$a", 60),
		"ARG":     "FROM scratch\nARG a=" + long + strings.Repeat("\nARG a=$a$a", 60),
		"global":  "ARG a=" + long + strings.Repeat("\nARG a=$a$a", 60) + "\nFROM scratch",
		"heredoc": "FROM scratch\nARG a=" + long + strings.Repeat("\nARG a=$a$a", 9) + "\nCOPY <<E /\n" + strings.Repeat("$a", 10000) + "\nE\n",
		"RUN":     "FROM scratch\nENV a=" + long + strings.Repeat("\nENV a=$a$a", 10) + strings.Repeat("\nRUN x", 1000),
		"history": "FROM scratch\nARG a=" + long + strings.Repeat("\nARG a=$a$a", 10) + strings.Repeat("\nRUN x", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newPlan(text)
			wantError(t, err, "more than 16 MiB", 0)
		})
	}
}
