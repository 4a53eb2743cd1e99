//! Paths as runtimes really make them.

use super::*;

/// The container's id.
const ID: &str = "3f1a9c5be0d24786bb0c9a7f61d2e8453f1a9c5be0d24786bb0c9a7f61d2e845";
/// The id of a container around it.
const OUTER: &str = "a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5";
/// The pod's UID, and as the systemd driver writes it.
const POD: &str = "5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";
const POD_: &str = "5fbb1c5e_3a02_4b1e_9f0f_2d4c67a8e913";
/// The UID of a static pod.
const STATIC: &str = "c1a5d4b2e8f70391aa44bb55cc66dd77";
const TASK: &str = "0f9de17a6a3b4ec498d4dba1b4fb5dc8";

/// `ID`, `OUTER`, `POD_`, `POD`, `STATIC` and `TASK` stand for the constants.
fn fill(text: &str) -> String {
    [("OUTER", OUTER), ("ID", ID), ("POD_", POD_), ("POD", POD), ("STATIC", STATIC), ("TASK", TASK)]
        .into_iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

fn check(cases: &[(&str, &str, &str, &str)]) {
    for (path, id, runtime, pod) in cases {
        let path = fill(path);
        let place = locate(&path);
        let container = place.container.as_ref();
        let found = (
            container.map_or("", |container| container.id.as_ref()),
            container.and_then(|container| container.runtime).unwrap_or(""),
            place.pod.as_deref().unwrap_or(""),
        );
        assert_eq!(found, (fill(id).as_str(), *runtime, fill(pod).as_str()), "{path}");
    }
}

#[test]
fn kubernetes_with_the_systemd_driver() {
    check(&[
        ("/kubepods.slice/kubepods-podPOD_.slice/cri-containerd-ID.scope", "ID", "containerd", "POD"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope",
            "ID",
            "containerd",
            "POD",
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPOD_.slice/crio-ID.scope",
            "ID",
            "cri-o",
            "POD",
        ),
        ("/kubepods.slice/kubepods-podPOD_.slice/crio-ID.scope/container", "ID", "cri-o", "POD"),
        ("/kubepods.slice/kubepods-podPOD_.slice/crio-conmon-ID.scope", "", "", "POD"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/docker-ID.scope",
            "ID",
            "docker",
            "POD",
        ),
        ("/kubepods.slice/kubepods-podSTATIC.slice/cri-containerd-ID.scope", "ID", "containerd", "STATIC"),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podSTATIC.slice/crio-ID.scope",
            "ID",
            "cri-o",
            "STATIC",
        ),
        ("/kubepods.slice/kubepods-podPOD_.slice", "", "", "POD"),
        ("/kubepods.slice/kubepods-burstable.slice", "", "", ""),
        ("/kubepods.slice/kubepods-podPOD_.slice/cri-containerd-ID.scope/init.scope", "ID", "containerd", "POD"),
        (
            "/kubepods.slice/kubepods-podPOD_.slice/cri-containerd-ID.scope/system.slice/nginx.service",
            "ID",
            "containerd",
            "POD",
        ),
        ("/kubepods.slice/kubepods-podPOD_.slice:cri-containerd:ID", "ID", "containerd", "POD"),
        (
            "/system.slice/containerd.service/kubepods-burstable-podPOD_.slice:cri-containerd:ID",
            "ID",
            "containerd",
            "POD",
        ),
        ("/kubepods-besteffort-podPOD_.slice:cri-containerd:ID", "ID", "containerd", "POD"),
        ("/kubepods.slice/kubepods-podPOD_.slice/ID", "ID", "", "POD"),
        ("/kubepods.slice/kubepods-podPOD_.slice/isulad-ID.scope", "ID", "", "POD"),
        ("/kubepods.slice/kubepods-podPOD_.slice/kata_ID", "ID", "", "POD"),
        ("/kata_overhead/ID", "ID", "", ""),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podSTATIC.slice/cri-containerd-ID.scope",
            "ID",
            "containerd",
            "STATIC",
        ),
        ("/kubepods.slice/kubepods-podPOD_.slice/crio-conmon-ID.scope/supervisor", "", "", "POD"),
        ("/system.slice/crio-conmon-ID.scope", "", "", ""),
        ("/kubepods.slice/kubepods-podPOD_.slice/crio-ID.scope/system.slice/app.service", "ID", "cri-o", "POD"),
        // k3s, RKE2 and MicroK8s run the kubelet within a unit of their own.
        ("/system.slice/k3s.service/kubepods/burstable/podPOD/ID", "ID", "", "POD"),
        ("/k3s/kubepods/besteffort/podPOD/ID", "ID", "", "POD"),
    ]);
}

