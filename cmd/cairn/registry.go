package main

import (
	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/urfave/cli/v2"
)

func (in invocation) registryCommand() *cli.Command {
	return &cli.Command{
		Name: "registry", Usage: "serve a small registry",
		Subcommands: []*cli.Command{{
			Name: "serve", Usage: "serve a registry for demonstrations and tests, without authentication, until stopped",
			ArgsUsage: "[flags]",
			Description: "The first line on standard output is \"registry: listening on HOST:PORT\", once connections are accepted. Names are kept in\n" +
				"memory only, so that a registry that is started again is empty.",
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "listen", Value: "127.0.0.1:5000", Usage: "accept connections at `[HOST]:PORT`; port 0 is any free one"},
				&cli.StringFlag{Name: "dir", Usage: "keep blobs in `DIR`", DefaultText: "memory"},
			},
			Action: func(c *cli.Context) error {
				if _, err := operands(c, 0, 0, "no arguments"); err != nil {
					return err
				}
				return registry.Serve(c.Context, c.String("listen"), c.String("dir"), in.stdout)
			},
		}},
	}
}
