package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/urfave/cli/v2"
)

// containerCommands are those about containers that `cairn run --detach` has left running.
func (in invocation) containerCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "ps", Usage: "list the containers left running with run --detach", ArgsUsage: "[flags]",
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "list those that have ended too"},
				&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print IDs only"},
				&cli.BoolFlag{Name: "no-trunc", Usage: "print whole IDs and commands"}, formatFlag(), rootFlag(),
			},
			Action: in.ps,
		}, {
			Name: "logs", Usage: "show what a container has written", ArgsUsage: "[flags] CONTAINER",
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the container ends"},
				&cli.StringFlag{Name: "tail", Aliases: []string{"n"}, Value: "all", Usage: "begin with the last `LINES`"}, rootFlag(),
			},
			Action: in.logs,
		}, {
			Name: "stop", Usage: "stop containers", ArgsUsage: "[flags] CONTAINER...",
			Flags: []cli.Flag{
				&cli.IntFlag{Name: "time", Aliases: []string{"t"}, Value: int(stopGrace.Seconds()), Usage: "kill after `SECONDS`"}, rootFlag(),
			},
			Action: in.stop,
		}, {
			Name: "rm", Usage: "remove containers", ArgsUsage: "[flags] CONTAINER...",
			Flags:  []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill those that run"}, rootFlag()},
			Action: in.rm,
		},
	}
}