#[test]
fn kubernetes_with_the_cgroupfs_driver() {
    check(&[
        ("/kubepods/burstable/podPOD/ID", "ID", "", "POD"),
        ("/kubepods/besteffort/podPOD/ID", "ID", "", "POD"),
        ("/kubepods/podPOD/ID", "ID", "", "POD"),
        ("/kubepods/podPOD", "", "", "POD"),
        ("/kubepods/burstable", "", "", ""),
        ("/kubepods/burstable/podSTATIC/ID", "ID", "", "STATIC"),
        ("/kubepods/burstable/podPOD/crio-ID", "ID", "cri-o", "POD"),
        ("/kubepods/burstable/podPOD/crio-conmon-ID", "", "", "POD"),
        ("/kubepods/burstable/podPOD/ID/user/worker-3", "ID", "", "POD"),
        ("/kubepods/burstable/podPOD/ID/docker/OUTER", "OUTER", "docker", "POD"),
        ("/kubepods/podPOD/not-a-container", "", "", "POD"),
        ("/kubepods/podfoo/ID", "ID", "", ""),
        ("/podruntime/runtime", "", "", ""),
    ]);
}

#[test]
fn kubernetes_inside_containers() {
    check(&[
        ("/docker/OUTER", "OUTER", "docker", ""),
        ("/docker/OUTER/kubepods/burstable/podPOD/ID", "ID", "", "POD"),
        ("/docker/OUTER/kubelet/kubepods/besteffort/podPOD/ID", "ID", "", "POD"),
        ("/docker/OUTER/kubelet/kubepods/besteffort/podPOD", "", "", "POD"),
        ("/docker/OUTER/init.scope", "OUTER", "docker", ""),
        ("/docker/OUTER/system.slice/kubelet.service", "OUTER", "docker", ""),
        (
            "/docker/OUTER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope",
            "ID",
            "containerd",
            "POD",
        ),
        (
            "/system.slice/docker-OUTER.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podPOD_.slice/cri-containerd-ID.scope",
            "ID",
            "containerd",
            "POD",
        ),
        ("/system.slice/docker-OUTER.scope/kubepods/burstable/podPOD/ID", "ID", "", "POD"),
        ("/system.slice/docker-OUTER.scope/docker/ID", "ID", "docker", ""),
        (
            "/machine.slice/libpod-OUTER.scope/container/kubepods.slice/kubepods-podPOD_.slice/crio-ID.scope",
            "ID",
            "cri-o",
            "POD",
        ),
        ("/docker/OUTER/docker/ID", "ID", "docker", ""),
        // kind on rootless Podman and on rootless Docker; minikube.
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-OUTER.scope/container/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podPOD_.slice/cri-containerd-ID.scope",
            "ID",
            "containerd",
            "POD",
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service/docker/OUTER/kubelet/kubepods/podPOD/ID",
            "ID",
            "",
            "POD",
        ),
        ("/docker/OUTER/kubepods.slice/kubepods-podPOD_.slice/docker-ID.scope", "ID", "docker", "POD"),
        // Docker in Docker, where the inner one has either driver, and its own daemons.
        ("/system.slice/docker-OUTER.scope/system.slice/docker-ID.scope", "ID", "docker", ""),
        ("/system.slice/docker-OUTER.scope/system.slice/containerd.service", "OUTER", "docker", ""),
        ("/docker/OUTER/init", "OUTER", "docker", ""),
        ("/docker/OUTER/system.slice/docker-ID.scope/init.scope", "ID", "docker", ""),
    ]);
}

/// As `/proc/PID/cgroup` shows them in a cgroup namespace.
#[test]
fn paths_out_of_a_cgroup_namespace() {
    check(&[
        ("/../../kubepods/burstable/podPOD/ID", "ID", "", "POD"),
        ("/../cri-containerd-ID.scope", "ID", "containerd", ""),
        ("/../../kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope/init.scope", "ID", "containerd", "POD"),
        ("/../../../system.slice/docker-ID.scope", "ID", "docker", ""),
        ("/../default/redis", "redis", "containerd", ""),
        ("/..", "", "", ""),
        ("/../../init.scope", "", "", ""),
    ]);
}

