package main

import (
	"errors"
	"time"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/urfave/cli/v2"
)

func (in invocation) inspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "show what is known of images, and of containers left running", ArgsUsage: "[flags] NAME...",
		Description: "A NAME is that of a container, if there is one, or else of an image.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "show each by a Go `TEMPLATE` such as '{{.Config.Env}}', or as json"},
			&cli.StringFlag{Name: "type", Usage: "show only what is of this `TYPE`: container or image"},
			platformFlag(), rootFlag(),
		},
		Action: in.inspect,
	}
}

func (in invocation) inspect(c *cli.Context) error {
	args, err := operands(c, 1, -1, "a NAME")
	if err != nil {
		return err
	}
	kind := c.String("type")
	if kind != "" && kind != "container" && kind != "image" {
		return usagef("--type %q: want container or image", kind)
	}
	platform, err := onePlatform(c)
	if err != nil {
		return err
	}
	return in.withImages(c, func(_ *store.Store, local *image.Local) error {
		look := func(name string) (any, error) {
			if kind != "image" {
				d, err := in.findDetached(c, name)
				if err == nil {
					return d.inspection(), nil
				}
				if kind == "container" {
					return nil, err
				}
			}
			return local.Inspect(name, platform)
		}
		return inspectAll(args, look, func(found []any) error { return writeObjects(in.stdout, found, c.String("format")) })
	})
}

// inspectAll shows what is found, and then says what is not.
func inspectAll(refs []string, inspect func(string) (any, error), write func([]any) error) error {
	var found []any
	var errs []error
	for _, ref := range refs {
		o, err := inspect(ref)
		if err != nil {
			errs = append(errs, noSuchImage(ref, err))
			continue
		}
		found = append(found, o)
	}
	if len(found) > 0 {
		if err := write(found); err != nil {
			return err
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// containerInspection is what is known of a container, by the names of Docker's API.
type containerInspection struct {
	ID      string `json:"Id"`
	Created time.Time
	Path    string
	Args    []string
	State   containerInspectionState
	Name    string
	LogPath string
	Config  containerInspectionConfig
}

type containerInspectionState struct {
	Status                string
	Running               bool
	Pid                   int // of the process that keeps the container; 0 if it has ended
	ExitCode              int
	StartedAt, FinishedAt time.Time
}

type containerInspectionConfig struct {
	Image string
	Cmd   []string
}

func (d *detached) inspection() containerInspection {
	i := containerInspection{
		ID: d.ID, Created: d.Created, Args: []string{}, Name: "/" + d.Name, LogPath: d.path("log"),
		Config: containerInspectionConfig{Image: d.Image, Cmd: d.Command},
		State:  containerInspectionState{Status: "exited", ExitCode: d.ExitCode, StartedAt: d.Started, FinishedAt: d.Finished},
	}
	if len(d.Command) > 0 {
		i.Path, i.Args = d.Command[0], d.Command[1:]
	}
	switch p := d.process(); {
	case p != nil && d.Finished.IsZero():
		i.State.Status, i.State.Running, i.State.Pid = "running", true, p.Pid
	case d.Finished.IsZero():
		i.State.Status = "dead"
	}
	return i
}
