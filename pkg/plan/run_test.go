package plan

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

func firstRun(t *testing.T, text string, change ...func(*Options)) *Run {
	t.Helper()
	for _, st := range mustPlan(t, text, change...).Target().Steps {
		if st.Run != nil {
			return st.Run
		}
	}
	t.Fatal("no RUN")
	return nil
}

func TestRunForms(t *testing.T) {
	tests := []struct {
		name, text string
		want       []string
	}{
		{"shell", "RUN echo  $x", []string{"/bin/sh", "-c", "echo  $x"}},
		{"exec", `RUN ["echo", "$x"]`, []string{"echo", "$x"}},
		{"continued", "RUN a && \\\n  # comment\n  b", []string{"/bin/sh", "-c", "a &&   b"}},
		{"other shell", "SHELL [\"/bin/bash\", \"-ec\"]\nRUN x", []string{"/bin/bash", "-ec", "x"}},
		{"heredoc", "RUN <<EOF\necho $x\nEOF", []string{"/bin/sh", "-c", "echo $x\n"}},
		{"quoted heredoc", "RUN <<'E O F'\necho $x\nE O F", []string{"/bin/sh", "-c", "echo $x\n"}},
		{"chomped heredoc", "RUN <<-EOF\n\t\techo\n\tEOF", []string{"/bin/sh", "-c", "echo\n"}},
		{"heredoc for a command", "RUN <<EOF bash\necho\nEOF", []string{"/bin/sh", "-c", "<<EOF bash\necho\nEOF"}},
		{"heredoc of a command", "RUN cat <<EOF > /f\nx\nEOF", []string{"/bin/sh", "-c", "cat <<EOF > /f\nx\nEOF"}},
		{"several heredocs", "RUN cat <<A <<B\na\nA\nb\nB", []string{"/bin/sh", "-c", "cat <<A <<B\na\nA\nb\nB"}},
		{"descriptor", "RUN cat 3<<A /dev/fd/3\na\nA", []string{"/bin/sh", "-c", "cat 3<<A /dev/fd/3\na\nA"}},
		{"shebang", "RUN <<EOF\n#!/usr/bin/python3\nx\nEOF", []string{"/bin/sh", "-c", "/dev/pipes/EOF"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := firstRun(t, "FROM scratch\n"+tt.text+"\n")
			equal(t, "args", r.Args, tt.want)
			if tt.name != "shebang" && len(r.Mounts) != 0 {
				t.Errorf("mounts %v", r.Mounts)
			}
		})
	}
}

func TestRunScript(t *testing.T) {
	r := firstRun(t, "FROM scratch\nRUN --mount=type=tmpfs,target=/t <<-SCRIPT\n\t#!/bin/x\n\ty\nSCRIPT\n")
	mode := uint64(0o755)
	equal(t, "mounts", r.Mounts, []Mount{
		{Type: "inline", Target: "/dev/pipes/SCRIPT", ReadOnly: true, Mode: &mode, Inline: []byte("#!/bin/x\ny\n")},
		{Type: "tmpfs", Target: "/t"},
	})
}

func TestRunState(t *testing.T) {
	r := firstRun(t, "FROM base\nUSER 1:2\nWORKDIR sub\nRUN x\n")
	equal(t, "state", []string{r.User, r.Dir}, []string{"1:2", "/base/dir/sub"})
	equal(t, "env", r.Env, []string{"PATH=/base/bin", "B=base"})
}

