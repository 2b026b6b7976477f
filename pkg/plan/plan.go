// Package plan turns the stages of a Dockerfile into an immutable graph of steps for one platform.
//
// It is pure: no disk and no network. What it must know of base images (their config, for ENV, WORKDIR, ONBUILD) it asks
// through Options.Images. Everything an instruction can mean without looking at files is decided here: variables are
// expanded, working directories joined, the image config and history of every stage are final.
package plan

import (
	"context"
	"time"

	"github.com/cairn-build/cairn/pkg/dockerfile"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Options is what a Dockerfile is planned for.
type Options struct {
	// Target is the stage to build, by name or index; "" is the last.
	Target string
	// Platform is the one to build for; BuildPlatform is this machine's.
	Platform, BuildPlatform ocispec.Platform
	// ImplicitPlatform is set where nobody asked for Platform: the image then is of the platform of its base.
	ImplicitPlatform bool
	// MultiPlatform is set where there are plans for other platforms too: the names of steps then say which this is.
	MultiPlatform bool
	// BuildArgs are the --build-arg values.
	BuildArgs map[string]string
	// Labels are added to the target's config.
	Labels map[string]string
	// Contexts are the named build contexts (name, or name::platform, to an opaque Context) that replace images, stages and --from names.
	Contexts map[string]Context
	// Network is the mode of RUN steps that name none: "", "none" or "host". AllowHostNetwork and AllowInsecure say which entitlements the
	// command line granted.
	Network                         string
	AllowHostNetwork, AllowInsecure bool
	// Epoch is SOURCE_DATE_EPOCH in seconds, nil if not set.
	Epoch *int64
	// EpochOf answers the time of a source, in seconds, for a SOURCE_DATE_EPOCH that names one; nil is no time. EpochOf itself may be nil
	// where such values are to be errors.
	EpochOf func(context.Context, EpochSource) (*int64, error)
	// Images answers what a base image is.
	Images ImageResolver
	// CheckRemote says what is wrong with the URL of an ADD, so that it is known with its line before anything is done. It may be nil: then
	// who fetches the URL finds out.
	CheckRemote func(Remote) error
	// IgnorePatterns are those of the main context's .dockerignore, for the check CopyIgnoredFile.
	IgnorePatterns []string
	// NoCache marks all steps as not to be answered from the cache, NoCacheStages those of the stages it names.
	NoCache       bool
	NoCacheStages []string
	// CacheNamespace is put before the ids of cache mounts (BUILDKIT_CACHE_MOUNT_NS in BuildArgs does the same).
	CacheNamespace string
	// AllStages plans every stage, not only those the target needs, as the checks want it.
	AllStages bool
}

// EpochSource is what a SOURCE_DATE_EPOCH names whose value is no number: a context ("context" or a named one), or the remote source that
// a stage consists of. One field is set.
type EpochSource struct {
	Context *Context
	Remote  *Remote
}

// ImageResolver finds out what image a reference names for a platform. It is safe for concurrent use.
type ImageResolver interface {
	ResolveImage(ctx context.Context, ref string, platform ocispec.Platform) (ResolvedImage, error)
}

// ResolvedImage is an image pinned to its content.
type ResolvedImage struct {
	// Ref is the normalised reference ("docker.io/library/debian:12"); Digest that of its manifest for the platform.
	Ref    string
	Digest digest.Digest
	Config dockerspec.DockerOCIImage
}

// Context is a named or main build context. URL is as the user gave it: a directory, a git or http URL, docker-image://…,
// oci-layout://…. The main context has the name "".
type Context struct {
	Name string
	URL  string
}

// Plan is what has to be done for one platform.
type Plan struct {
	Platform ocispec.Platform
	// Stages are those that the target needs, each after the ones it depends on; the last is the target.
	Stages []*Stage
	// Warnings are the findings of the checks (lint rules) in the order of lines.
	Warnings []dockerfile.Warning
	// UnusedArgs are the build arguments nobody declared, sorted.
	UnusedArgs []string
	// Epoch is SOURCE_DATE_EPOCH in seconds: that of the options, a build argument, or an ARG before the first FROM. Nil if not set.
	Epoch *int64
}

// Created is Epoch as a time, in UTC: when everything that the plan makes was made. Nil is the time of day.
func (p *Plan) Created() *time.Time {
	if p.Epoch == nil {
		return nil
	}
	t := time.Unix(*p.Epoch, 0).UTC()
	return &t
}

// Target is the stage the plan ends in.
func (p *Plan) Target() *Stage { return p.Stages[len(p.Stages)-1] }

// Stage is one FROM and what follows.
type Stage struct {
	// Name is the stage's name, or its index as text.
	Name string
	// Base is what the stage starts from; BaseName is what progress calls bringing it in, "[build 1/5] FROM docker.io/library/debian:12@sha256:…",
	// or "" where it is another stage or nothing.
	Base     Source
	BaseName string
	// Platform is the stage's own (FROM --platform).
	Platform ocispec.Platform
	// Steps change the root filesystem, one layer each, in order.
	Steps []*Step
	// Image is the config with everything but rootfs and times: the history entries of the base, then those of this stage.
	Image dockerspec.DockerOCIImage
	// HistoryStep gives, for each history entry that is this stage's own (those after the base's), the index in Steps of the
	// step that made it, -1 for metadata.
	HistoryStep []int
}

// Source is where files come from. Exactly one of its fields is set; the zero Source is scratch.
type Source struct {
	Stage   *Stage
	Image   *ResolvedImage
	Context *Context
}

// IsScratch reports whether the source is the empty root filesystem.
func (s Source) IsScratch() bool { return s == Source{} }

// Step is one operation that makes one layer.
type Step struct {
	// Name is what progress shows: "[build 2/5] RUN make".
	Name string
	// Location is the instruction's place in the Dockerfile.
	Location dockerfile.Location
	// Exactly one of these is set.
	Run     *Run
	Copy    *Copy
	Workdir *Workdir
	// IgnoreCache is set where the user said that the step must not be answered from the cache.
	IgnoreCache bool
}

// Workdir creates a directory and its missing parents.
type Workdir struct {
	// Path is absolute and clean.
	Path string
	// User, looked up in the stage's /etc/passwd, owns what is created.
	User string
}

// Run executes a command.
type Run struct {
	Args []string
	// Env is complete: the stage's environment and the arguments in scope. HiddenEnv is added when it runs but is no part of the
	// cache key (proxies).
	Env, HiddenEnv []string
	Dir            string
	User           string
	Mounts         []Mount
	Network        string // "", "none", "host"
	Security       string // "", "insecure"
}

// Mount is a RUN --mount. Options that do not apply to its type are zero.
type Mount struct {
	Type string // bind, cache, tmpfs, secret, ssh
	// Target is absolute; for a secret or ssh without a target it has been filled in. A secret with Env and no target has "".
	Target string
	// From is the source of bind and cache mounts; scratch for a cache without from. Source is the absolute path in it.
	From   Source
	Source string
	// ReadOnly is the effective value. A writable bind's changes are discarded.
	ReadOnly bool
	// CacheID and Sharing (shared, private, locked) are of cache mounts. Where the Dockerfile gives a mode or an owner, the id ends with
	// ",uid=N,gid=N,mode=NNNN".
	CacheID, Sharing string
	// ID, Env and Required are of secrets and ssh.
	ID       string
	Env      string
	Required bool
	Mode     *uint64
	UID, GID *uint64
	// Size bounds a tmpfs, in bytes.
	Size int64
	// Inline is the content of a file that the plan itself provides (heredoc scripts); Type is then "inline".
	Inline []byte
}

// Copy is COPY and ADD.
type Copy struct {
	// Add is true for ADD, which unpacks archives and fetches URLs.
	Add bool
	// From is where Sources are; the main context unless --from.
	From Source
	// Sources are paths or patterns as written after expansion; Inline are heredocs, which come after them.
	Sources []string
	Inline  []InlineFile
	// Remote are ADD's URLs and git repositories, in the order given.
	Remote []Remote
	// Dest is absolute; it ends with "/" where the destination must be a directory.
	Dest string
	// Chown ("user[:group]") and Chmod (octal or symbolic) are "" where not given.
	Chown, Chmod string
	Link         bool
	Parents      bool
	Exclude      []string
	// Unpack is ADD --unpack; nil is the default (local archives yes, remote ones no).
	Unpack *bool
}

// InlineFile is a file whose content is in the Dockerfile.
type InlineFile struct {
	Name string
	Data []byte
}

// Remote is one URL of an ADD.
type Remote struct {
	URL        string
	Git        bool
	KeepGitDir *bool
	Checksum   string
}
