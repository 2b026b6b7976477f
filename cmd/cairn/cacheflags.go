package main

import (
	"errors"
	"strings"

	"github.com/cairn-build/cairn/pkg/build"
	"github.com/cairn-build/cairn/pkg/cache"
	"github.com/urfave/cli/v2"
)

// cacheFlags are the flags that say where the records of the cache come from and go to.
func cacheFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "cache-from", Usage: "`REF|type=registry,ref=REF|type=local,src=DIR` where to look for steps too; may be repeated, in order"},
		&cli.StringSliceFlag{Name: "cache-to",
			Usage: "`type=registry,ref=REF[,mode=max]|type=inline|type=local,dest=DIR[,mode=max]` where steps are exported to; may be repeated"},
		&cli.StringSliceFlag{Name: "cache-mounts-from",
			Usage: "`type=registry,ref=REF|type=local,src=DIR[,id=ID]` what new directories of RUN --mount=type=cache are filled from"},
		&cli.StringSliceFlag{Name: "cache-mounts-to",
			Usage: "`type=registry,ref=REF|type=local,dest=DIR[,id=ID]` where the directories of RUN --mount=type=cache are exported to"},
		&cli.BoolFlag{Name: "explain", Usage: "say of every step whether it was cached, and of a miss what changed"},
		&cli.GenericFlag{Name: "expect-cached", Value: &stageList{}, Usage: "fail when a step of `[=STAGE,...]`, or of any stage, is not cached"},
	}
}

// stageList is a flag that can stand alone, for all stages, or name some: --expect-cached, --expect-cached=build,test.
type stageList build.Expectation

// IsBoolFlag makes package flag accept the flag without a value.
func (*stageList) IsBoolFlag() bool { return true }

// Set implements flag.Value.
func (l *stageList) Set(text string) error {
	if text == "true" {
		l.All = true
		return nil
	}
	for _, name := range strings.Split(text, ",") {
		if name = strings.TrimSpace(name); name == "" {
			return errors.New("want names of stages")
		}
		l.Stages = append(l.Stages, name)
	}
	return nil
}

// String implements flag.Value.
func (l *stageList) String() string {
	if l == nil || !l.All {
		return ""
	}
	return "true"
}

// parseShare reads cacheFlags.
func parseShare(c *cli.Context) (s build.ShareOptions, err error) {
	for _, f := range []struct {
		flag  string
		parse func(string) (cache.Location, error)
		to    *[]cache.Location
	}{
		{"cache-from", cache.ParseImport, &s.From}, {"cache-to", cache.ParseExport, &s.To},
		{"cache-mounts-from", cache.ParseMountImport, &s.MountsFrom}, {"cache-mounts-to", cache.ParseMountExport, &s.MountsTo},
	} {
		for _, text := range c.StringSlice(f.flag) {
			l, err := f.parse(text)
			if err != nil {
				return s, usagef("%v", err).withHint("see docs/cache.md, or `cairn build --help`")
			}
			*f.to = append(*f.to, l)
		}
	}
	s.Explain = c.Bool("explain")
	if l, ok := c.Generic("expect-cached").(*stageList); ok {
		s.Expect = build.Expectation(*l)
	}
	if (s.Expect.All || len(s.Expect.Stages) > 0) && (c.Bool("no-cache") || len(c.StringSlice("no-cache-filter")) > 0) {
		return s, usagef("--expect-cached contradicts --no-cache and --no-cache-filter").withHint("leave one of them out")
	}
	return s, nil
}
