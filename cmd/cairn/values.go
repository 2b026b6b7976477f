package main

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/executor"
	"github.com/cairn-build/cairn/pkg/secret"
	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxSecret bounds a secret, in bytes, as BuildKit does.
const maxSecret = 500 * 1024

// fields reads a value of the form key=value,key=value, where a field can be quoted as in CSV. A field without "=" has the value "".
func fields(flag, text string) ([][2]string, error) {
	record, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, usagef("--%s %q: not a comma-separated list: %v", flag, text, err)
	}
	out := make([][2]string, 0, len(record))
	for _, f := range record {
		k, v, _ := strings.Cut(f, "=")
		out = append(out, [2]string{strings.ToLower(strings.TrimSpace(k)), v})
	}
	return out, nil
}

// parseArgs reads --build-arg values. A name without "=" takes its value from the environment and is left out where it has none.
func parseArgs(values []string, env environment) (map[string]string, error) {
	args := map[string]string{}
	for _, v := range values {
		name, value, ok := strings.Cut(v, "=")
		if name == "" {
			return nil, usagef("--build-arg %q: no name", v).withHint("--build-arg NAME=VALUE")
		}
		if !ok {
			if value, ok = env[name]; !ok {
				continue
			}
		}
		args[name] = value
	}
	return args, nil
}

// parseLabels reads --label values. A name without "=" has an empty value.
func parseLabels(values []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, v := range values {
		name, value, _ := strings.Cut(v, "=")
		if name == "" {
			return nil, usagef("--label %q: no name", v).withHint("--label NAME=VALUE")
		}
		labels[name] = value
	}
	return labels, nil
}

// parseContexts reads --build-context values.
func parseContexts(values []string) (map[string]string, error) {
	named := map[string]string{}
	for _, v := range values {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" || value == "" {
			return nil, usagef("--build-context %q: not NAME=VALUE", v).
				withHint("VALUE is a directory, a URL, docker-image://NAME or oci-layout://DIR")
		}
		if strings.EqualFold(name, "context") || strings.EqualFold(name, "dockerfile") {
			return nil, usagef("--build-context %q: the name %q is reserved", v, name)
		}
		named[name] = value
	}
	return named, nil
}

// parsePlatforms reads --platform values, each of which may be a list; "local" is this machine.
func parsePlatforms(values []string) ([]ocispec.Platform, error) {
	var out []ocispec.Platform
	for _, list := range values {
		for _, v := range strings.Split(list, ",") {
			if v = strings.TrimSpace(v); v == "local" {
				out = append(out, platforms.Normalize(platforms.DefaultSpec()))
				continue
			}
			p, err := platforms.Parse(v)
			if err != nil {
				return nil, usagef("--platform %q: %v", v, err).withHint("a platform is os/arch or os/arch/variant, as linux/arm64")
			}
			out = append(out, platforms.Normalize(p))
		}
	}
	return out, nil
}

// parseHosts reads --add-host values: NAME:IP or NAME=IP; an IPv6 address may stand in brackets.
func parseHosts(values []string) ([]executor.Host, error) {
	var out []executor.Host
	for _, v := range values {
		name, ip, ok := strings.Cut(v, "=")
		if !ok {
			name, ip, ok = strings.Cut(v, ":")
		}
		addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]"))
		if !ok || name == "" || err != nil {
			hint := "--add-host NAME:IP"
			if ip == "host-gateway" {
				hint = "RUN has the caller's network: use 127.0.0.1 in place of host-gateway"
			}
			return nil, usagef("--add-host %q: not a name and an IP address", v).withHint("%s", hint)
		}
		out = append(out, executor.Host{Name: name, IP: addr})
	}
	return out, nil
}

