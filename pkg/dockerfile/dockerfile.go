// Package dockerfile reads Dockerfiles: text, heredocs, directives and checks in, stages with source ranges out. It is
// the only importer of BuildKit's parser, instructions, shell and linter packages; what the rest of the house needs
// of them is named here.
package dockerfile

// Location is a place in a Dockerfile.
type Location struct {
	File string
	// First and Last are the lines of the instruction, 1-based and inclusive.
	First, Last int
}

// Warning is a finding of a check.
type Warning struct {
	Rule, Description, URL, Detail string
	Location                       Location
}
