package plan

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/cairn-build/cairn/pkg/dockerfile"
)

// expose adds ports to the config. Its words are split after their variables have been expanded.
func (s *stage) expose(c *dockerfile.ExposeCommand, checks *dockerfile.Checks) error {
	cfg := &s.out.Image.Config
	ports := []string{}
	for _, word := range c.Ports {
		specs, err := s.p.lex.ProcessWords(word, s.env)
		if err != nil {
			return err
		}
		for _, spec := range specs {
			more, err := parsePorts(spec, c.Location(), checks)
			if err != nil {
				return err
			}
			ports = append(ports, more...)
		}
	}
	if cfg.ExposedPorts == nil {
		cfg.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		cfg.ExposedPorts[p] = struct{}{}
	}
	s.metadata(fmt.Sprintf("EXPOSE %v", ports))
	return nil
}

// parsePorts reads "[[ip:]host:]port[-port][/proto]" into "port/proto", one for each port. Addresses and ports of the host mean nothing to an
// image; they are accepted with a warning, as BuildKit does, but must be well-formed.
func parsePorts(spec string, at []dockerfile.Range, checks *dockerfile.Checks) ([]string, error) {
	ip, host, container := splitPort(spec)
	container, proto, _ := strings.Cut(container, "/")
	if container == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", spec)
	}
	switch strings.ToLower(proto) {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", spec, proto)
	}
	if proto != strings.ToLower(proto) {
		checks.ExposeProtoCasing(at, spec)
	}
	if ip != "" || host != "" {
		checks.ExposeInvalidFormat(at, spec)
	}
	if err := checkHostIP(ip); err != nil {
		return nil, err
	}
	first, last, err := parseRange(container)
	if err != nil {
		return nil, errors.New("invalid containerPort: " + container)
	}
	if host != "" {
		hostFirst, hostLast, err := parseRange(host)
		if err != nil {
			return nil, errors.New("invalid hostPort: " + host)
		}
		if last-first != hostLast-hostFirst && last != first {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", container, host)
		}
	}
	out := make([]string, 0, last-first+1)
	for n := first; n <= last; n++ {
		out = append(out, strconv.Itoa(n)+"/"+strings.ToLower(proto))
	}
	return out, nil
}

// splitPort splits at the last two colons: what is before them may be an IPv6 address.
func splitPort(spec string) (ip, host, container string) {
	i := strings.LastIndexByte(spec, ':')
	if i < 0 {
		return "", "", spec
	}
	host, container = spec[:i], spec[i+1:]
	if i = strings.LastIndexByte(host, ':'); i >= 0 {
		ip, host = host[:i], host[i+1:]
	}
	return ip, host, container
}

func checkHostIP(ip string) error {
	if strings.HasPrefix(ip, "[") {
		bare, _, err := net.SplitHostPort(ip + ":")
		if err != nil {
			return fmt.Errorf("invalid IP address %v: %w", ip, err)
		}
		ip = bare
	}
	if ip != "" && net.ParseIP(ip) == nil {
		return errors.New("invalid IP address: " + ip)
	}
	return nil
}

// parseRange reads "port" or "first-last".
func parseRange(text string) (first, last int, err error) {
	a, b, isRange := strings.Cut(text, "-")
	if first, err = parsePort(a); err != nil || !isRange {
		return first, first, err
	}
	if last, err = parsePort(b); err == nil && last < first {
		err = fmt.Errorf("invalid port range: %s", text)
	}
	return first, last, err
}

func parsePort(text string) (int, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (n < 0 || n > 65535) {
		err = fmt.Errorf("port %d is out of range", n)
	}
	return int(n), err
}
