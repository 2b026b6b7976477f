package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/store"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"
)

// storeCommands are the commands over the local store's images that have Docker's names.
func (in invocation) storeCommands() []*cli.Command {
	return []*cli.Command{
		in.tagCommand(), in.rmiCommand(), in.historyCommand(), in.inspectCommand(), in.saveCommand(), in.loadCommand(),
		in.systemCommand(), in.loginCommand(), in.logoutCommand(),
	}
}

// withImages opens the store for some work.
func (in invocation) withImages(c *cli.Context, work func(*store.Store, *image.Local) error) (err error) {
	st, err := in.openStore(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return work(st, image.NewLocal(st))
}

// noSuchImage says in one line that an image is not there.
func noSuchImage(ref string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return failf("no such image: %s", ref).withHint("see `cairn images`")
	}
	return err
}

// platformFlag chooses one image of several platforms.
func platformFlag() cli.Flag {
	return &cli.StringFlag{Name: "platform", Usage: "`OS/ARCH[/VARIANT]` which image of several is meant"}
}

// onePlatform reads platformFlag; nil is none given.
func onePlatform(c *cli.Context) (*ocispec.Platform, error) {
	if c.String("platform") == "" {
		return nil, nil
	}
	list, err := parsePlatforms([]string{c.String("platform")})
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, usagef("--platform %s: want one platform", c.String("platform"))
	}
	return &list[0], nil
}

func (in invocation) tagCommand() *cli.Command {
	return &cli.Command{
		Name: "tag", Usage: "give an image of the local store another name", ArgsUsage: "[flags] IMAGE NAME[:TAG]",
		Flags: []cli.Flag{rootFlag()},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 2, 2, "an IMAGE and a NAME")
			if err != nil {
				return err
			}
			if _, err := image.Normalize(args[1]); err != nil || isDigest(args[1]) {
				return usagef("%q is not a name for an image", args[1]).withHint("a name is [HOST[:PORT]/]PATH[:TAG], in lower case")
			}
			return in.withImages(c, func(_ *store.Store, local *image.Local) error {
				_, err := local.Tag(args[0], args[1])
				return noSuchImage(args[0], err)
			})
		},
	}
}

func (in invocation) rmiCommand() *cli.Command {
	return &cli.Command{
		Name: "rmi", Usage: "remove names, and with the last name an image", ArgsUsage: "[flags] IMAGE...",
		Description: "Given an ID, an image is removed with all its names. The space is given back by `cairn system prune`, as layers may be\n" +
			"needed by other images and by the build cache.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "remove an ID that several repositories name, and what containers were made of; missing images are no errors"},
			&cli.BoolFlag{Name: "no-prune", Usage: "keep images without a name that it was made from"},
			rootFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, -1, "an IMAGE")
			if err != nil {
				return err
			}
			return in.withImages(c, func(_ *store.Store, local *image.Local) error { return in.removeImages(c, local, args) })
		},
	}
}

// removeImages removes each image it can, and then says which it could not.
func (in invocation) removeImages(c *cli.Context, local *image.Local, refs []string) error {
	var errs []error
	for _, ref := range refs {
		if err := in.refuseUsed(c, local, ref); err != nil {
			errs = append(errs, err)
			continue
		}
		gone, err := local.Delete(ref, image.DeleteOptions{Force: c.Bool("force"), NoPrune: c.Bool("no-prune")})
		for _, g := range gone {
			line := "Untagged: " + g.Untagged
			if g.Deleted != "" {
				line = "Deleted: " + g.Deleted
			}
			if _, err := fmt.Fprintln(in.stdout, printable(line)); err != nil {
				return err
			}
		}
		if errors.Is(err, fs.ErrNotExist) && c.Bool("force") {
			warn(in.stderr, "no such image: %s", ref)
			continue
		}
		if err != nil {
			errs = append(errs, noSuchImage(ref, err))
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
