package test

import (
	"os"
	"strings"
	"testing"

	"github.com/cairn-build/cairn/test/harness"
)

// everyMount is a Dockerfile with every kind of RUN mount, and with owners in all of them.
const everyMount = `
RUN mkdir -p /o/d && echo theirs >/o/d/f && chown -R 7:8 /o && chmod 4711 /o/d/f && ln -s /etc/passwd /o/out
FROM base
COPY --from=base /bin/busybox /copy
RUN --mount=type=bind,from=base,source=/o,target=/m,rw [ "$(stat -c %u:%g:%a /m /m/d /m/d/f | tr '\n' ' ')" = '7:8:755 7:8:755 7:8:4711 ' ] && \
    echo x >/m/d/f && chown 9 /m/d/f && [ "$(stat -c %u /m/d/f)" = 9 ]
RUN --mount=type=bind,from=base,source=/,target=/m,rw [ "$(cat /m/o/d/f)" = theirs ] && rm -r /m/bin && mkdir /m/bin && chmod 600 /m/etc/passwd && \
    [ "$(stat -c %a /etc/passwd)" = 644 ] && ! ln /m/o/d/f /hard && /m/../bin/busybox true
RUN --mount=type=bind,target=/ctx [ "$(cat /ctx/file)" = here ] && ! touch /ctx/new
RUN --mount=type=bind,source=file,target=/here [ "$(cat /here)" = here ]
RUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0700 [ "$(stat -c %u:%g:%a /c)" = 1000:1000:700 ] && touch /c/root && su ann -c 'echo a >/c/ann'
USER ann
RUN --mount=type=cache,target=/c,uid=1000,gid=1000,mode=0700 [ "$(stat -c %U /c/ann /c/root | tr '\n' ' ')" = 'ann root ' ] && echo b >>/c/ann && ! echo x >>/c/root
USER root
RUN --mount=type=cache,target=/s,id=/c,source=sub touch /s/x
RUN --mount=type=cache,target=/c --mount=type=cache,target=/c3,id=/c [ -e /c3/sub/x ] && chown 5 /c/sub/x && [ "$(stat -c %u /c3/sub/x)" = 5 ]
RUN --mount=type=cache,target=/c --mount=type=cache,target=/c4,id=/c,uid=1000,gid=1000,mode=0700 [ "$(stat -c %u /c/sub/x)" = 5 ] && [ "$(cat /c4/ann | tr '\n' ' ')" = 'a b ' ]
RUN --mount=type=cache,target=/c2,id=seeded,from=base,source=/o [ "$(stat -c %u:%a /c2/d/f)" = 7:4711 ] && chown 5 /c2/d/f
RUN --mount=type=cache,target=/c2,id=seeded,from=base,source=/o [ "$(stat -c %u /c2/d/f)" = 5 ]
RUN --mount=type=tmpfs,target=/t touch /t/x && chown 3 /t/x && [ "$(stat -c %u:%a /t/x /t | tr '\n' ' ')" = '3:644 0:1777 ' ]
RUN --mount=type=secret,id=key,uid=1000,mode=0440 [ "$(stat -c %u:%g:%a /run/secrets/key)" = 1000:0:440 ] && su ann -c '[ "$(cat /run/secrets/key)" = hunter2 ]'
RUN --mount=type=secret,id=key,env=KEY [ "$KEY" = hunter2 ]
RUN <<EOT
#!/bin/awk -f
BEGIN { print "awk" >"/awk" }
EOT
RUN [ "$(cat /awk)" = awk ] && [ ! -e /run/secrets ] && [ ! -e /c ] && [ ! -e /m ] && [ ! -e /hard ]
`

