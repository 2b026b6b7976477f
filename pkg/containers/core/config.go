package core

import (
	"fmt"
	"slices"
	"sync"

	"github.com/cairn-build/cairn/pkg/hint"
)

// BackendConfig is the configuration of a backend. Its type says which.
type BackendConfig interface {
	BackendType() BackendType
}

// NativeConfig is that of cairn's own backend. The zero value is what the command uses without flags.
type NativeConfig struct {
	// Root is the directory of the store; "" is the command's.
	Root string
	// AuthFiles hold credentials for registries; nil are Docker's and containers' files.
	AuthFiles []string
	// CAFiles, InsecureHosts and Mirrors say how registries are reached, as the command's --registry-ca, --insecure-registry and --registry-mirror.
	CAFiles       []string
	InsecureHosts []string
	Mirrors       map[string][]string
}

// DockerConfig is that of a Docker daemon.
type DockerConfig struct {
	// Host is the daemon's address; "" is $DOCKER_HOST, then that of Docker's current context, then the default socket.
	Host string
	// APIVersion fixes the version of the API; "" negotiates it.
	APIVersion string
}

// RootlessMode says whether containerd runs as an ordinary user.
type RootlessMode int

// The values of RootlessMode. Auto goes by the user.
const (
	RootlessModeAuto RootlessMode = iota
	RootlessModeEnabled
	RootlessModeDisabled
)

// String returns "auto", "enabled" or "disabled".
func (m RootlessMode) String() string {
	switch m {
	case RootlessModeAuto:
		return "auto"
	case RootlessModeEnabled:
		return "enabled"
	case RootlessModeDisabled:
		return "disabled"
	}
	return "unknown"
}

// ContainerdConfig is that of a containerd.
type ContainerdConfig struct {
	// SocketPath is the daemon's socket; "" is the usual one. Namespace is containerd's; "" is "default".
	SocketPath string
	Namespace  string
	// Runtime is the handler that runs containers, Snapshotter what keeps their root filesystems; "" is containerd's default.
	Runtime     string
	Snapshotter string
	// Credentials returns what to log in to a registry with; nil logs in nowhere. An empty user with a secret is an identity token.
	Credentials func(host string) (user, secret string, err error)
	// Build says where and with which registries images are built: containerd itself builds none.
	Build NativeConfig
	// The fields below say how a daemon is started that does not run yet.
	RootlessMode      RootlessMode
	RootlesskitPath   string
	FuseOverlayfsPath string
	AutoStart         bool
	ContainerdPath    string
}

// FirecrackerConfig and NanosConfig are those of backends that nothing here provides: New refuses them.
type FirecrackerConfig struct {
	SocketPath   string
	AutoDownload bool
	Version      string
	BinaryPath   string
}

// NanosConfig is that of unikernels.
type NanosConfig struct {
	ConfigPath string
	WorkDir    string
}

// BackendType implements BackendConfig, as do those below.
func (NativeConfig) BackendType() BackendType { return BackendTypeNative }

// BackendType implements BackendConfig.
func (DockerConfig) BackendType() BackendType { return BackendTypeDocker }

// BackendType implements BackendConfig.
func (ContainerdConfig) BackendType() BackendType { return BackendTypeContainerd }

// BackendType implements BackendConfig.
func (FirecrackerConfig) BackendType() BackendType { return BackendTypeFirecracker }

// BackendType implements BackendConfig.
func (NanosConfig) BackendType() BackendType { return BackendTypeNanos }

// BackendFactory makes a backend of its configuration.
type BackendFactory func(BackendConfig) (Backend, error)

// backends are those of the packages that are linked into the program. It is written while packages are initialised.
var backends = struct {
	sync.Mutex
	of map[BackendType]BackendFactory
}{of: map[BackendType]BackendFactory{}}

// RegisterBackend makes a backend available. A package that provides one calls it while package variables are initialised,
//
//	var _ = core.RegisterBackend(core.BackendTypeDocker, newBackend)
//
// so that importing the package is enough. The result means nothing.
func RegisterBackend(t BackendType, f BackendFactory) bool {
	backends.Lock()
	defer backends.Unlock()
	backends.of[t] = f
	return true
}

// GetBackendFactory returns what makes a kind of backend.
func GetBackendFactory(t BackendType) (BackendFactory, bool) {
	backends.Lock()
	defer backends.Unlock()
	f, ok := backends.of[t]
	return f, ok
}

// AvailableBackendTypes are the kinds of backends linked into the program, sorted.
func AvailableBackendTypes() []BackendType {
	backends.Lock()
	defer backends.Unlock()
	var out []BackendType
	for t := range backends.of {
		out = append(out, t)
	}
	slices.Sort(out)
	return out
}

// NewBackend makes the backend that a configuration is for. One that is not linked into the program is ErrBackendNotAvailable.
func NewBackend(c BackendConfig) (Backend, error) {
	if c == nil {
		return nil, fmt.Errorf("%w: no configuration given", ErrBackendNotAvailable)
	}
	f, ok := GetBackendFactory(c.BackendType())
	if !ok {
		return nil, hint.With(fmt.Errorf("%w: %s", ErrBackendNotAvailable, c.BackendType()), "import the package that provides it")
	}
	return f(c)
}