// parseUlimits reads --ulimit values: NAME=SOFT[:HARD].
func parseUlimits(values []string) ([]executor.Ulimit, error) {
	var out []executor.Ulimit
	for _, v := range values {
		u, err := units.ParseUlimit(v)
		if err != nil {
			return nil, usagef("--ulimit %q: %v", v, err).withHint("--ulimit NAME=SOFT[:HARD], as nofile=1024:2048")
		}
		out = append(out, executor.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out, nil
}

// parseShmSize reads --shm-size: a number of bytes with an optional unit of 1024: 64m, 1g.
func parseShmSize(value string) (int64, error) {
	if value == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(value)
	if err != nil || n < 0 {
		return 0, usagef("--shm-size %q: not a size", value).withHint("a size is a number with an optional unit b, k, m or g, as 64m")
	}
	return n, nil
}

// secretSource says where a secret is. Its value is read when the work begins and not before: a file may be a pipe.
type secretSource struct{ id, file, env string }

// parseSecrets reads --secret values, id=ID[,src=FILE | ,env=NAME][,type=file|env]. Without src and env the secret is the environment variable with the
// name ID, or else the file ID.
func parseSecrets(values []string, env environment) ([]secretSource, error) {
	var out []secretSource
	for _, v := range values {
		s, err := parseSecret(v, env)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func parseSecret(text string, env environment) (secretSource, error) {
	const hint = "--secret id=ID,src=FILE or --secret id=ID,env=NAME"
	var s secretSource
	list, err := fields("secret", text)
	if err != nil {
		return s, err
	}
	var kind string
	for _, kv := range list {
		switch value := kv[1]; kv[0] {
		case "id":
			s.id = value
		case "src", "source":
			s.file = value
		case "env":
			s.env = value
		case "type":
			kind = value
		default:
			return s, usagef("--secret: unknown key %q", kv[0]).withHint(hint)
		}
	}
	switch {
	case s.id == "":
		return s, usagef("--secret has no id").withHint(hint)
	case kind != "" && kind != "file" && kind != "env":
		return s, usagef("--secret id=%s: unknown type %q", s.id, kind).withHint("the types are file and env")
	case s.file != "" && s.env != "", kind == "file" && s.env != "":
		return s, usagef("--secret id=%s: src and env exclude each other", s.id)
	case kind == "env" && s.env == "":
		s.env, s.file = s.file, ""
	}
	if s.env == "" && s.file == "" {
		if _, ok := env[s.id]; ok && kind != "file" {
			s.env = s.id
		} else {
			s.file = s.id
		}
	}
	return s, nil
}

// readSecrets reads the values of secrets.
func readSecrets(sources []secretSource, env environment) (map[string]secret.Value, error) {
	out := map[string]secret.Value{}
	for _, s := range sources {
		if s.env != "" {
			value, ok := env[s.env]
			if !ok {
				return nil, usagef("--secret id=%s: environment variable %s is not set", s.id, s.env)
			}
			out[s.id] = secret.New([]byte(value))
			continue
		}
		data, err := readAtMost(s.file, maxSecret)
		if err != nil {
			return nil, usagef("--secret id=%s: %v", s.id, err)
		}
		out[s.id] = secret.New(data)
	}
	return out, nil
}

// readAtMost reads a file that may not be longer than limit bytes.
func readAtMost(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, err
}

// parseSSH reads --ssh values: "default" (the agent at SSH_AUTH_SOCK) or ID=SOCKET.
func parseSSH(values []string, env environment) (map[string]string, error) {
	out := map[string]string{}
	for _, v := range values {
		id, socket, ok := strings.Cut(v, "=")
		if !ok {
			if socket = env["SSH_AUTH_SOCK"]; socket == "" {
				return nil, usagef("--ssh %s: no agent: SSH_AUTH_SOCK is not set", v).withHint("start one with `eval $(ssh-agent)`, or --ssh ID=SOCKET")
			}
		}
		info, err := os.Stat(socket)
		switch {
		case err != nil:
			return nil, usagef("--ssh %s: %v", id, err)
		case info.Mode()&os.ModeSocket == 0:
			return nil, usagef("--ssh %s: %s is not the socket of an agent", id, socket).withHint("add the key to an agent with ssh-add, and pass its socket")
		}
		out[id] = socket
	}
	return out, nil
}

// parseAllow reads --allow values: the entitlements that RUN may use.
func parseAllow(values []string) (hostNetwork, insecure bool, err error) {
	for _, v := range values {
		switch v {
		case "network.host":
			hostNetwork = true
		case "security.insecure":
			insecure = true
		default:
			return false, false, usagef("--allow %q: unknown entitlement", v).withHint("the entitlements are network.host and security.insecure")
		}
	}
	return hostNetwork, insecure, nil
}

// parseNetwork reads --network.
func parseNetwork(v string) (string, error) {
	switch v {
	case "", "default":
		return "", nil
	case "none", "host":
		return v, nil
	}
	return "", usagef("--network %q: unknown mode", v).withHint("the modes are default, none and host")
}

// parseAttestation reads --provenance and --sbom: what turns them off is accepted, nothing else is supported.
func parseAttestation(flag, v string) error {
	if v == "" {
		return nil
	}
	if on, err := strconv.ParseBool(v); err == nil && !on {
		return nil
	}
	return usagef("--%s %s: attestations are not supported", flag, v).withHint("leave the flag out, or --%s=false", flag)
}

// readEnvFile reads the lines NAME=VALUE or NAME of a file; # starts a comment line.
func readEnvFile(name string, env environment) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, usagef("--env-file: %v", err)
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return expandEnv("env-file "+name, out, env)
}

// expandEnv fills in the values of names without "=", and drops those that have none. from is the flag they come from.
func expandEnv(from string, values []string, env environment) ([]string, error) {
	var out []string
	for _, v := range values {
		name, _, ok := strings.Cut(v, "=")
		if name == "" {
			return nil, usagef("--%s: %q has no name", from, v).withHint("--env NAME[=VALUE]")
		}
		if !ok {
			value, ok := env[v]
			if !ok {
				continue
			}
			v += "=" + value
		}
		out = append(out, v)
	}
	return out, nil
}
