package exectest

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/executor"
)

// Suite runs every test against the executors that newExecutor makes.
//
// without names the cases that an executor does not meet; whoever gives them says why beside them.
func Suite(t *testing.T, newExecutor func(t testing.TB) executor.Executor, without ...string) {
	for _, c := range []struct {
		name string
		fn   func(t *testing.T, e executor.Executor)
	}{
		{"ExitCodes", testExitCodes},
		{"CannotExecute", testCannotExecute},
		{"BadSpecs", testBadSpecs},
		{"Environment", testEnvironment},
		{"WorkingDirectory", testWorkingDirectory},
		{"Users", testUsers},
		{"BadUsers", testBadUsers},
		{"HostileUserFiles", testHostileUserFiles},
		{"Streams", testStreams},
		{"Stdin", testStdin},
		{"Terminal", testTerminal},
		{"OutputWhileRunning", testOutputWhileRunning},
		{"Flood", testFlood},
		{"Cancel", testCancel},
		{"Stop", testStop},
		{"Concurrent", testConcurrent},
		{"NothingLeftInRoot", testNothingLeftInRoot},
		{"EtcFiles", testEtcFiles},
		{"Mounts", testMounts},
		{"TmpfsSize", testTmpfsSize},
		{"MountStubs", testMountStubs},
		{"NetworkNone", testNetworkNone},
		{"NetworkDefault", testNetworkDefault},
		{"Ulimits", testUlimits},
		{"Umask", testUmask},
		{"Capabilities", testCapabilities},
		{"Insecure", testInsecure},
		{"Seccomp", testSeccomp},
		{"Dev", testDev},
		{"ShmSize", testShmSize},
		{"Protected", testProtected},
		{"Namespaces", testNamespaces},
		{"Devices", testNoDeviceAccess},
		{"Descriptors", testDescriptors},
		{"HostilePaths", testHostilePaths},
		{"HostileCleanUp", testHostileCleanUp},
		{"HostileMountTargets", testHostileMountTargets},
		{"ExecutableUnchanged", testExecutableUnchanged},
		{"NothingSurvives", testNothingSurvives},
	} {
		if !slices.Contains(without, c.name) {
			t.Run(c.name, func(t *testing.T) { c.fn(t, newExecutor(t)) })
		}
	}
}

func testConcurrent(t *testing.T, e executor.Executor) {
	errs := make(chan error)
	const n = 8
	for i := range n {
		root := Root(t)
		go func() {
			for range 3 {
				var out strings.Builder
				spec := Shell(root, "echo "+strconv.Itoa(i))
				spec.Process.Stdout = &out
				if err := e.Run(context.Background(), spec); err != nil || out.String() != strconv.Itoa(i)+"\n" {
					errs <- errors.Join(err, errors.New(out.String()))
					return
				}
			}
			errs <- nil
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	// Nor does any of it pull this process into a container.
	for _, ns := range []string{"mnt", "net", "pid", "ipc", "uts"} {
		process, err := os.Readlink("/proc/self/ns/" + ns)
		thread, terr := os.Readlink("/proc/thread-self/ns/" + ns)
		if process != thread || err != nil || terr != nil {
			t.Errorf("THE CALLER'S %s NAMESPACE IS %s, and of this thread %s (%v %v)", ns, process, thread, err, terr)
		}
	}
}
