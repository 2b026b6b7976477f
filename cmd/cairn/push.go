package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/plan"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/cairn-build/cairn/pkg/source"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"
)

func (in invocation) pushCommand() *cli.Command {
	return &cli.Command{
		Name: "push", Usage: "push an image of the local store to a registry", ArgsUsage: "[flags] IMAGE [NAME...]",
		Description: "IMAGE is a name or an ID. It is pushed to its own name, or to each NAME given.",
		Flags:       transferFlags(),
		Action:      in.push,
	}
}

func (in invocation) pullCommand() *cli.Command {
	return &cli.Command{
		Name: "pull", Usage: "pull an image into the local store", ArgsUsage: "[flags] NAME",
		Description: "Of an index, the image for --platform is taken, or for this machine's platform. Without --platform an image for another platform that has no\n" +
			"index is taken as it is; with it that is an error.",
		Flags:  append(transferFlags(), &cli.StringFlag{Name: "platform", Usage: "`OS/ARCH[/VARIANT]` which image of several to pull"}),
		Action: in.pull,
	}
}

func transferFlags() []cli.Flag {
	return append(registryFlags(), rootFlag(),
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"},
		&cli.StringFlag{Name: "progress", Usage: "`auto|plain|tty|rawjson|quiet` how progress is shown"})
}

func (in invocation) push(c *cli.Context) (err error) {
	args, err := operands(c, 1, -1, "an IMAGE")
	if err != nil {
		return err
	}
	names := args[1:]
	if len(names) == 0 {
		names = args
	}
	for i, n := range names {
		if names[i], err = image.Normalize(n); err != nil || isDigest(n) {
			return usagef("%q is not a name to push to", n).withHint("cairn push IMAGE NAME")
		}
	}
	return in.transfer(c, func(ctx context.Context, t *transfer) error {
		set, err := image.NewLocal(t.store).Get(args[0])
		if errors.Is(err, fs.ErrNotExist) {
			return failf("there is no image %s in the local store", args[0]).withHint("see `cairn images`, or build it with `cairn build --tag %s`", args[0])
		}
		if err != nil {
			return err
		}
		deps := export.Deps{Store: t.store, Registry: t.registry, Blob: t.images.Blob}
		if err := export.Push(ctx, set, names, deps); err != nil {
			return err
		}
		return in.say(t, set.Descriptor)
	})
}

func (in invocation) pull(c *cli.Context) error {
	args, err := operands(c, 1, 1, "one NAME")
	if err != nil {
		return err
	}
	platform, err := onePlatform(c)
	if err != nil {
		return err
	}
	if _, err := image.Normalize(args[0]); err != nil {
		return usagef("%v", err).withHint("a name is [HOST[:PORT]/]PATH[:TAG], in lower case")
	}
	return in.transfer(c, func(ctx context.Context, t *transfer) error {
		// What is resolved here is remembered for the pull.
		if _, err := resolveFor(ctx, t.images, args[0], platform); err != nil {
			return err
		}
		_, desc, err := t.images.Pull(ctx, args[0], wanted(platform))
		if err != nil {
			return err
		}
		return in.say(t, desc)
	})
}

// wanted is the platform that the command line asks for, or else this machine's.
func wanted(platform *ocispec.Platform) ocispec.Platform {
	if platform == nil {
		return platforms.DefaultSpec()
	}
	return *platform
}

// resolveFor finds the image for a platform. That a name stands for an image of another platform is an error where a platform was asked for: an
// index says what it has not, and a manifest alone would be taken as it is.
func resolveFor(ctx context.Context, images *source.Images, ref string, platform *ocispec.Platform) (plan.ResolvedImage, error) {
	img, err := images.ResolveImage(ctx, ref, wanted(platform))
	if err != nil || platform == nil {
		return img, err
	}
	if has := platforms.Normalize(img.Config.Platform); !platforms.Only(*platform).Match(has) {
		return img, failf("image %s is for %s, not for %s", ref, platforms.FormatAll(has), platforms.FormatAll(*platform)).
			withHint("leave --platform out to take it as it is")
	}
	return img, nil
}

// say prints what was moved, the only thing on standard output: the digest, by which the image can be named for ever.
func (in invocation) say(t *transfer, desc ocispec.Descriptor) error {
	err := t.progress.Close()
	if err == nil {
		_, err = fmt.Fprintln(in.stdout, desc.Digest)
	}
	return err
}

// showProgress returns what shows progress in the way the command line asks for.
func (in invocation) showProgress(mode string) (progress.Renderer, error) {
	r, err := progress.New(mode, in.stderr, progress.Options{Term: in.env["TERM"], NoColor: in.env["NO_COLOR"] != ""})
	if err != nil {
		return nil, usagef("--progress %s: %v", mode, err)
	}
	return r, nil
}