// TestMountsImitated: every mount of RUN is honoured where nothing can be mounted, and where files have one owner only.
func TestMountsImitated(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	for _, isolation := range []string{"ptrace", "userns-single"} {
		t.Run(isolation, func(t *testing.T) {
			harness.EachUser(t, func(t *testing.T, u harness.User) {
				h := harness.NewHome(t, u)
				dir := h.Files(map[string]string{"file": "here\n", "key": "hunter2", "Dockerfile": "FROM " + base + " AS base" + everyMount})
				build(h, "--isolation", isolation, "--secret", "id=key,src=key", "-t", "localhost/mounts", dir).OK(t)
				// What was done to what a mount showed is not in the stage, nor in the base, whose files it shares.
				again := h.Files(map[string]string{"Dockerfile": "FROM " + base + " AS base\n" + strings.Split(everyMount, "\n")[1] +
					"\nRUN [ \"$(cat /o/d/f)\" = theirs ] && [ \"$(stat -c %u:%a /o/d/f)\" = 7:4711 ] && [ -x /bin/busybox ]\n"})
				build(h, "--isolation", isolation, again).OK(t)
				run := h.Cairn("run", "--root", h.Root, "--isolation", isolation, "-u", "ann", "localhost/mounts", "sh", "-c", "id -un; cat /awk").OK(t)
				if run.Stdout != "ann\nawk\n" {
					t.Errorf("run: %q", run.Stdout)
				}
			})
		})
	}
}

// TestRefusedPtrace: what cannot be had without namespaces and mounts is an error that names the isolation.
func TestRefusedPtrace(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	h := harness.NewHome(t, harness.Unprivileged(t))
	for run, args := range map[string][]string{
		"--network=none true":                       nil,
		"--security=insecure true":                  {"--allow", "security.insecure"},
		"--mount=type=tmpfs,target=/t,size=1m true": nil,
		"true": {"--shm-size", "1m"},
	} {
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + base + "\nRUN " + run + "\n"})
		build(h, append(args, "--isolation=ptrace", dir)...).Fails(t, 1, "--isolation=ptrace does not have")
	}
}

// TestHighIDs: an owner beyond the ids of a user namespace is an error that says what can be done, and does it.
func TestHighIDs(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	h := harness.NewHome(t, harness.Unprivileged(t))
	dir := h.Files(map[string]string{"file": "x", "Dockerfile": "FROM " + registry.Busybox(t) + "\nCOPY --chown=1000650000 file /file\n" +
		"RUN [ $(stat -c %u /file) = 1000650000 ] && chown 200000 /file\nUSER 1000650000\nRUN [ $(id -u) = 1000650000 ] && [ $(stat -c %u /file) = 200000 ]\n"})
	build(h, "--isolation=userns", dir).Fails(t, 1, "changing the owner to 1000650000", "hint: --isolation=userns-single")
	for _, isolation := range []string{"userns-single", "ptrace"} {
		build(h, "--isolation", isolation, dir).OK(t)
	}
}

// TestDevicesBelow: what is done to devices of the base is in the layer with every isolation, whether the builder can make devices or not.
func TestDevicesBelow(t *testing.T) {
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	h := harness.NewHome(t, harness.Unprivileged(t))
	ref := registry.Addr + "/devices"
	dir := h.Files(map[string]string{"Dockerfile": "FROM " + registry.Busybox(t) + "\nRUN mkdir /n && for d in a b c d; do mknod -m 640 /n/$d c 1 3; done && mknod /n/e b 7 0 && touch /n/f && chown 5:6 /n/a\n"})
	build(h, "--isolation=ptrace", "-t", ref, "--push", dir).OK(t)
	digests := map[string]string{}
	for _, isolation := range []string{"userns", "userns-single", "ptrace"} {
		h := harness.NewHome(t, harness.Unprivileged(t))
		h.Env = append(h.Env, "SOURCE_DATE_EPOCH=1700000000")
		dir := h.Files(map[string]string{"Dockerfile": "FROM " + ref + "\nRUN rm /n/a && chmod 600 /n/b && mv /n/c /n/g && chown 7:8 /n/d && rm /n/f\nRUN chown 9 /n/e && ls /n >/names\n"})
		build(h, "--isolation", isolation, "-o", "type=oci,dest=oci.tar,rewrite-timestamp=true", "--metadata-file", "meta.json", dir).OK(t)
		digests[h.Run("sh", "-c", "grep -o '\"containerimage.digest\": *\"[^\"]*' meta.json")] += " " + isolation
	}
	if len(digests) != 1 {
		t.Errorf("different images: %v", digests)
	}
}

