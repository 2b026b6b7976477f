package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/progress"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/urfave/cli/v2"
)

func (in invocation) saveCommand() *cli.Command {
	return &cli.Command{
		Name: "save", Usage: "write images to an archive that docker load, podman load and skopeo take", ArgsUsage: "[flags] IMAGE...",
		Description: "The archive is Docker's and an OCI layout at once. A name without a tag stands for all tags of the repository. Layers that\n" +
			"are not held are fetched.",
		Flags: append(transferFlags(), platformFlag(),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`, which is whole or not there", DefaultText: "standard output"}),
		Action: in.save,
	}
}

func (in invocation) save(c *cli.Context) error {
	args, err := operands(c, 1, -1, "an IMAGE")
	if err != nil {
		return err
	}
	platform, err := onePlatform(c)
	if err != nil {
		return err
	}
	file := c.String("output")
	if file == "" && onTerminal(in.stdout) {
		return usagef("refusing to write an archive to a terminal").withHint("redirect the standard output, or give --output FILE")
	}
	return in.transfer(c, func(ctx context.Context, t *transfer) error {
		exporter := image.NewExporter(image.NewLocal(t.store), image.ExporterOptions{Blob: t.images.Blob, Platform: platform})
		fill := func(w io.Writer) error {
			err := exporter.Save(ctx, args, w)
			if ref, missing := image.MissingRef(err); missing {
				return noSuchImage(ref, err)
			}
			return err
		}
		if file != "" {
			return export.ReplaceFile(file, fill)
		}
		b := bufio.NewWriterSize(stoppableOut(ctx, in.stdout), 1<<20)
		if err := fill(b); err != nil {
			return err
		}
		return b.Flush()
	})
}

// onTerminal reports whether a stream is a terminal.
func onTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && isTerminal(f)
}

func (in invocation) loadCommand() *cli.Command {
	return &cli.Command{
		Name: "load", Usage: "take the images of an archive into the local store", ArgsUsage: "[flags]",
		Description: "The archive is one of docker save, podman save, skopeo or cairn save, of one image or several, or an OCI layout in a tar;\n" +
			"it may be compressed.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "input", Aliases: []string{"i"}, Usage: "read `FILE`", DefaultText: "standard input"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress"},
			&cli.StringFlag{Name: "progress", Usage: "`auto|plain|tty|rawjson|quiet` how progress is shown"},
			platformFlag(), rootFlag(),
		},
		Action: in.load,
	}
}

func (in invocation) load(c *cli.Context) (err error) {
	if _, err := operands(c, 0, 0, "no arguments"); err != nil {
		return err
	}
	platform, err := onePlatform(c)
	if err != nil {
		return err
	}
	mode, err := in.progressMode(c)
	if err != nil {
		return err
	}
	from, err := in.openInput(c.Context, c.String("input"))
	if err != nil {
		return err
	}
	defer from.Close()
	st, err := in.openStore(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	show, err := in.showProgress(mode)
	if err != nil {
		return err
	}
	messages := &loadMessages{ctx: progress.With(c.Context, show), vertices: map[string]*progress.Vertex{}}
	err = image.NewExporter(image.NewLocal(st), image.ExporterOptions{Platform: platform}).Load(c.Context, from, messages, false)
	messages.end(err)
	if err = errors.Join(err, show.Close()); err != nil {
		return err
	}
	_, err = io.WriteString(in.stdout, printableLines(strings.Join(messages.lines, "")))
	return err
}

// openInput opens an archive; a terminal is none.
func (in invocation) openInput(ctx context.Context, file string) (io.ReadCloser, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("--input %s: %v", file, errors.Unwrap(err))
		}
		return f, nil
	}
	if onTerminal(in.stdin) {
		return nil, usagef("the standard input is a terminal, not an archive").withHint("give --input FILE, or redirect the standard input")
	}
	if f, ok := in.stdin.(*os.File); ok && regular(f) {
		return f, nil // so that it need not be copied
	}
	return io.NopCloser(stoppableIn(ctx, in.stdin)), nil
}

// loadMessages turns what Load says into lines and progress. Its context is that of the one Load it lives for.
type loadMessages struct {
	ctx      context.Context //nolint:containedctx // see above
	lines    []string
	vertices map[string]*progress.Vertex
}

// Write takes one message, which Load writes at once.
func (m *loadMessages) Write(p []byte) (int, error) {
	var msg jsonstream.Message
	if err := json.Unmarshal(p, &msg); err != nil {
		return 0, fmt.Errorf("reading progress: %w", err)
	}
	if msg.Stream != "" {
		m.lines = append(m.lines, msg.Stream)
	}
	if msg.Progress == nil {
		return len(p), nil
	}
	v := m.vertices[msg.ID]
	if v == nil {
		v = progress.Start(m.ctx, "load "+msg.ID, "loading layer "+msg.ID)
		m.vertices[msg.ID] = v
	}
	v.Count(msg.ID, msg.Progress.Current, msg.Progress.Total)
	return len(p), nil
}

// end closes what is shown as being under way.
func (m *loadMessages) end(err error) {
	for _, v := range m.vertices {
		v.Done(err)
	}
}
