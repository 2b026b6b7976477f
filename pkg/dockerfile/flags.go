package dockerfile

import (
	"regexp"
	"strings"

	"github.com/cairn-build/cairn/pkg/hint"
	"github.com/cairn-build/cairn/pkg/suggest"
)

// flagsOf are the flags of an instruction. BuildKit's parser has no list to ask; a test holds this one to what it accepts.
func flagsOf(instruction string) []string {
	switch strings.ToUpper(instruction) {
	case "FROM":
		return []string{"platform"}
	case "RUN":
		return []string{"mount", "network", "security", "device"}
	case "COPY":
		return []string{"from", "chown", "chmod", "link", "parents", "exclude"}
	case "ADD":
		return []string{"chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"}
	case "HEALTHCHECK":
		return []string{"interval", "timeout", "start-period", "start-interval", "retries"}
	}
	return nil
}

var unknownFlag = regexp.MustCompile(`unknown flag: --([^ ]*)`)

// flagHint gives an error about a flag that an instruction does not have the hint that is always the same: the parser's own is one of the flags that
// are near, at random. line is the instruction. Other errors are returned as they are.
func flagHint(line string, err error) error {
	text, _, _ := strings.Cut(err.Error(), " (did you mean ")
	flag := unknownFlag.FindStringSubmatch(text)
	words := strings.Fields(line)
	if flag == nil || len(words) == 0 {
		return err
	}
	return hint.With(withoutHint{err, err.Error()[len(text):]}, suggest.Hint(flag[1], flagsOf(words[0])))
}
