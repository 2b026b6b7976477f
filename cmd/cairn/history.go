package main

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/store"
	"github.com/docker/go-units"
	dockerimage "github.com/moby/moby/api/types/image"
	"github.com/urfave/cli/v2"
)

func (in invocation) historyCommand() *cli.Command {
	return &cli.Command{
		Name: "history", Usage: "show the steps that made an image", ArgsUsage: "[flags] IMAGE",
		Flags: []cli.Flag{
			formatFlag(),
			&cli.BoolFlag{Name: "human", Aliases: []string{"H"}, Value: true, Usage: "show times and sizes for people"},
			&cli.BoolFlag{Name: "no-trunc", Usage: "show everything in full"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print image IDs only"},
			platformFlag(), rootFlag(),
		},
		Action: func(c *cli.Context) error {
			args, err := operands(c, 1, 1, "one IMAGE")
			if err != nil {
				return err
			}
			platform, err := onePlatform(c)
			if err != nil {
				return err
			}
			return in.withImages(c, func(_ *store.Store, local *image.Local) error {
				steps, err := local.History(args[0], platform)
				if err != nil {
					return noSuchImage(args[0], err)
				}
				l := historyListing(steps, c.Bool("human"), c.Bool("no-trunc"))
				if c.Bool("quiet") && c.String("format") == "table" {
					return l.column(in.stdout, "ID")
				}
				return l.write(in.stdout, c.String("format"))
			})
		},
	}
}

// historyListing shows steps with Docker's columns.
func historyListing(steps []dockerimage.HistoryResponseItem, human, whole bool) listing {
	l := listing{
		headers: map[string]string{
			"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT",
		},
		table: "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
	}
	if !human {
		l.table = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
	}
	for _, s := range steps {
		at := time.Unix(s.Created, 0).Format(time.RFC3339)
		since, size := at, strconv.FormatInt(s.Size, 10)
		if human {
			size = units.HumanSizeWithPrecision(float64(s.Size), 3)
			since = "N/A"
			if s.Created > 0 {
				since = units.HumanDuration(time.Since(time.Unix(s.Created, 0))) + " ago"
			}
		}
		by := strings.ReplaceAll(s.CreatedBy, "\t", " ")
		if !whole {
			by = ellipsis(by, 45)
		}
		l.rows = append(l.rows, map[string]string{
			"ID": shortID(s.ID, whole), "CreatedSince": since, "CreatedAt": at, "CreatedBy": by, "Size": size, "Comment": s.Comment,
		})
	}
	return l
}

// ellipsis cuts text to n characters, the last of which is then "…".
func ellipsis(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:n-1]) + "…"
}
