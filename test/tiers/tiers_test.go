// Package tiers builds the Dockerfiles beside it in the containers that CI platforms give, unchanged, and holds what comes out together: it must
// be the same everywhere, layer by layer. Go test does it in six of them; `make tiers` does all of it in all of them, and writes the tables of
// docs/confinement.md.
package tiers

import (
	"os/exec"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cairn-build/cairn/test/people"
)

// tier is a place of the kind that a CI platform gives.
type tier struct {
	name string
	// what it stands for
	what string
	// host is the machine itself instead of a container.
	host bool
	// uid is who runs there; gid is 0 where it is not the same.
	uid, gid int
	caps     []string
	profile  profile
	// noNewPrivs is allowPrivilegeEscalation: false.
	noNewPrivs bool
	// denyMounts is what AppArmor's profiles for containers do, by seccomp.
	denyMounts bool
	// shifted is hostUsers: false, unmasked procMount: Unmasked.
	shifted, unmasked bool
}

// profile is a seccomp profile.
type profile int

const (
	unconfined profile = iota
	docker
	common // podman's
	crio   // podman's without unshare
)

// The capabilities that root has in containers by default.
func dockerCaps() []string {
	return append(podmanCaps(), "CAP_MKNOD", "CAP_NET_RAW", "CAP_AUDIT_WRITE")
}

func podmanCaps() []string { return append(crioCaps(), "CAP_SETFCAP", "CAP_SYS_CHROOT") }

func crioCaps() []string {
	return []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"}
}

// random is a uid without a name, as OpenShift gives them out.
const random = 1000650000

// tiers are the places, by the names that they have in docs/confinement.md.
func tiers() []tier {
	return []tier{
		{name: "T0u", what: "a machine, as a user with sub-ids", host: true},
		{name: "T1", what: "a machine, as a user without sub-ids, with no_new_privs", host: true, uid: 61998, gid: 61998, noNewPrivs: true},
		{name: "T2", what: "docker run, Kubernetes with RuntimeDefault: root", caps: dockerCaps(), profile: docker},
		{name: "T2n", what: "the same with no_new_privs", caps: dockerCaps(), profile: docker, noNewPrivs: true},
		{name: "T2b", what: "Kubernetes' own default: root, seccomp Unconfined", caps: dockerCaps()},
		{name: "T2a", what: "the same where AppArmor denies mounts", caps: dockerCaps(), denyMounts: true},
		{name: "T2c", what: "CRI-O: root", caps: crioCaps(), profile: crio},
		{name: "T2d", what: "CRI-O's root with docker's profile", caps: crioCaps(), profile: docker},
		{name: "T2p", what: "podman run: root", caps: podmanCaps(), profile: common},
		{name: "T2z", what: "root, all capabilities dropped, RuntimeDefault", profile: docker, noNewPrivs: true},
		{name: "T3", what: "a restricted pod: uid 1000, RuntimeDefault", uid: 1000, gid: 1000, profile: docker, noNewPrivs: true},
		{name: "T3a", what: "a restricted pod, Unconfined, where AppArmor denies mounts", uid: 1000, gid: 1000, noNewPrivs: true, denyMounts: true},
		{name: "T3b", what: "a restricted pod, seccomp Unconfined", uid: 1000, gid: 1000, noNewPrivs: true},
		{name: "T3c", what: "uid 1000 where newuidmap is allowed, Unconfined", uid: 1000, gid: 1000, caps: dockerCaps()},
		{name: "T4", what: "hostUsers: false, RuntimeDefault: root", caps: dockerCaps(), profile: docker, shifted: true},
		{name: "T4b", what: "hostUsers: false, seccomp Unconfined: root", caps: dockerCaps(), shifted: true},
		{name: "T4m", what: "the same with procMount: Unmasked", caps: dockerCaps(), shifted: true, unmasked: true},
		{name: "T6", what: "OpenShift, CRI-O's profile: a random uid", uid: random, profile: crio, noNewPrivs: true},
		{name: "T6d", what: "OpenShift, docker's profile: a random uid", uid: random, profile: docker, noNewPrivs: true},
	}
}

// shift is the first id that a container with hostUsers: false has outside.
const shift = 200000

// owner is who the tier's user is on this machine.
func (r tier) owner() (uid, gid int) {
	if r.shifted {
		return r.uid + shift, r.gid + shift
	}
	return r.uid, r.gid
}

// become makes a command run as the user of a tier that is no container. T0u is the user of all tests.
func (r tier) become(cmd *exec.Cmd) error {
	if r.uid != 0 {
		cmd.Args = append([]string{"setpriv", "--no-new-privs", "--bounding-set=-all", "--"}, cmd.Args...)
		path, err := exec.LookPath("setpriv")
		cmd.Path = path
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(r.uid), Gid: uint32(r.gid)}}
		return err
	}
	p, err := people.Unprivileged()
	if err == nil {
		p.Become(cmd)
	}
	return err
}

// mappings are the ids of a container with hostUsers: false.
func (r tier) mappings() []specs.LinuxIDMapping {
	if !r.shifted {
		return nil
	}
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: shift, Size: 65536}}
}
