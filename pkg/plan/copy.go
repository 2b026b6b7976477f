package plan

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	"github.com/cairn-build/cairn/pkg/hint"
	"github.com/moby/buildkit/util/system"
	"github.com/opencontainers/go-digest"
	mode "github.com/tonistiigi/dchapes-mode"
)

// copy plans a COPY.
func (s *stage) copy(c *dockerfile.CopyCommand, from []*origin, checks *dockerfile.Checks) error {
	plan := &Copy{
		From: Source{Context: s.p.main}, Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Parents: c.Parents, Exclude: c.ExcludePatterns,
	}
	if len(from) > 0 {
		src, ok := s.sourceOf(from[0])
		if !ok {
			return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", c.From, s.label)
		}
		plan.From = src
	}
	for _, src := range c.SourcePaths {
		switch {
		case isGit(src):
			return errors.New("source can't be a git ref for COPY")
		case isHTTP(src):
			return errors.New("source can't be a URL for COPY")
		}
		if len(from) == 0 {
			s.checkIgnored(checks, c.Location(), "Copy", src)
		}
		plan.Sources = append(plan.Sources, src)
	}
	return s.finishCopy(c, plan, &c.SourcesAndDest)
}

// add plans an ADD.
func (s *stage) add(c *dockerfile.AddCommand, checks *dockerfile.Checks) error {
	plan := &Copy{
		Add: true, From: Source{Context: s.p.main}, Chown: c.Chown, Chmod: c.Chmod, Link: c.Link, Exclude: c.ExcludePatterns, Unpack: c.Unpack,
	}
	if c.Checksum != "" {
		if len(c.SourcePaths) != 1 {
			return errors.New("checksum can't be specified for multiple sources")
		}
		if src := c.SourcePaths[0]; !isHTTP(src) && !isGit(src) {
			return errors.New("checksum requires HTTP(S) or Git sources")
		}
	}
	for _, src := range c.SourcePaths {
		switch {
		case isGit(src):
			plan.Remote = append(plan.Remote, Remote{URL: src, Git: true, KeepGitDir: c.KeepGitDir, Checksum: c.Checksum})
		case isHTTP(src):
			if c.Checksum != "" {
				if _, err := digest.Parse(c.Checksum); err != nil {
					return fmt.Errorf("parsing checksum %q: %w", c.Checksum, err)
				}
			}
			plan.Remote = append(plan.Remote, Remote{URL: src, Checksum: c.Checksum})
		default:
			s.checkIgnored(checks, c.Location(), "Add", src)
			plan.Sources = append(plan.Sources, src)
		}
	}
	for _, r := range plan.Remote {
		if check := s.p.opts.CheckRemote; check != nil {
			if err := check(r); err != nil {
				return err
			}
		}
	}
	return s.finishCopy(c, plan, &c.SourcesAndDest)
}

// finishCopy does what COPY and ADD have in common.
func (s *stage) finishCopy(c dockerfile.Command, plan *Copy, params *dockerfile.SourcesAndDest) error {
	if plan.Link && chownByName(plan.Chown) {
		return hint.With(fmt.Errorf("--chown=%s: user and group names can't be resolved when used with --link", plan.Chown),
			"use numeric uid[:gid] instead")
	}
	if err := checkChmod(plan.Chmod); err != nil {
		return err
	}
	dest, err := s.destination(params.DestPath)
	if err != nil {
		return err
	}
	plan.Dest = dest

	text := "COPY"
	if plan.Add {
		text = "ADD"
	}
	if plan.Parents {
		text += " --parents"
	}
	if plan.Chown != "" {
		text += " --chown=" + plan.Chown
	}
	if plan.Chmod != "" {
		text += " --chmod=" + plan.Chmod
	}
	for _, src := range params.SourcePaths {
		text += " " + src
	}
	for _, doc := range params.SourceContents {
		text += " <<" + doc.Path
		plan.Inline = append(plan.Inline, InlineFile{Name: doc.Path, Data: []byte(doc.Data)})
	}
	s.layer(text+" "+params.DestPath+" # buildkit", &Step{
		Name:     s.stepName(s.expandedText(c)),
		Location: s.location(c.Location()),
		Copy:     plan,
	})
	return nil
}

// destination makes a destination absolute; one that must be a directory ends with a slash.
func (s *stage) destination(dest string) (string, error) {
	if dest == "." || dest == "" {
		dest = "./"
	}
	out, err := system.NormalizePath(s.dir(), dest, s.out.Platform.OS, true)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(out, "/.") {
		out = strings.TrimSuffix(out, ".")
	}
	if cleaned := path.Clean(out); cleaned != "/" && strings.HasSuffix(out, "/") {
		return cleaned + "/", nil
	} else {
		return cleaned, nil
	}
}

// checkChmod accepts octal modes and those of chmod(1).
func checkChmod(value string) error {
	if value == "" {
		return nil
	}
	notOctal := fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", value)
	if n, err := strconv.ParseUint(value, 8, 32); err == nil {
		if n > 0o7777 {
			return notOctal
		}
		return nil
	}
	if _, err := mode.Parse(value); err != nil {
		var number *strconv.NumError
		if errors.As(err, &number) {
			return notOctal
		}
		return fmt.Errorf("parsing chmod parameter %q: %w", value, err)
	}
	return nil
}

// chownByName reports whether an owner is given by name, which must be looked up in files.
func chownByName(chown string) bool {
	user, group, _ := strings.Cut(chown, ":")
	for _, id := range []string{user, group} {
		if _, err := strconv.ParseUint(id, 10, 32); id != "" && err != nil {
			return true
		}
	}
	return false
}