func TestRunNetworkAndSecurity(t *testing.T) {
	allow := func(o *Options) { o.AllowHostNetwork, o.AllowInsecure = true, true }
	network := func(mode string) func(*Options) { return func(o *Options) { o.Network = mode } }
	tests := []struct {
		flags             string
		change            []func(*Options)
		network, security string
	}{
		{"", nil, "", ""},
		{"--network=default --security=sandbox", nil, "", ""},
		{"--network=none", nil, "none", ""},
		{"--network=host", []func(*Options){allow}, "host", ""},
		{"--security=insecure", []func(*Options){allow}, "", "insecure"},
		{"", []func(*Options){network("none")}, "none", ""},
		{"--network=default", []func(*Options){network("none")}, "none", ""},
		{"--network=none", []func(*Options){allow, network("host")}, "none", ""},
		{"", []func(*Options){allow, network("host")}, "host", ""},
		{"", []func(*Options){network("default")}, "", ""},
	}
	for _, tt := range tests {
		r := firstRun(t, "FROM scratch\nRUN "+tt.flags+" x\n", tt.change...)
		equal(t, tt.flags, []string{r.Network, r.Security}, []string{tt.network, tt.security})
	}
	for flags, want := range map[string]string{
		"--network=host":                "network.host is not allowed (hint: grant it with --allow network.host)",
		"--security=insecure":           "security.insecure is not allowed",
		"--network=bridge":              `invalid network mode "bridge"`,
		"--security=x":                  `security "x" is not valid`,
		"--device=vendor/d=1":           "RUN --device is not supported",
		"--netwrok=none":                "did you mean network?",
		"--network=none --network=host": "duplicate flag",
	} {
		_, err := newPlan("FROM scratch\nRUN " + flags + " x\n")
		wantError(t, err, want, 2)
	}
	_, err := newPlan("FROM scratch\nRUN x\n", network("host"))
	wantError(t, err, "network.host is not allowed", 2)
	_, err = newPlan("FROM scratch\n", network("bridge"))
	wantError(t, err, "invalid network mode", 0)
}

func TestMounts(t *testing.T) {
	num := func(n uint64) *uint64 { return &n }
	main := Source{Context: &Context{}}
	tests := []struct {
		flag string
		want Mount
	}{
		{"target=/t", Mount{Type: "bind", Target: "/t", From: main, Source: "/", ReadOnly: true}},
		{"type=bind,dst=/t,src=a/../b,rw", Mount{Type: "bind", Target: "/t", From: main, Source: "/b"}},
		{"type=bind,destination=/t,source=/a,readonly=false", Mount{Type: "bind", Target: "/t", From: main, Source: "/a"}},
		{"type=bind,target=/t,source=../../a,ro", Mount{Type: "bind", Target: "/t", From: main, Source: "/a", ReadOnly: true}},
		{"type=bind,from=st,target=t", Mount{Type: "bind", Target: "/base/dir/t", Source: "/", ReadOnly: true}},
		{"type=BIND,target=/t/../u/", Mount{Type: "bind", Target: "/u", From: main, Source: "/", ReadOnly: true}},
		{"type=cache,target=/c", Mount{Type: "cache", Target: "/c", Source: "/", CacheID: "/c", Sharing: "shared"}},
		{"type=cache,target=c/", Mount{Type: "cache", Target: "/base/dir/c", Source: "/", CacheID: "c", Sharing: "shared"}},
		{"type=cache,id=my,target=/c,sharing=LOCKED,ro", Mount{Type: "cache", Target: "/c", Source: "/", CacheID: "my", Sharing: "locked", ReadOnly: true}},
		{"type=cache,target=/c,sharing=private,mode=0700,uid=1,gid=2,source=/s",
			Mount{Type: "cache", Target: "/c", Source: "/s", CacheID: "/c", Sharing: "private", Mode: num(0o700), UID: num(1), GID: num(2)}},
		{"type=tmpfs,target=/t", Mount{Type: "tmpfs", Target: "/t"}},
		{"type=tmpfs,target=/t,size=64m", Mount{Type: "tmpfs", Target: "/t", Size: 64 << 20}},
		{"type=secret,id=s", Mount{Type: "secret", ID: "s", Target: "/run/secrets/s", ReadOnly: true, Mode: num(0o400), UID: num(0), GID: num(0)}},
		{"type=secret,id=a/s,required", Mount{Type: "secret", ID: "a/s", Target: "/run/secrets/s", Required: true, ReadOnly: true, Mode: num(0o400),
			UID: num(0), GID: num(0)}},
		{"type=secret,target=/x/s,mode=0444,uid=5,gid=6", Mount{Type: "secret", ID: "s", Target: "/x/s", ReadOnly: true, Mode: num(0o444),
			UID: num(5), GID: num(6)}},
		{"type=secret,source=s,target=rel", Mount{Type: "secret", ID: "s", Target: "/rel", ReadOnly: true, Mode: num(0o400), UID: num(0), GID: num(0)}},
		{"type=secret,id=s,env=E", Mount{Type: "secret", ID: "s", Env: "E", ReadOnly: true, Mode: num(0o400), UID: num(0), GID: num(0)}},
		{"type=secret,id=s,env=E,target=/f", Mount{Type: "secret", ID: "s", Env: "E", Target: "/f", ReadOnly: true, Mode: num(0o400),
			UID: num(0), GID: num(0)}},
		{"type=ssh", Mount{Type: "ssh", ID: "default", Target: "/run/buildkit/ssh_agent.0", ReadOnly: true, Mode: num(0o600), UID: num(0), GID: num(0)}},
		{"type=ssh,id=k,target=/s,required=true,mode=0666", Mount{Type: "ssh", ID: "k", Target: "/s", Required: true, ReadOnly: true,
			Mode: num(0o666), UID: num(0), GID: num(0)}},
		{`type=bind,\"target=/t,x\"`, Mount{Type: "bind", Target: "/t,x", From: main, Source: "/", ReadOnly: true}},
		{"type=${kind:-tmpfs},target=/$dir", Mount{Type: "tmpfs", Target: "/d"}},
	}
	for _, tt := range tests {
		t.Run(tt.flag, func(t *testing.T) {
			p := mustPlan(t, "FROM scratch AS st\nFROM base\nARG dir=d\nRUN --mount="+tt.flag+" x\n")
			s := p.Target()
			if tt.want.Source != "" && tt.want.From.IsScratch() && tt.want.Type == "bind" {
				tt.want.From = Source{Stage: p.Stages[0]}
			}
			equal(t, "mounts", s.Steps[0].Run.Mounts, []Mount{tt.want})
		})
	}
}

