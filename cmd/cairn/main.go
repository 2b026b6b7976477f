// Command cairn builds OCI images from Dockerfiles, with no daemon and no privilege.
//
// Everything that belongs to a command line is here and nowhere else: flags, environment variables, signals, exit codes and
// what is written to the terminal. The files are laid out by what they do:
//
//	main.go    the entry point and the table of commands
//	argv.go    flags in any order, suggestions for mistyped ones
//	env.go     the environment, read once
//	ui.go      the rules for output, errors, hints and exit codes
//	values.go  the values of flags: hosts, limits, secrets, platforms
//	enter.go   into namespaces, where the work is done
//	memory.go  how much memory the collector lets grow
//	parts.go   putting together what builds and runs work with
//	build.go, run.go, push.go (and pull), images.go, registry.go: the commands
//	storecmds.go (tag, rmi, inspect), history.go, archivecmds.go (save, load), system.go, login.go: those over the local store
//	format.go, filter.go    what --format and --filter of these mean
package main

import "os"

func main() {
	boundMemory()
	os.Exit(execute(invocation{
		args:   os.Args,
		env:    newEnvironment(os.Environ()),
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		enter:  enter,
	}))
}
