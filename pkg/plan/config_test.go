package plan

import (
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

func config(t *testing.T, text string) dockerspec.DockerOCIImageConfig {
	t.Helper()
	return mustPlan(t, text).Target().Image.Config
}

func TestCmdAndEntrypoint(t *testing.T) {
	sh := func(s string) []string { return []string{"/bin/sh", "-c", s} }
	tests := []struct {
		name, text      string
		cmd, entrypoint []string
	}{
		{"inherited", "FROM base", []string{"base-cmd"}, []string{"base-entry"}},
		{"CMD keeps ENTRYPOINT", "FROM base\nCMD [\"x\"]", []string{"x"}, []string{"base-entry"}},
		{"ENTRYPOINT drops inherited CMD", "FROM base\nENTRYPOINT [\"x\"]", nil, []string{"x"}},
		{"ENTRYPOINT keeps own CMD", "FROM base\nCMD y\nENTRYPOINT x", sh("y"), sh("x")},
		{"CMD of the parent stage is inherited", "FROM base AS a\nCMD y\nFROM a\nENTRYPOINT [\"x\"]", nil, []string{"x"}},
		{"empty", "FROM base\nENTRYPOINT []\nCMD []", []string{}, nil},
		{"no variables", "FROM base\nCMD [\"$B\"]\nENTRYPOINT $B", []string{"$B"}, sh("$B")},
		{"shell of the time", "FROM base\nCMD y\nSHELL [\"s\"]\nENTRYPOINT x", sh("y"), []string{"s", "x"}},
		{"not JSON", "FROM base\nCMD ['x']", sh("['x']"), []string{"base-entry"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(t, tt.text)
			equal(t, "cmd", cfg.Cmd, tt.cmd)
			equal(t, "entrypoint", cfg.Entrypoint, tt.entrypoint)
		})
	}
}

func TestHealthcheck(t *testing.T) {
	equal(t, "all", config(t, `FROM scratch
HEALTHCHECK --interval=1m --timeout=2s --start-period=3s --start-interval=4ms --retries=5 CMD curl x
`).Healthcheck, &dockerspec.HealthcheckConfig{Test: []string{"CMD-SHELL", "curl x"}, Interval: time.Minute, Timeout: 2 * time.Second,
		StartPeriod: 3 * time.Second, StartInterval: 4 * time.Millisecond, Retries: 5})
	equal(t, "none", config(t, "FROM scratch\nHEALTHCHECK NONE").Healthcheck, &dockerspec.HealthcheckConfig{Test: []string{"NONE"}})
	equal(t, "zero", config(t, "FROM scratch\nHEALTHCHECK --interval=0s CMD [\"a\"]").Healthcheck, &dockerspec.HealthcheckConfig{Test: []string{"CMD", "a"}})
	for text, want := range map[string]string{
		"--interval=1us CMD x":   "cannot be less than 1ms",
		"--timeout=x CMD x":      "invalid duration",
		"--retries=-1 CMD x":     "cannot be negative",
		"--retries=x CMD x":      "invalid syntax",
		"CMD":                    "Missing command",
		"NONE x":                 "takes no arguments",
		"PING x":                 "Unknown type",
		"--interval CMD x":       "missing a value",
		"--start-perod=1s CMD x": "did you mean start-period?",
	} {
		_, err := newPlan("FROM scratch\nHEALTHCHECK " + text + "\n")
		wantError(t, err, want, 2)
	}
}

func TestExpose(t *testing.T) {
	for words, want := range map[string][]string{
		"80":              {"80/tcp"},
		"80/udp 80":       {"80/tcp", "80/udp"},
		"8000-8002/UDP":   {"8000/udp", "8001/udp", "8002/udp"},
		"7/sctp":          {"7/sctp"},
		"$p ${r}1":        {"80/tcp", "81/udp", "71/tcp"},
		"127.0.0.1:80:81": {"81/tcp"},
		"[::1]:80:81/udp": {"81/udp"},
		"8080-8081:90-91": {"90/tcp", "91/tcp"},
		"8080-8081:90":    {"90/tcp"},
		"0 65535":         {"0/tcp", "65535/tcp"},
	} {
		ports := map[string]struct{}{}
		for _, w := range want {
			ports[w] = struct{}{}
		}
		equal(t, words, config(t, "FROM scratch\nENV p=\"80 81/udp\" r=7\nEXPOSE "+words+"\n").ExposedPorts, ports)
	}
	equal(t, "history is sorted as words", ownHistory(mustPlan(t, "FROM scratch\nEXPOSE 90 100/udp 80").Target()), []string{"EXPOSE [100/udp 80/tcp 90/tcp]"})
	for words, want := range map[string]string{
		"x": "invalid containerPort: x", "65536": "invalid containerPort", "-1": "invalid containerPort", "3-2": "invalid containerPort",
		"80/icmp": "invalid proto: icmp", "/tcp": "no port specified", "x:80": "invalid hostPort: x", "1.2.3:1:2": "invalid IP address: 1.2.3",
		"1-2:3-5": "invalid ranges", "1-": "invalid containerPort",
	} {
		_, err := newPlan("FROM scratch\nEXPOSE " + words + "\n")
		wantError(t, err, want, 2)
	}
}

func TestWorkdir(t *testing.T) {
	tests := []struct {
		text, want string
		layers     int
	}{
		{"FROM scratch\nWORKDIR a", "/a", 1},
		{"FROM scratch\nWORKDIR /a\nWORKDIR b\nWORKDIR ../c/", "/a/c", 3},
		{"FROM scratch\nWORKDIR /", "/", 0},
		{"FROM base\nWORKDIR ../..", "/", 0},
		{"FROM base\nWORKDIR x", "/base/dir/x", 1},
		{"FROM base\nWORKDIR .", "/base/dir", 1},
		{"FROM scratch\nWORKDIR \"/a b\"", "/a b", 1},
		{"FROM alpine\nWORKDIR x", "/x", 1},
	}
	for _, tt := range tests {
		s := mustPlan(t, tt.text).Target()
		if s.Image.Config.WorkingDir != tt.want || len(s.Steps) != tt.layers {
			t.Errorf("%q: got %s and %d layers", tt.text, s.Image.Config.WorkingDir, len(s.Steps))
		}
	}
	s := mustPlan(t, "FROM scratch\nUSER u:g\nWORKDIR /x").Target()
	equal(t, "owner", *s.Steps[0].Workdir, Workdir{Path: "/x", User: "u:g"})
}

func TestOtherMetadata(t *testing.T) {
	cfg := config(t, "FROM base\nVOLUME [\"/a\", \"b\"]\nVOLUME /c /d\nSTOPSIGNAL RTMIN+3\nSHELL [\"a\", \"b\"]\nLABEL base=new x='y z'\nLABEL old style\nUSER 0\n")
	equal(t, "volumes", cfg.Volumes, map[string]struct{}{"/a": {}, "b": {}, "/c": {}, "/d": {}})
	equal(t, "signal", cfg.StopSignal, "RTMIN+3")
	equal(t, "shell", cfg.Shell, []string{"a", "b"})
	equal(t, "labels", cfg.Labels, map[string]string{"base": "new", "x": "y z", "old": "style"})
	equal(t, "user", cfg.User, "0")
	equal(t, "author", mustPlan(t, "FROM scratch\nMAINTAINER me <m@e>").Target().Image.Author, "me <m@e>")
	equal(t, "labels of the options", mustPlan(t, "FROM scratch\nLABEL a=1 b=1", func(o *Options) { o.Labels = map[string]string{"b": "2"} }).
		Target().Image.Config.Labels, map[string]string{"a": "1", "b": "2"})
	for text, want := range map[string]string{
		"STOPSIGNAL NOPE": "invalid signal: NOPE", "VOLUME $none": "can not be an empty string", "SHELL sh -c": "to be in JSON form",
		"VOLUME": "at least one argument", "USER": "exactly one argument", "ENV": "", "LABEL": "",
	} {
		_, err := newPlan("FROM scratch\n" + text + "\n")
		wantError(t, err, want, 2)
	}
}