func TestMountErrors(t *testing.T) {
	for flag, want := range map[string]string{
		"type=bnid,target=/t":                    "did you mean bind?",
		"type=bind,tagret=/t":                    "did you mean target?",
		"type=bind,target":                       "must be a key=value pair",
		"target=/":                               `invalid mount target "/"`,
		"type=ssh,target=.":                      `invalid mount target "/"`,
		"type=secret,id=a,target=/":              `invalid mount target "/"`,
		"type=bind,target=/t,mode=0700":          "mode not allowed",
		"type=tmpfs,target=/t,uid=1":             "uid not allowed",
		"type=tmpfs,target=/t,size=big":          "invalid value for size",
		"type=bind,target=/t,size=1":             "unexpected key 'size'",
		"type=bind,target=/t,sharing=locked":     "invalid cache sharing",
		"type=cache,target=/t,sharing=lokced":    "did you mean locked?",
		"type=cache,target=/t,mode=9":            "invalid value 9 for mode",
		"type=cache,target=/t,uid=root":          "invalid value root for uid",
		"type=cache,target=/t,ro=perhaps":        "invalid value for ro",
		"type=cache,target=/t,required":          "unexpected key 'required'",
		"type=secret":                            "invalid secret mount",
		"type=secret,id=a,from=base":             "secret mount should not have a from",
		"type=secret,id=a,source=b":              "both source and id can't be set",
		"type=secret,id=a,env=":                  "empty env",
		"type=ssh,source=a":                      "ssh does not support source",
		"type=bind,from=$v,target=/t":            "doesn't support variable expansion",
		"type=bind,target=/t,source=${x:?unset}": "unset",
		`type=bind,\"x`:                          "csv",
	} {
		_, err := newPlan("FROM scratch\nRUN --mount=" + flag + " x\n")
		wantError(t, err, want, 2)
	}
}

func TestCacheNamespace(t *testing.T) {
	const text = "FROM scratch\nRUN --mount=type=cache,target=/c x\n"
	equal(t, "option", firstRun(t, text, func(o *Options) { o.CacheNamespace = "ns" }).Mounts[0].CacheID, "ns//c")
	equal(t, "argument", firstRun(t, text, args("BUILDKIT_CACHE_MOUNT_NS", "arg")).Mounts[0].CacheID, "arg//c")
}

// TestAgentSocketIsAnnounced: what is mounted for ssh is found through SSH_AUTH_SOCK, unless the file sets that itself.
func TestAgentSocketIsAnnounced(t *testing.T) {
	equal(t, "env", runEnv(t, "FROM scratch\nRUN --mount=type=ssh --mount=type=ssh,id=b x"), []string{"SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"})
	equal(t, "env", runEnv(t, "FROM scratch\nENV SSH_AUTH_SOCK=/mine\nRUN --mount=type=ssh x"), []string{"SSH_AUTH_SOCK=/mine"})
	p := mustPlan(t, "FROM scratch\nRUN --mount=type=ssh --mount=type=ssh,id=b x\nRUN y")
	equal(t, "second socket", p.Target().Steps[0].Run.Mounts[1].Target, "/run/buildkit/ssh_agent.1")
	if env := p.Target().Steps[1].Run.Env; len(env) != 1 {
		t.Errorf("the next RUN has %v", env)
	}
}

