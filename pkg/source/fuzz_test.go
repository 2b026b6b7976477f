package source

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzManifest: what is read of the manifest and the config of an image can be made paths and requests of.
func FuzzManifest(f *testing.F) {
	id := digest.FromString("x").String()
	manifest := `{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + id + `","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` +
		id + `","size":1,"urls":["http://169.254.169.254/"]}]}`
	config := `{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Labels":{"x":"y"},"Volumes":{"/v":{}}},"rootfs":{"type":"layers","diff_ids":["` + id + `"]},"history":[{"created_by":"x"}]}`
	for _, pair := range [][2]string{
		{manifest, config}, {`{}`, `{}`}, {`[]`, `null`}, {`{"layers":[{"digest":"sha256:../../x"}]}`, `{"rootfs":{"diff_ids":["sha256:../../x"]}}`},
		{`{"config":{"digest":"` + id + `","size":-1}}`, `{"created":"yesterday"}`}, {manifest, `{"config":{"Healthcheck":{"Interval":-1}},"rootfs":{"diff_ids":[1]}}`},
	} {
		f.Add([]byte(pair[0]), []byte(pair[1]))
	}
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		m, err := parseManifest(manifest)
		if err != nil {
			return
		}
		all := []digest.Digest{m.Config.Digest}
		for _, l := range m.Layers {
			all = append(all, l.Digest)
			if l.Size < 0 || !isLayer(l.MediaType) {
				t.Errorf("layer %+v was accepted", l)
			}
		}
		c, err := parseConfig(config, len(m.Layers))
		if err == nil {
			if len(c.RootFS.DiffIDs) != len(m.Layers) {
				t.Errorf("%d DiffIDs for %d layers were accepted", len(c.RootFS.DiffIDs), len(m.Layers))
			}
			all = append(all, c.RootFS.DiffIDs...)
		}
		for _, d := range all {
			if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
				t.Errorf("digest %q was accepted", d)
			}
		}
	})
}