// detachedContainers are all of them, the newest first.
func (in invocation) detachedContainers(c *cli.Context) ([]*detached, error) {
	root, err := in.containersDir(c)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []*detached
	for _, e := range entries {
		d, err := readDetached(filepath.Join(root, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // being made, or being removed
		}
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *detached) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// findDetached finds a container by its name, or the beginning of its ID.
func (in invocation) findDetached(c *cli.Context, name string) (*detached, error) {
	list, err := in.detachedContainers(c)
	if err != nil {
		return nil, err
	}
	var found []*detached
	for _, d := range list {
		if d.Name == name || d.ID == name {
			return d, nil
		}
		if strings.HasPrefix(d.ID, name) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, failf("no such container: %s", name).withHint("see `cairn ps --all`")
	}
	return nil, failf("%s is the beginning of several IDs", name)
}

// status is what docker ps says of a container.
func (d *detached) status() string {
	switch {
	case d.process() != nil && d.Finished.IsZero():
		return "Up " + units.HumanDuration(time.Since(d.Started))
	case d.Finished.IsZero():
		return "Dead"
	}
	return fmt.Sprintf("Exited (%d) %s ago", d.ExitCode, units.HumanDuration(time.Since(d.Finished)))
}

func (in invocation) ps(c *cli.Context) error {
	if _, err := operands(c, 0, 0, "no arguments"); err != nil {
		return err
	}
	list, err := in.detachedContainers(c)
	if err != nil {
		return err
	}
	l := listing{
		headers: map[string]string{"ID": "CONTAINER ID", "Image": "IMAGE", "Command": "COMMAND", "RunningFor": "CREATED", "Status": "STATUS",
			"Names": "NAMES", "CreatedAt": "CREATED AT", "State": "STATE", "Ports": "PORTS", "Size": "SIZE", "Labels": "LABELS",
			"LocalVolumes": "LOCAL VOLUMES"},
		table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
	}
	for _, d := range list {
		status := d.status()
		running := strings.HasPrefix(status, "Up ")
		if !running && !c.Bool("all") {
			continue
		}
		id, command := d.ID, strings.Join(d.Command, " ")
		if !c.Bool("no-trunc") {
			id = id[:12]
			if r := []rune(command); len(r) > 20 {
				command = string(r[:19]) + "…"
			}
		}
		if c.Bool("quiet") {
			if _, err := fmt.Fprintln(in.stdout, id); err != nil {
				return err
			}
			continue
		}
		state := "exited"
		if running {
			state = "running"
		}
		l.rows = append(l.rows, map[string]string{
			"ID": id, "Image": d.Image, "Command": strconv.Quote(command), "RunningFor": units.HumanDuration(time.Since(d.Created)) + " ago",
			"Status": status, "Names": d.Name, "CreatedAt": d.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"), "State": state, "Size": units.HumanSize(float64(d.size())),
			// No port is published, no volume managed, and labels are not kept.
			"Ports": "", "Labels": "", "LocalVolumes": "0",
		})
	}
	if c.Bool("quiet") {
		return nil
	}
	return l.write(in.stdout, c.String("format"))
}

func (in invocation) logs(c *cli.Context) error {
	args, err := operands(c, 1, 1, "one CONTAINER")
	if err != nil {
		return err
	}
	lines, err := strconv.Atoi(c.String("tail"))
	if all := c.String("tail") == "all"; !all && (err != nil || lines < 0) {
		return usagef("--tail %q: want a number of lines, or all", c.String("tail"))
	} else if all {
		lines = -1
	}
	d, err := in.findDetached(c, args[0])
	if err != nil {
		return err
	}
	f, err := os.Open(d.path("log"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has not begun
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if lines >= 0 {
		if err := in.tail(f, lines); err != nil {
			return err
		}
	}
	var log io.Reader = f
	if c.Bool("follow") {
		log = &follower{c: c, d: d, f: f}
	}
	_, err = stdcopy.StdCopy(in.stdout, in.stderr, log)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // a frame that is just being written
	}
	return err
}

// followPause is how long the follower of a log waits for more.
const followPause = 100 * time.Millisecond

// follower reads a log until its container has ended.
type follower struct {
	c *cli.Context
	d *detached
	f *os.File
}

func (l *follower) Read(p []byte) (int, error) {
	for {
		ended := l.d.process() == nil
		n, err := l.f.Read(p)
		if n > 0 || !errors.Is(err, io.EOF) || ended {
			return n, err
		}
		select {
		case <-l.c.Context.Done():
			return 0, io.EOF
		case <-time.After(followPause):
		}
	}
}

// eachDetached does something with every container named, and prints the names that it was done for.
func (in invocation) eachDetached(c *cli.Context, do func(*detached) error) error {
	args, err := operands(c, 1, -1, "a CONTAINER")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range args {
		d, err := in.findDetached(c, name)
		if err == nil {
			err = do(d)
		}
		if err == nil {
			_, err = fmt.Fprintln(in.stdout, name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (in invocation) stop(c *cli.Context) error {
	if c.Int("time") < 0 {
		return usagef("--time %d is negative", c.Int("time"))
	}
	return in.eachDetached(c, func(d *detached) error { return d.stop(c, time.Duration(c.Int("time"))*time.Second) })
}

func (in invocation) rm(c *cli.Context) error {
	return in.eachDetached(c, func(d *detached) error {
		if d.process() != nil {
			if !c.Bool("force") {
				return failf("container %s is running", d.Name).withHint("cairn stop %s, or rm --force", d.Name)
			}
			if err := d.stop(c, 0); err != nil {
				return err
			}
		}
		return os.RemoveAll(d.dir)
	})
}

// stop ends a container's process with SIGTERM, and SIGKILL after a time, and waits until it is gone.
func (d *detached) stop(c *cli.Context, grace time.Duration) error {
	p := d.process()
	if p == nil {
		return nil
	}
	if grace > 0 {
		if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stopping container %s: %w", d.Name, err)
		}
	}
	kill := time.Now().Add(grace)
	for killed := false; d.process() != nil; {
		if !killed && time.Now().After(kill) {
			// With its keeper the kernel takes the container.
			if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return fmt.Errorf("killing container %s: %w", d.Name, err)
			}
			killed = true
		}
		select {
		case <-c.Context.Done():
			return c.Context.Err()
		case <-time.After(followPause / 10):
		}
	}
	now, err := readDetached(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // run --rm
	}
	if err == nil && now.Finished.IsZero() {
		now.Finished, now.ExitCode = time.Now().UTC(), exitSignal+int(syscall.SIGKILL)
		err = now.save()
	}
	return err
}
