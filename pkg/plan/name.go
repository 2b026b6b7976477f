package plan

import (
	"fmt"
	"math"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// stepName is what progress calls the stage's next step: "[build 2/5] RUN make".
func (s *stage) stepName(text string) string {
	if s.stepsTotal == 0 {
		return text
	}
	var b strings.Builder
	b.WriteByte('[')
	if s.p.opts.MultiPlatform {
		b.WriteString(platforms.FormatAll(s.out.Platform) + s.crossPlatform() + " ")
	}
	if s.label != "" {
		b.WriteString(s.label + " ")
	}
	s.stepsDone++
	fmt.Fprintf(&b, "%*d/%d] ", int(1+math.Log10(float64(s.stepsTotal))), s.stepsDone, s.stepsTotal)
	if s.inTrigger {
		b.WriteString("ONBUILD ")
	}
	b.WriteString(text)
	return b.String()
}

// crossPlatform is the platform that the stage's arguments say it builds for, where that is another than its own: "->arm64".
func (s *stage) crossPlatform() string {
	target, ok := s.targetFromArgs()
	if !ok {
		return ""
	}
	own := s.out.Platform
	if target.OS == "" {
		target.OS = own.OS
	}
	if target.Architecture == "" {
		target.Architecture = own.Architecture
	}
	target = platforms.Normalize(target)
	switch {
	case target.OS != own.OS:
		return "->" + platforms.FormatAll(target)
	case target.Architecture == own.Architecture:
		return ""
	case target.Variant != "":
		return "->" + target.Architecture + "/" + target.Variant
	}
	return "->" + target.Architecture
}

func (s *stage) targetFromArgs() (ocispec.Platform, bool) {
	if v, ok := s.env.Get("TARGETPLATFORM"); ok {
		if p, err := platforms.Parse(v); err == nil {
			return p, true
		}
	}
	var p ocispec.Platform
	var hasOS, hasArch, hasVariant bool
	p.OS, hasOS = s.env.Get("TARGETOS")
	p.Architecture, hasArch = s.env.Get("TARGETARCH")
	p.Variant, hasVariant = s.env.Get("TARGETVARIANT")
	return p, hasOS || hasArch || hasVariant
}

// expandedText is the source of an instruction with its variables expanded, for progress.
func (s *stage) expandedText(c dockerfile.Command) string {
	return s.expandText(s.p.lex, sourceOf(c), s.env)
}

// expandText expands variables where that is possible, and writes the instruction in upper case.
func (s *stage) expandText(lex *dockerfile.Lex, text string, env dockerfile.Env) string {
	if w, _, err := lex.ProcessWord(text, env); err == nil {
		text = w
	}
	instruction, rest, more := strings.Cut(text, " ")
	if !more {
		return strings.ToUpper(instruction)
	}
	return strings.ToUpper(instruction) + " " + rest
}

func sourceOf(c dockerfile.Command) string {
	if s, ok := c.(fmt.Stringer); ok {
		return s.String()
	}
	return c.Name()
}
