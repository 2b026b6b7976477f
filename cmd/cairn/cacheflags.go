package main

import (
	"github.com/cairn-build/cairn/pkg/build"
	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/urfave/cli/v2"
)

// cacheFlags are the flags that say where the records of the cache come from and go to.
func cacheFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "cache-from", Usage: "look for steps in `REF|type=registry,ref=REF|type=local,src=DIR` too; may be repeated, in order"},
		&cli.StringSliceFlag{Name: "cache-to",
			Usage: "export the steps to `type=registry,ref=REF[,mode=max]|type=inline|type=local,dest=DIR[,mode=max]`; may be repeated"},
	}
}

// parseShare reads cacheFlags.
func parseShare(c *cli.Context) (s build.ShareOptions, err error) {
	for _, f := range []struct {
		flag  string
		parse func(string) (cache.Location, error)
		to    *[]cache.Location
	}{
		{"cache-from", cache.ParseImport, &s.From}, {"cache-to", cache.ParseExport, &s.To},
	} {
		for _, text := range c.StringSlice(f.flag) {
			l, err := f.parse(text)
			if err != nil {
				return s, usagef("%v", err).withHint("see docs/cache.md, or `cairn build --help`")
			}
			*f.to = append(*f.to, l)
		}
	}
	return s, nil
}