// TestAutoWithoutNamespaces: where user namespaces cannot be made, a build goes on without and gives the same image.
func TestAutoWithoutNamespaces(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can take sub-ids away from a user") // the rest of the suite covers an ordinary user
	}
	registry := harness.StartRegistry(t, harness.RegistryOptions{})
	base := registry.Busybox(t)
	file := "FROM " + base + "\nRUN mkdir /d && touch /d/f && chown ann:staff /d/f && chmod 2755 /d && mkfifo /d/p && ln /d/f /d/g && echo one >/d/f && echo a >/a\n" +
		"RUN echo two >>/d/g && stat -c '%n %h' /d/f /d/g >/links && echo b >>/a && cp -a /bin/busybox /bin/copy\n" +
		"RUN mv /d/f /e && chmod 600 /e && chown ann /bin/copy /etc/group && ln /e /x && echo c >>/a && stat -c '%n %h' /e /x /d/g >>/links\n" +
		"RUN rm /d/g && echo three >>/x && cat /e /x /a >>/links && rm /bin/copy && mv /etc/group /group && mv /group /etc/group\n" +
		"RUN cp -a /links /l1 && ln /l1 /l2 && ln /l1 /l3\nRUN stat -c '%n %h' /l1 && chown ann /l2 && rm /l3 && stat -c '%n %h %u' /l? >/l4 && cp -a /l1 /l5\n" +
		// Further names of files that a layer below has once: an overlay shows them by other numbers.
		"COPY --chown=7:8 Dockerfile /low\nRUN mkdir /p && chmod 700 /p && echo secret >/p/f && chmod 600 /p/f && chown -R ann /p\n" +
		"RUN ln /low /low2 && stat -c '%n %u:%g %h' /low* >/l6 && chown 9:9 /low2 && chown 1:2 /low && stat -c '%n %u:%g %h' /low* >>/l6 && cp -a /low2 /low3\n" +
		"RUN su ann -c 'ln /p/f /p/g && chmod 640 /p/g && cat /p/f /p/g && stat -c \"%n %U %a %h\" /p/f /p/g' >/l7 && rm /p/f && chown 5 /p/g && rm /low\n" +
		"RUN stat -c '%n %u:%g %a %h' /low* /p/* >/l8\n"
	digest := func(h *harness.Home, isolation string) string {
		dir := h.Files(map[string]string{"Dockerfile": file})
		h.Env = append(h.Env, "SOURCE_DATE_EPOCH=1700000000")
		build(h, "--isolation", isolation, "--no-cache", "-o", "type=oci,dest=oci.tar,rewrite-timestamp=true", "--metadata-file", "meta.json", dir).OK(t)
		return h.Run("sh", "-c", "grep -o '\"containerimage.digest\": *\"[^\"]*' meta.json")
	}
	best := harness.NewHome(t, harness.Unprivileged(t))
	want := digest(best, "userns")
	// No sub-ids belong to this uid, and it has no name.
	h := harness.NewHome(t, harness.User{Name: "nobody-knows", UID: 61999, GID: 61999})
	for _, isolation := range []string{"auto", "userns-single", "ptrace"} {
		if got := digest(h, isolation); got != want {
			t.Errorf("isolation %s: digest %s, want %s", isolation, got, want)
		}
	}
	doctor := h.Cairn("doctor", "--root", h.Root).OK(t)
	if !strings.Contains(doctor.Stdout, "ptrace         works") {
		t.Errorf("doctor: %s", doctor.Stdout)
	}
}
