package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// contract is every row of the three contracts, by the words that docs/library.md has to have in one row of its tables.
const contract = `
DefaultDockerfileName; Source; Source.Hash rules; Backend; CreateImage; CommitBuildStep; GetImageAndReleasableLayer; ExecBackend; exec order; Result
ImageCacheBuilder; GetCache; local cache rule; cacheFrom rule; Image; ROLayer; RWLayer; ReleaseableLayer; remotecontext; dockerfile; BuildArgs
ID; V1Image; Image.MarshalJSON; NewFromJSON; NewImage; Clone; NewChildImage; History; NewHistory; RootFS; ChainID; ChildConfig; Details; Exporter.Load
Exporter.Save; Store.Create; Store.Delete; Store.Search; Store.SetParent; Store.SetLastUpdated; NewImageStore; StoreBackend; NewFSStoreBackend
LayerGetReleaser; CheckOS; max depth; ErrLayerDoesNotExist; CreateID
New; Verbose; Close; ForceRebuild; Client.Image; Build; Dockerfile; Output; RestrictedBuildEgress; Pull; Name; Exists; Instantiate; Run; Wait; Cleanup
MuxedReadCloser; Separated; Clean; NewFilter; gc.Start; AvailableBackends; NewBackend; core.Backend; core.Image; core.BackendConfig; DockerConfig
ContainerdConfig; ContainerConfig; ContainerInfo; Capabilities; sentinels; Stdout; Stderr; ExitCode; Env; WorkDir; BindMount; ImageDefaults; LargeOutput
RemoveIsFinal; CleanKeepsRecentImages; BuildFromDockerfile; HealthCheck; StopsRunningContainer
images; tag; rmi; history; inspect; save; load; pull; push; run; ps; logs; stop; rm; system df; system prune; login; logout; importing is enough`

var testName = regexp.MustCompile(`\b(Test|Example)[A-Z]\w*`)

// TestLibraryTable: docs/library.md has every row of the contracts, each with tests, and every test that it names is there.
func TestLibraryTable(t *testing.T) {
	module := harness.Module(t)
	doc, err := os.ReadFile(filepath.Join(module, "docs", "library.md"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("grep", "-rhoE", "--include=*_test.go", `^func (Test|Example)\w*`, module).Output()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		there[strings.TrimSpace(strings.TrimPrefix(line, "func "))] = true
	}
	for _, n := range testName.FindAllString(string(doc), -1) {
		if !there[n] {
			t.Errorf("docs/library.md names %s, which is nowhere", n)
		}
	}
	var rows []string // the first cells of the rows that name a test
	for line := range strings.Lines(string(doc)) {
		if cells := strings.Split(line, "|"); len(cells) == 4 && testName.MatchString(cells[2]) {
			rows = append(rows, cells[1])
		}
	}
	for _, name := range regexp.MustCompile(`[;\n]`).Split(strings.TrimSpace(contract), -1) {
		word := regexp.MustCompile(`(^|[^\w.])` + regexp.QuoteMeta(strings.TrimSpace(name)) + `([^\w.]|$)`)
		if !slices.ContainsFunc(rows, word.MatchString) {
			t.Errorf("docs/library.md says of no test that it shows %q", strings.TrimSpace(name))
		}
	}
}