#[test]
fn docker_and_podman() {
    check(&[
        ("/docker/ID", "ID", "docker", ""),
        ("/system.slice/docker-ID.scope", "ID", "docker", ""),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope", "ID", "docker", ""),
        ("/system.slice:docker:ID", "ID", "docker", ""),
        ("/batch.slice/docker-ID.scope/init", "ID", "docker", ""),
        ("/actions_job/ID", "ID", "", ""),
        ("/machine.slice/libpod-ID.scope", "ID", "podman", ""),
        ("/machine.slice/libpod-ID.scope/container", "ID", "podman", ""),
        ("/machine.slice/libpod-conmon-ID.scope", "", "", ""),
        ("/machine.slice/machine-libpod_pod_OUTER.slice/libpod-ID.scope", "ID", "podman", ""),
        ("/machine.slice/machine-libpod_pod_OUTER.slice", "", "", ""),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container", "ID", "podman", ""),
        ("/libpod_parent/libpod-ID", "ID", "podman", ""),
        ("/libpod_parent/OUTER/libpod-ID", "ID", "podman", ""),
        ("/libpod_parent/OUTER", "", "", ""),
        ("/libpod_parent/conmon", "", "", ""),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-ID.scope", "", "", ""),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/podman-4711.scope", "", "", ""),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_OUTER.slice/libpod-ID.scope/container",
            "ID",
            "podman",
            "",
        ),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-ID", "ID", "podman", ""),
        ("/machine.slice/libpod-ID.scope/init.scope", "ID", "podman", ""),
        ("/system.slice/web.service/libpod-payload-ID", "ID", "podman", ""),
        ("/system.slice/var-lib-docker-overlay2-ID-merged.mount", "", "", ""),
        ("/system.slice/ID-1f2e3d.service", "", "", ""),
        ("/system.slice/docker.service", "", "", ""),
    ]);
}

#[test]
fn containerd_buildkit_and_ecs() {
    check(&[
        ("/default/ID", "ID", "containerd", ""),
        ("/k8s.io/ID", "ID", "containerd", ""),
        ("/moby/ID", "ID", "docker", ""),
        ("/default/redis", "redis", "containerd", ""),
        ("/default/redis/init.scope", "redis", "containerd", ""),
        ("/app/default/redis", "", "", ""),
        ("/custom-namespace/ID", "ID", "", ""),
        ("/system.slice/nerdctl-ID.scope", "ID", "containerd", ""),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-ID.scope", "ID", "containerd", ""),
        ("/user.slice:nerdctl:ID", "ID", "containerd", ""),
        ("/docker/buildkit/k3wd3xqfvlfdlm0x9zq0c1jyz", "k3wd3xqfvlfdlm0x9zq0c1jyz", "buildkit", ""),
        ("/docker/OUTER/buildkit/k3wd3xqfvlfdlm0x9zq0c1jyz", "k3wd3xqfvlfdlm0x9zq0c1jyz", "buildkit", ""),
        ("/system.slice/docker-k3wd3xqfvlfdlm0x9zq0c1jyz.scope", "k3wd3xqfvlfdlm0x9zq0c1jyz", "buildkit", ""),
        ("/ecs/TASK/ID", "ID", "", ""),
        ("/ecs/production/TASK/ID", "ID", "", ""),
        ("/ecs/TASK/TASK-2531612879", "TASK-2531612879", "", ""),
        ("/ecs/TASK", "", "", ""),
        ("/ecstasks.slice/ecstasks-TASK.slice/docker-ID.scope", "ID", "docker", ""),
        ("/system.slice/garden.service/garden/POD", "POD", "garden", ""),
        ("/mesos/POD", "POD", "mesos", ""),
    ]);
}

#[test]
fn lxc_and_nspawn() {
    check(&[
        ("/lxc/web", "web", "lxc", ""),
        ("/lxc/101/ns/system.slice/nginx.service", "101", "lxc", ""),
        ("/lxc.payload.web/init.scope", "web", "lxc", ""),
        ("/lxc.payload/web", "web", "lxc", ""),
        ("/lxc.monitor.web", "", "", ""),
        ("/lxc.monitor/web", "", "", ""),
        (
            "/machine.slice/systemd-nspawn@build.service/payload/system.slice/sshd.service",
            "build",
            "systemd-nspawn",
            "",
        ),
        (r"/machine.slice/machine-my\x2dbox.scope/payload", "my-box", "systemd-nspawn", ""),
        (r"/machine.slice/machine-lxc\x2d7\x2dweb\x2d1.scope", "web-1", "lxc", ""),
        (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/emulator", "", "", ""),
        ("/lxc.payload.web/docker/ID", "ID", "docker", ""),
    ]);
}

#[test]
fn plain_paths_have_no_container() {
    check(&[
        ("/", "", "", ""),
        ("", "", "", ""),
        ("/system.slice/nginx.service", "", "", ""),
        ("/user.slice/user-1000.slice/session-3.scope", "", "", ""),
        ("/system.slice/docker-3f1a9c5be0d2.scope", "", "", ""),
        ("/process_api/TASK", "", "", ""),
        (r"/system.slice/a\x.service", "", "", ""),
    ]);
}

#[test]
fn odd_names_do_no_harm() {
    for path in ["//", "/:", "/::", "/-.scope", "/.scope", "/é/pod", "/machine-.scope", r"/machine-\x2.scope", "/podé"]
    {
        let _ = locate(path);
    }
    assert_eq!(unescape(r"a\x2db\xzz\x"), r"a-b\xzz\x");
}
