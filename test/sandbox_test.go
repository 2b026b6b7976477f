package test

import (
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// TestWhatRunLeaves looks into the layers of RUN steps: what the sandbox provides must not be in them.
func TestWhatRunLeaves(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		dir := h.Files(map[string]string{
			"key": "hunter2-and-more\n",
			"Dockerfile": "FROM " + base + "\n" +
				"RUN --mount=type=secret,id=key [ $(wc -c < /run/secrets/key) = 17 ] && echo seen > /one\n" +
				"RUN --mount=type=secret,id=key,env=KEY [ ${#KEY} = 17 ] && echo used > /two\n" +
				"RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch echo c > /cache/c && echo s > /scratch/s && echo done > /three\n" +
				"RUN cat /etc/resolv.conf /etc/hosts > /four && grep -q planet /etc/hosts && hostname > /five\n" +
				"RUN [ ! -e /run/secrets/key ] && [ ! -e /cache ] && [ ! -e /scratch ]\n",
		})
		build(h, "--secret", "id=key,src=key", "--add-host", "planet:10.1.2.3", "-t", "localhost/left", "-o", "type=oci,dest=oci.tar", dir).OK(t)
		layers := registry.Unpack(t, "oci-archive:"+h.Path("oci.tar")).Layers()
		own := layers[1:]
		want := []string{"one", "two", "three", "four five", ""}
		if len(own) != len(want) {
			t.Fatalf("%d layers on top of the base, want %d", len(own), len(want))
		}
		for i, l := range own {
			for name, content := range l {
				if strings.Contains(content, "hunter2") {
					t.Errorf("the secret is in /%s of layer %d", name, i)
				}
				if !strings.Contains(" "+want[i]+" ", " "+name+" ") {
					t.Errorf("layer %d holds /%s, and should hold %q", i, name, want[i])
				}
			}
			if n := len(strings.Fields(want[i])); len(l) != n {
				t.Errorf("layer %d has %d entries, want %q", i, len(l), want[i])
			}
		}
		raw := h.Run("sh", "-c", "tar -xOf oci.tar | grep -ac hunter2 || true")
		if strings.TrimSpace(raw) != "0" {
			t.Error("the secret is in the archive")
		}
	})
}

// TestSandbox asks a RUN step what it sees.
func TestSandbox(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	harness.EachUser(t, func(t *testing.T, u harness.User) {
		h := harness.NewHome(t, u)
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + "\n" + strings.Join([]string{
			"RUN [ $(umask) = 0022 ]",
			"RUN ps -o pid,args | awk 'NR>1 && $1!=1 && !/ps|awk|sh/ {exit 1}'",
			"RUN [ \"$(id -u):$(id -g)\" = 0:0 ] && [ $HOME = /root ]",
			"RUN ! mount -t tmpfs none /mnt 2>/dev/null",
			"RUN mknod /tmp/disk b 8 0 2>/dev/null; ! dd if=/tmp/disk of=/dev/null count=1 2>/dev/null; rm -f /tmp/disk",
			"RUN ! touch /proc/sys/kernel/hostname 2>/dev/null && ! sh -c 'echo x > /proc/sysrq-trigger' 2>/dev/null",
			"RUN grep -q '^Seccomp:.*2$' /proc/self/status && grep -q '^CapBnd:.*00000000a80425fb$' /proc/self/status",
			"RUN [ -c /dev/null ] && [ -c /dev/urandom ] && [ -d /dev/shm ] && echo x > /dev/null && head -c 8 /dev/urandom > /dev/null",
			"RUN [ \"$(cat /proc/1/comm)\" = sh ] || true",
			"RUN [ $(df -k /dev/shm | awk 'NR==2 {print $2}') = 131072 ] && [ $(ulimit -n) = 512 ]",
			"RUN --network=none [ $(cat /proc/net/dev | grep -c :) = 1 ]",
			"USER ann", "WORKDIR /home/ann/deep",
			"RUN [ \"$(id -un)\" = ann ] && [ $PWD = /home/ann/deep ] && [ $HOME = /home ] && touch file",
			"ENV A=1 B=\"two words\"", "ARG C=3", "RUN [ \"$A $B $C\" = '1 two words 3' ]",
		}, "\n") + "\n"})
		build(h, "--shm-size=128m", "--ulimit", "nofile=512:1024", "-t", "localhost/sandbox", dir).OK(t)
		r := h.Cairn("run", "--root", h.Root, "localhost/sandbox", "sh", "-c", "echo $A $B $C; stat -c %U:%a /home/ann/deep/file").OK(t)
		if r.Stdout != "1 two words\nann:644\n" {
			t.Errorf("the image's environment and files: %q", r.Stdout)
		}
	})
}

// TestProxyIsNotKept: RUN sees the proxies of the environment; the image and the cache keys do not.
func TestProxyIsNotKept(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	h.Env = append(h.Env, "HTTP_PROXY=http://proxy.example:3128", "no_proxy=127.0.0.1,localhost", "NO_PROXY=127.0.0.1")
	dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + "\nRUN [ ${#HTTP_PROXY} = 25 ]\n"})
	build(h, "-t", "localhost/proxy", "-o", "type=oci,dest=oci.tar", dir).OK(t)
	if n := strings.TrimSpace(h.Run("sh", "-c", "tar -xOf oci.tar | grep -ac proxy.example || true")); n != "0" {
		t.Error("the proxy is in the image")
	}
	h.Env = h.Env[:len(h.Env)-3]
	again := build(h, "-t", "localhost/proxy", dir).OK(t)
	if !strings.Contains(again.Stderr, "CACHED") {
		t.Errorf("the proxy is part of the cache key:\n%s", again.Stderr)
	}
}

// TestStandardInput builds from a Dockerfile and from a tar on standard input.
func TestStandardInput(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	args := []string{"build", "--root", h.Root, "-t", "localhost/stdin"}
	h.CairnStdin(strings.NewReader("FROM "+base+"\nRUN echo typed > /typed\n"), append(args, "-")...).OK(t)
	h.Files(map[string]string{"ctx/Dockerfile": "FROM " + base + "\nCOPY file /\n", "ctx/file": "in a tar\n", "ctx/other.Dockerfile": "FROM " + base + "\nCOPY file /named\n"})
	tarball := h.Run("tar", "-cC", "ctx", ".")
	h.CairnStdin(strings.NewReader(tarball), append(args, "-")...).OK(t)
	if out := h.Cairn("run", "--root", h.Root, "localhost/stdin", "cat", "/file").OK(t).Stdout; out != "in a tar\n" {
		t.Errorf("/file holds %q", out)
	}
	h.CairnStdin(strings.NewReader(tarball), append(args, "-f", "other.Dockerfile", "-")...).OK(t)
	if out := h.Cairn("run", "--root", h.Root, "localhost/stdin", "cat", "/named").OK(t).Stdout; out != "in a tar\n" {
		t.Errorf("/named holds %q", out)
	}
	h.CairnStdin(strings.NewReader("FROM "+base+"\nCOPY file /from-stdin\n"), append(args, "-f", "-", "ctx")...).OK(t)
}
