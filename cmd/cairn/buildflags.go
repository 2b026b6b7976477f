package main

import (
	"github.com/cairn-build/cairn/pkg/build"
	"github.com/cairn-build/cairn/pkg/export"
	"github.com/cairn-build/cairn/pkg/image"
	"github.com/cairn-build/cairn/pkg/ladder"
	"github.com/urfave/cli/v2"
)

// buildFlags are the flags that people type for `docker buildx build`, and cairn's own.
func buildFlags() []cli.Flag {
	list := func(name, usage string) *cli.StringSliceFlag { return &cli.StringSliceFlag{Name: name, Usage: usage} }
	text := func(name, usage string) *cli.StringFlag { return &cli.StringFlag{Name: name, Usage: usage} }
	yes := func(name, usage string) *cli.BoolFlag { return &cli.BoolFlag{Name: name, Usage: usage} }
	flags := []cli.Flag{
		&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "read the Dockerfile from `FILE`, - is standard input",
			DefaultText: "CONTEXT/Dockerfile"},
		&cli.StringSliceFlag{Name: "tag", Aliases: []string{"t"}, Usage: "name the image `NAME[:TAG]`; may be repeated"},
		yes("push", "push the image to the registries of its names; short for --output type=registry"),
		&cli.StringSliceFlag{Name: "output", Aliases: []string{"o"},
			Usage: "`type=registry|image|oci|docker|tar|local[,dest=PATH][,name=NAME]` what is written; also a directory, or - for a tar; may be repeated"},
		list("build-arg", "set the build argument `NAME[=VALUE]`"),
		text("target", "build up to the stage `NAME`"),
		list("label", "set the label `NAME=VALUE`"),
		list("annotation", "`[LEVEL:]NAME=VALUE` an annotation of the image"),
		list("platform", "`OS/ARCH[/VARIANT]` what to build for; several after commas, or repeated"),
		yes("no-cache", "carry every step out"),
		list("no-cache-filter", "carry every step of the stage `NAME` out"),
		yes("pull", "look for newer base images"),
		list("secret", "`id=ID[,src=FILE|,env=NAME]` a secret for RUN --mount=type=secret"),
		yes("allow-secret-in-layer", "let a RUN leave a secret in the image, which fails otherwise"),
		list("ssh", "`default|ID=SOCKET` an agent for RUN --mount=type=ssh"),
		text("network", "`default|none|host` the network of RUN"),
		list("add-host", "add `NAME:IP` to /etc/hosts of RUN"),
		list("ulimit", "`NAME=SOFT[:HARD]` a limit for RUN"),
		text("shm-size", "give RUN /dev/shm of `SIZE`"),
		list("allow", "`network.host|security.insecure` what RUN may ask for"),
		list("build-context", "`NAME=DIR|URL|docker-image://REF|oci-layout://DIR` another context, for COPY --from and FROM"),
		text("iidfile", "write the image ID to `FILE`"),
		text("metadata-file", "write digests and names as JSON to `FILE`"),
		text("progress", "`auto|plain|tty|rawjson|quiet` how progress is shown"),
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the image ID and nothing else"},
		&cli.IntFlag{Name: "jobs", Aliases: []string{"j"}, Usage: "work on at most `N` steps at once, and with 1 on nothing else; 0 is no limit"},
		yes("check", "check the Dockerfile and build nothing; short for --call check"),
		text("call", "`build|check|outline|targets[,format=json]` what is asked for; all but build only tell about the Dockerfile"),
		yes("load", "refused: there is no daemon to load into; use --output type=docker"),
		text("provenance", "`false` is accepted; attestations are not supported yet"),
		text("sbom", "`false` is accepted; attestations are not supported yet"),
		list("attest", "not supported yet"),
		isolationFlag(),
		rootFlag(),
	}
	return append(append(flags, cacheFlags()...), registryFlags()...)
}

// refuse finds the flags that people type for other builders and that are not carried out here.
func refuse(c *cli.Context) error {
	if c.Bool("load") {
		return usagef("--load: there is no daemon to load into").
			withHint("leave it out to keep the image in the local store, or --output type=docker,dest=- | docker load")
	}
	if v := c.StringSlice("attest"); len(v) > 0 {
		return usagef("--attest %s: not supported yet", v[0]).withHint("leave it out")
	}
	for _, name := range []string{"provenance", "sbom"} {
		if err := parseAttestation(name, c.String(name)); err != nil {
			return err
		}
	}
	return nil
}

// buildRequest is a command line of `cairn build` that was read and found right. Nothing has been done and no file read.
type buildRequest struct {
	options               build.Options
	call                  callRequest
	secrets               []secretSource
	progress              string
	quiet                 bool
	isolation             ladder.Isolation
	iidFile, metadataFile string
}

