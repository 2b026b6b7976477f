package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/cairn-build/cairn/pkg/registry"
	"github.com/urfave/cli/v2"
)

func (in invocation) loginCommand() *cli.Command {
	return &cli.Command{
		Name: "login", Usage: "keep credentials for a registry", ArgsUsage: "[flags] [SERVER]",
		Description: "They are tried first, and then kept where Docker keeps them: with the credential helper that config.json names, or else in\n" +
			"config.json itself. SERVER is docker.io where it is not given. Without --username, the credentials that are kept already are tried.",
		Flags: append(registryFlags(),
			&cli.StringFlag{Name: "username", Aliases: []string{"u"}, Usage: "log in as `USER`"},
			&cli.StringFlag{Name: "password", Aliases: []string{"p"}, Usage: "log in with `PASSWORD`, which everybody on this machine can see meanwhile"},
			&cli.BoolFlag{Name: "password-stdin", Usage: "read the password from standard input"}),
		Action: in.login,
	}
}

func (in invocation) logoutCommand() *cli.Command {
	return &cli.Command{
		Name: "logout", Usage: "forget the credentials for a registry", ArgsUsage: "[flags] [SERVER]",
		Action: func(c *cli.Context) error {
			host, err := loginHost(c)
			if err != nil {
				return err
			}
			found := false
			for _, file := range in.authFiles() {
				was, err := registry.RemoveLogin(c.Context, file, host)
				if err != nil {
					return err
				}
				found = found || was
			}
			text := "Not logged in to " + host
			if found {
				text = "Removing login credentials for " + host
			}
			_, err = fmt.Fprintln(in.stdout, text)
			return err
		},
	}
}

func loginHost(c *cli.Context) (string, error) {
	args, err := operands(c, 0, 1, "at most one SERVER")
	if err != nil {
		return "", err
	}
	host, err := registry.LoginHost(strings.Join(args, ""))
	if err != nil {
		return "", usagef("%v", err)
	}
	return host, nil
}

// authFiles are where credentials are looked for; login writes to the first.
func (in invocation) authFiles() []string {
	return registry.DefaultAuthFiles(in.env["REGISTRY_AUTH_FILE"], in.env["DOCKER_CONFIG"], in.env["XDG_RUNTIME_DIR"], in.env["HOME"])
}

func (in invocation) login(c *cli.Context) error {
	host, err := loginHost(c)
	if err != nil {
		return err
	}
	user := c.String("username")
	password, err := in.loginPassword(c, user)
	if err != nil {
		return err
	}
	options, err := in.registryOptions(c)
	if err != nil {
		return err
	}
	if user != "" {
		options.Keychain = registry.Keychain(host, user, password)
	}
	client, err := registry.New(options)
	if err != nil {
		return usagef("%v", err)
	}
	defer client.Close()
	found, err := client.Login(c.Context, host)
	if err != nil {
		return err
	}
	if !found {
		return usagef("no credentials are kept for %s, and none were given", host).
			withHint("cairn login --username USER --password-stdin %s < FILE", host)
	}
	if user != "" {
		if err := in.keepLogin(c, host, user, password); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(in.stdout, "Login Succeeded")
	return err
}

func (in invocation) keepLogin(c *cli.Context, host, user, password string) error {
	files := in.authFiles()
	if len(files) == 0 {
		return usagef("no place to keep credentials: neither DOCKER_CONFIG nor HOME is set")
	}
	inFile, err := registry.SaveLogin(c.Context, files[0], host, user, password)
	if err == nil && inFile {
		warn(in.stderr, "the password is kept unencrypted in %s", files[0])
	}
	return err
}

// maxPassword bounds a password that is read, in bytes.
const maxPassword = 64 << 10

// loginPassword finds the password for a user, "" if no user was given. Nothing is asked for on a terminal.
func (in invocation) loginPassword(c *cli.Context, user string) (string, error) {
	given := c.IsSet("password")
	switch {
	case given && c.Bool("password-stdin"):
		return "", usagef("--password and --password-stdin exclude each other")
	case user == "" && (given || c.Bool("password-stdin")):
		return "", usagef("a password without --username")
	case user == "":
		return "", nil
	case given:
		warn(in.stderr, "a password on the command line can be seen by everybody on this machine: use --password-stdin")
		return c.String("password"), nil
	case !c.Bool("password-stdin"):
		return "", usagef("no password was given for %s", user).withHint("cairn login --username %s --password-stdin < FILE", user)
	}
	data, err := io.ReadAll(io.LimitReader(stoppableIn(c.Context, in.stdin), maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("reading the password: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if password == "" || len(password) > maxPassword {
		return "", usagef("the password on standard input is empty or too long")
	}
	return password, nil
}
