package dockerfile

import (
	"errors"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// The instructions of a Dockerfile, as BuildKit's instructions package names them.
type (
	Stage              = instructions.Stage
	Command            = instructions.Command
	AddCommand         = instructions.AddCommand
	ArgCommand         = instructions.ArgCommand
	CmdCommand         = instructions.CmdCommand
	CopyCommand        = instructions.CopyCommand
	EntrypointCommand  = instructions.EntrypointCommand
	EnvCommand         = instructions.EnvCommand
	ExposeCommand      = instructions.ExposeCommand
	HealthCheckCommand = instructions.HealthCheckCommand
	LabelCommand       = instructions.LabelCommand
	MaintainerCommand  = instructions.MaintainerCommand
	OnbuildCommand     = instructions.OnbuildCommand
	RunCommand         = instructions.RunCommand
	ShellCommand       = instructions.ShellCommand
	StopSignalCommand  = instructions.StopSignalCommand
	UserCommand        = instructions.UserCommand
	VolumeCommand      = instructions.VolumeCommand
	WorkdirCommand     = instructions.WorkdirCommand
)

// Parts of instructions.
type (
	// Arg is one name of an ARG, its value nil where it has no default.
	Arg = instructions.KeyValuePairOptional
	// SourcesAndDest is what COPY and ADD have in common.
	SourcesAndDest = instructions.SourcesAndDest
	// Mount is one RUN --mount.
	Mount = instructions.Mount
	// Range is a range of lines.
	Range = parser.Range
	// Expander and RawExpander are instructions with words in which variables are expanded; raw leaves quotes alone (heredocs).
	Expander    = instructions.SupportsSingleWordExpansion
	RawExpander = instructions.SupportsSingleWordExpansionRaw
)

// Kinds of RUN mounts, their sharing, and the modes of RUN.
const (
	MountBind      = instructions.MountTypeBind
	MountCache     = instructions.MountTypeCache
	MountTmpfs     = instructions.MountTypeTmpfs
	MountSecret    = instructions.MountTypeSecret
	MountSSH       = instructions.MountTypeSSH
	SharingPrivate = instructions.MountSharingPrivate
	SharingLocked  = instructions.MountSharingLocked
)

type (
	// Lex expands variables and splits words as the shell does. It is not safe for concurrent use.
	Lex = shell.Lex
	// Env is what variables are looked up in.
	Env = shell.EnvGetter
	// Expansion is an expanded word and the variables found and not found on the way.
	Expansion = shell.ProcessWordResult
)

// NewLex returns a Lex for an escape token.
func NewLex(escape rune) *Lex { return shell.NewLex(escape) }

// Mounts are the --mount flags of a RUN; their values are complete after the instruction was expanded.
func Mounts(c *RunCommand) []*Mount { return instructions.GetMounts(c) }

// Network is the --network flag of a RUN: "default", "none" or "host".
func Network(c *RunCommand) string { return instructions.GetNetwork(c) }

// Security is the --security flag of a RUN: "sandbox" or "insecure".
func Security(c *RunCommand) string { return instructions.GetSecurity(c) }

// Devices are the names of the --device flags of a RUN.
func Devices(c *RunCommand) []string {
	var names []string
	for _, d := range instructions.GetDevices(c) {
		names = append(names, d.Name)
	}
	return names
}

// IsHeredoc reports whether a word is a heredoc's opening and nothing else ("<<EOF", "<<-'EOF'").
func IsHeredoc(word string) bool { return parser.MustParseHeredoc(word) != nil }

// Chomp removes the leading tabs of every line, as <<-EOF asks for.
func Chomp(text string) string { return parser.ChompHeredocContent(text) }

// ParseTrigger reads an ONBUILD trigger: one instruction, which is given the location of the FROM that runs it.
func ParseTrigger(text string, at []Range) (Command, error) {
	res, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, unlocated(err)
	}
	if len(res.AST.Children) != 1 {
		return nil, errors.New("onbuild trigger should be a single expression")
	}
	node := res.AST.Children[0]
	loc := (&File{}).LocationOf(at)
	node.StartLine, node.EndLine = loc.First, loc.Last
	ins, err := instructions.ParseInstructionWithLinter(node, linter.New(&linter.Config{}))
	if err != nil {
		return nil, flagHint(text, unlocated(err))
	}
	cmd, ok := ins.(Command)
	if !ok {
		return nil, errors.New("onbuild trigger should be an instruction of a stage")
	}
	return cmd, nil
}