// parseBuild reads the command line of `cairn build`.
func (in invocation) parseBuild(c *cli.Context) (*buildRequest, error) {
	args, err := operands(c, 1, 1, "one CONTEXT")
	if err != nil {
		return nil, err
	}
	if err := refuse(c); err != nil {
		return nil, err
	}
	call, err := parseCall(c.String("call"), c.Bool("check"))
	if err != nil {
		return nil, err
	}
	req := &buildRequest{
		call:  call,
		quiet: c.Bool("quiet"), iidFile: c.String("iidfile"), metadataFile: c.String("metadata-file"),
	}
	if req.progress, err = in.progressMode(c); err != nil {
		return nil, err
	}
	if req.isolation, err = isolation(c); err != nil {
		return nil, err
	}
	o := &req.options
	o.Input = build.Input{Context: args[0], Dockerfile: c.String("file"), Stdin: in.stdin}
	if o.Input.Named, err = parseContexts(c.StringSlice("build-context")); err != nil {
		return nil, err
	}
	if o.Input.Context == "-" && o.Input.Dockerfile == "-" {
		return nil, usagef("both the context and the Dockerfile are to come from standard input").
			withHint("the Dockerfile alone: cairn build -; with files: cairn build -f - DIR")
	}
	if err := in.parsePlanArgs(c, o); err != nil {
		return nil, err
	}
	if err := in.parseRunOptions(c, req); err != nil {
		return nil, err
	}
	if o.Cache.Jobs = c.Int("jobs"); o.Cache.Jobs < 0 {
		return nil, usagef("--jobs %d: not a number of steps", o.Cache.Jobs)
	}
	o.Cache.NoCache, o.Cache.NoCacheFilter = c.Bool("no-cache"), c.StringSlice("no-cache-filter")
	if o.Share, err = parseShare(c); err != nil {
		return nil, err
	}
	if err := in.parseResult(c, o); err != nil {
		return nil, err
	}
	if err := o.Check(); err != nil {
		return nil, usagef("%w", err)
	}
	return req, nil
}

// parsePlanArgs reads what the Dockerfile is planned for.
func (in invocation) parsePlanArgs(c *cli.Context, o *build.Options) (err error) {
	a := &o.Args
	a.Target = c.String("target")
	if a.Platforms, err = parsePlatforms(c.StringSlice("platform")); err != nil {
		return err
	}
	if a.Labels, err = parseLabels(c.StringSlice("label")); err != nil {
		return err
	}
	if a.Network, err = parseNetwork(c.String("network")); err != nil {
		return err
	}
	if a.AllowHostNetwork, a.AllowInsecure, err = parseAllow(c.StringSlice("allow")); err != nil {
		return err
	}
	given, err := parseArgs(c.StringSlice("build-arg"), in.env)
	if err != nil {
		return err
	}
	// The proxies of the environment are those of RUN, unless the command line has others; docker does so with its config's.
	a.BuildArgs = in.env.proxies()
	if text, ok := in.env["SOURCE_DATE_EPOCH"]; ok && text != "" {
		a.BuildArgs["SOURCE_DATE_EPOCH"] = text
	}
	for name, value := range given {
		a.BuildArgs[name] = value
	}
	return nil
}

// parseRunOptions reads what every RUN gets.
func (in invocation) parseRunOptions(c *cli.Context, req *buildRequest) (err error) {
	run := &req.options.Run
	if run.Hosts, err = parseHosts(c.StringSlice("add-host")); err != nil {
		return err
	}
	if run.Ulimits, err = parseUlimits(c.StringSlice("ulimit")); err != nil {
		return err
	}
	if run.ShmSize, err = parseShmSize(c.String("shm-size")); err != nil {
		return err
	}
	if req.secrets, err = parseSecrets(c.StringSlice("secret"), in.env); err != nil {
		return err
	}
	run.AllowSecretInLayer = c.Bool("allow-secret-in-layer")
	run.SSH, err = parseSSH(c.StringSlice("ssh"), in.env)
	return err
}

// parseResult reads what becomes of the image.
func (in invocation) parseResult(c *cli.Context, o *build.Options) error {
	r := &o.Result
	for _, t := range c.StringSlice("tag") {
		name, err := image.Normalize(t)
		if err != nil {
			return usagef("--tag %q: %v", t, err).withHint("a name is [HOST[:PORT]/]PATH[:TAG], in lower case")
		}
		r.Tags = append(r.Tags, name)
	}
	for _, text := range c.StringSlice("output") {
		out, err := export.ParseOutput(text)
		if err != nil {
			return usagef("%v", err).withHint("see `cairn build --help`")
		}
		r.Outputs = append(r.Outputs, out)
	}
	if c.Bool("push") {
		r.Outputs = append(r.Outputs, export.Output{Type: export.TypeRegistry})
	}
	for _, text := range c.StringSlice("annotation") {
		a, err := image.ParseAnnotation(text)
		if err != nil {
			return usagef("%v", err)
		}
		r.Annotations = append(r.Annotations, a...)
	}
	r.Stdout = in.stdout
	if err := export.Check(r.Outputs, r.Tags, max(1, len(o.Args.Platforms)), in.stdout); err != nil {
		return usagef("%v", err).withHint("cairn build --tag NAME --output ... CONTEXT")
	}
	return nil
}

// progressMode is how progress is shown.
func (in invocation) progressMode(c *cli.Context) (string, error) {
	mode, from := c.String("progress"), "--progress"
	if mode == "" {
		mode, from = in.env["BUILDKIT_PROGRESS"], "environment variable BUILDKIT_PROGRESS"
	}
	if c.Bool("quiet") {
		return "quiet", nil
	}
	switch mode {
	case "", "auto", "plain", "tty", "rawjson", "quiet":
		return mode, nil
	case "none": // docker compose's word for it
		return "quiet", nil
	}
	return "", usagef("%s %q: unknown mode", from, mode).withHint("the modes are auto, plain, tty, rawjson and quiet")
}
