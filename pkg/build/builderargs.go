package build

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/cairn-build/cairn/pkg/cache"
)

// Build arguments that speak to the builder instead of the Dockerfile (docs of Dockerfile, "BuildKit built-in build args"). The others of
// their kind are read where they are used: BUILDKIT_SYNTAX and BUILDKIT_DOCKERFILE_CHECK by package dockerfile, BUILDKIT_CACHE_MOUNT_NS by
// package plan, BUILDKIT_CONTEXT_KEEP_GIT_DIR with the context and BUILDKIT_SANDBOX_HOSTNAME with RUN.
const (
	multiPlatformArg = "BUILDKIT_MULTI_PLATFORM"
	inlineCacheArg   = "BUILDKIT_INLINE_CACHE"
)

// withBuilderArgs puts into the options what build arguments say about them.
func (o Options) withBuilderArgs() (Options, error) {
	index, given, err := o.builderFlag(multiPlatformArg)
	if err != nil {
		return o, err
	}
	if given && !index && len(o.Args.Platforms) > 1 {
		return o, errors.New("build argument " + multiPlatformArg + " is false, and several platforms are asked for")
	}
	o.Result.Index = o.Result.Index || index
	inline, _, err := o.builderFlag(inlineCacheArg)
	if err != nil {
		return o, err
	}
	isInline := func(l cache.Location) bool { return l.Type == cache.TypeInline }
	if inline && !slices.ContainsFunc(o.Share.To, isInline) {
		o.Share.To = append(slices.Clone(o.Share.To), cache.Location{Type: cache.TypeInline})
	}
	return o, nil
}

// builderFlag is the value of a build argument that is true or false.
func (o Options) builderFlag(name string) (value, given bool, err error) {
	text := o.Args.BuildArgs[name]
	if text == "" {
		return false, false, nil
	}
	if value, err = strconv.ParseBool(text); err != nil {
		return false, false, fmt.Errorf("build argument %s: %q is neither true nor false", name, text)
	}
	return value, true, nil
}
