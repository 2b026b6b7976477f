// Package source brings in what a build starts from: base images, build contexts, git repositories and URLs, each pinned to a
// digest and read as verified bytes.
package source
