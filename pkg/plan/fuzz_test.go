package plan

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// within fails when planning takes so long that a hostile Dockerfile could hold up a builder.
func within(t *testing.T, limit time.Duration, do func()) {
	start := time.Now()
	do()
	if d := time.Since(start); d > limit {
		t.Errorf("took %v", d)
	}
}

// FuzzPlan: no Dockerfile may make planning panic, and what is planned is consistent.
func FuzzPlan(f *testing.F) {
	for _, s := range []string{
		"FROM base\nARG a=1\nENV b=$a c=${b:-x}\nRUN --mount=type=cache,target=/c,id=$a x\nCOPY --from=0 a b\n",
		"FROM alpine AS a\nONBUILD RUN <<E\nx\nE\nFROM a\nADD --checksum=sha256:x https://h/x <<F /\nF\n",
		"# escape=`\nARG v\nFROM --platform=$v scratch\nEXPOSE 1-9/udp\nWORKDIR a\nHEALTHCHECK --retries=3 CMD x\n",
		"FROM scratch AS a\nCOPY --from=b x y\nFROM a AS b\nVOLUME [\"x\"]\nSTOPSIGNAL 9\nSHELL [\"a\"]\nCMD a\nENTRYPOINT b\n",
		"# check=error=true;skip=all\nFROM scratch as b\nMAINTAINER x\nUSER a:b\nLABEL a b\nRUN --network=none --security=sandbox x\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		within(t, 10*time.Second, func() {
			p, err := newPlan(text, func(o *Options) { o.AllStages = true })
			if err == nil {
				checkPlan(t, p)
			}
		})
	})
}

func checkPlan(t *testing.T, p *Plan) {
	for _, s := range p.Stages {
		own := s.Image.History[len(s.Image.History)-len(s.HistoryStep):]
		layers := 0
		for i, step := range s.HistoryStep {
			if own[i].EmptyLayer != (step < 0) {
				t.Errorf("history %d of stage %s: %+v from step %d", i, s.Name, own[i], step)
			}
			if step >= 0 {
				if step != layers {
					t.Errorf("step %d where %d is due", step, layers)
				}
				layers++
			}
		}
		if layers != len(s.Steps) {
			t.Errorf("%d layers in history, %d steps", layers, len(s.Steps))
		}
		for _, step := range s.Steps {
			switch {
			case step.Run != nil:
				for _, m := range step.Run.Mounts {
					if m.Target != "" && !strings.HasPrefix(m.Target, "/") || m.Target == "/" {
						t.Errorf("mount at %q", m.Target)
					}
				}
			case step.Copy != nil:
				if !strings.HasPrefix(step.Copy.Dest, "/") {
					t.Errorf("copy to %q", step.Copy.Dest)
				}
			case !strings.HasPrefix(step.Workdir.Path, "/"):
				t.Errorf("directory %q", step.Workdir.Path)
			}
		}
	}
}

// FuzzExpand: no expression may panic, and one that is only text comes out as it went in.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{"$v", "${v:-${u:+x}}", "${v%%*}", "${v//a/$v}", "'$v'", `"\$v"`, "${v#[!a]}", "${", "$$", "$1", "${v:?}", "<<EOF"} {
		f.Add(s, "value", false)
		f.Add(s, "a/b*c", true)
	}
	f.Fuzz(func(t *testing.T, word, value string, backtick bool) {
		// What is no UTF-8 is replaced by BuildKit's lexer; lines are not the matter here.
		if strings.ContainsAny(word, "\n\r\x00") || !utf8.ValidString(word) {
			return
		}
		head := ""
		if backtick {
			head = "# escape=`\n"
		}
		within(t, 10*time.Second, func() {
			p, err := newPlan(head+"FROM scratch\nUSER "+word+"\n", args("unused", value))
			if err != nil {
				return
			}
			plain := strings.TrimSpace(word)
			if !strings.ContainsAny(plain, "\\`$\"'<") && p.Target().Image.Config.User != plain {
				t.Errorf("%q became %q", plain, p.Target().Image.Config.User)
			}
			_, _ = newPlan(head+"FROM scratch\nARG v\nUSER x"+word+"\nEXPOSE "+word+"\n", args("v", value))
		})
	})
}

// FuzzMount: no --mount may panic, or mount at the root or at a relative path.
func FuzzMount(f *testing.F) {
	for _, s := range []string{
		"type=bind,from=a,source=b,target=c,rw", "type=cache,id=$v,sharing=locked,uid=1,gid=1,mode=0700,target=/x", "type=tmpfs,size=1g,target=/..",
		"type=secret,id=a,env=B,required", "type=ssh,id=a,target=../x", `"type=bind,target=/x"`, "target=,source=", "type=cache,target=\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, flag string) {
		if strings.ContainsAny(flag, "\n\r") {
			return
		}
		p, err := newPlan("FROM base AS a\nARG v=1\nRUN --mount=" + flag + " x\n")
		if err == nil {
			checkPlan(t, p)
		}
	})
}