func TestStepNames(t *testing.T) {
	tests := []struct {
		name, text string
		change     []func(*Options)
		want       []string
	}{
		{"one stage", "FROM alpine\nCOPY . .\nENV v=1\nrun  echo $v '$v' \\$v $none\nWORKDIR /$v", nil,
			[]string{"[2/4] COPY . .", "[3/4] RUN  echo 1 '$v' \\$v $none", "[4/4] WORKDIR /1"}},
		{"scratch counts for nothing", "FROM scratch\nCOPY . .", nil, []string{"[1/1] COPY . ."}},
		{"named", "FROM scratch\nFROM alpine AS build\nRUN make", nil, []string{"[build 2/2] RUN make"}},
		{"the only one needs no name", "FROM alpine AS build\nRUN make", nil, []string{"[2/2] RUN make"}},
		{"among others", "FROM scratch\nFROM alpine\nRUN make", nil, []string{"[stage-1 2/2] RUN make"}},
		{"of a stage", "FROM alpine AS a\nFROM a\nRUN make", nil, []string{"[stage-1 1/1] RUN make"}},
		{"platform", "FROM alpine\nRUN make", []func(*Options){func(o *Options) { o.MultiPlatform = true }}, []string{"[linux/amd64 2/2] RUN make"}},
		{"cross", "FROM --platform=$BUILDPLATFORM alpine\nARG TARGETARCH\nRUN make",
			[]func(*Options){func(o *Options) { o.MultiPlatform = true }, platform("linux/arm64")}, []string{"[linux/amd64->arm64 2/2] RUN make"}},
		{"heredoc", "FROM scratch\nFROM scratch AS a\nRUN <<EOF\n\nfirst\nsecond\nEOF", nil, []string{"[a 1/1] RUN <<EOF (first...)"}},
		{"secret", "FROM scratch AS a\nARG v=1\nRUN --mount=type=secret,id=x,env=v $v", nil,
			[]string{"[a 1/1] RUN --mount=type=secret,id=x,env=v ****"}},
		{"ten", "FROM scratch\nFROM scratch AS a\n" + "RUN 1\nRUN 2\nRUN 3\nRUN 4\nRUN 5\nRUN 6\nRUN 7\nRUN 8\nRUN 9\nRUN 0", nil, []string{
			"[a  1/10] RUN 1", "[a  2/10] RUN 2", "[a  3/10] RUN 3", "[a  4/10] RUN 4", "[a  5/10] RUN 5", "[a  6/10] RUN 6", "[a  7/10] RUN 7",
			"[a  8/10] RUN 8", "[a  9/10] RUN 9", "[a 10/10] RUN 0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			equal(t, "names", steps(mustPlan(t, tt.text, tt.change...).Target()), tt.want)
		})
	}
}

func TestBaseNames(t *testing.T) {
	p := mustPlan(t, "FROM alpine AS a\nFROM a AS b\nRUN x\nFROM ctx AS c\nCOPY --from=b x y\n", namedContext("ctx", "some/dir"))
	want := []string{"[a 1/1] FROM docker.io/library/alpine:latest@" + digest.FromString("docker.io/library/alpine:latest").String(), "",
		"[c 1/2] FROM some/dir"}
	for i, s := range p.Stages {
		equal(t, "name", s.BaseName, want[i])
	}
}

func TestNoCache(t *testing.T) {
	const text = "FROM scratch AS a\nRUN x\nFROM a AS b\nRUN y\n"
	for _, tt := range []struct {
		change func(*Options)
		a, b   bool
	}{
		{func(*Options) {}, false, false},
		{func(o *Options) { o.NoCache = true }, true, true},
		{func(o *Options) { o.NoCacheStages = []string{"B"} }, false, true},
	} {
		p := mustPlan(t, text, tt.change)
		if a, b := p.Stages[0].Steps[0].IgnoreCache, p.Stages[1].Steps[0].IgnoreCache; a != tt.a || b != tt.b {
			t.Errorf("got %v %v, want %v %v", a, b, tt.a, tt.b)
		}
	}
}
