//! cgroup path → workload, for the names that containerd, CRI-O, Docker, Podman, the kubelet and systemd give.

use model::{Runtime, Workload};

/// What the cgroup at `path` (below the cgroup2 mount, beginning with `/`) belongs to.
///
/// The innermost container wins: a node that is itself a container holds pods. A cgroup below a container's own (made by an init
/// system inside it, or by Hemostat) belongs to that container.
#[must_use]
pub fn parse(path: &str) -> Workload {
    let cgroup_path = path.to_owned();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let mut pod = None;
    let mut container = None;
    for (at, segment) in segments.iter().enumerate() {
        if let Some(uid) = pod_uid(segment) {
            pod = Some((at, uid));
        }
        let parent = at.checked_sub(1).and_then(|at| segments.get(at)).copied();
        if let Some((runtime, id)) = named(segment).or_else(|| bare(segment, parent)) {
            let pod_uid = pod.as_ref().map(|(_, uid)| uid.clone());
            container = Some((runtime, id, pod_uid));
        }
    }
    if let Some((runtime, container_id, pod_uid)) = container {
        return Workload::Container { runtime, container_id, pod_uid, cgroup_path };
    }
    match segments.iter().rev().find(|segment| is_unit(segment)) {
        Some(unit) => Workload::unit(*unit, cgroup_path),
        None => Workload::Host { cgroup_path },
    }
}

/// In whose pod a cgroup is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodOf {
    /// In none.
    None,
    /// In this one, by the uid in the path.
    Pod(String),
    /// Where the kubelet keeps pods, and of none whose uid could be told.
    Untold,
}

/// The pod of the cgroup at `path`. Unlike with [`parse`] the outermost one counts, since only the kubelet makes that: below its own cgroup
/// a container may make what it likes, and call it after a pod that is protected.
#[must_use]
pub fn pod_of(path: &str) -> PodOf {
    let mut kubelets = false;
    for segment in path.split('/') {
        if let Some(uid) = pod_uid(segment).filter(|_| kubelets || segment.contains("kubepods")) {
            return PodOf::Pod(uid);
        }
        kubelets |= segment.starts_with("kubepods") || segment.starts_with("kubelet-kubepods");
    }
    if kubelets { PodOf::Untold } else { PodOf::None }
}

/// `pod<uid>` (cgroupfs driver) or `kubepods[-<qos>]-pod<uid with _>.slice` (systemd driver).
fn pod_uid(segment: &str) -> Option<String> {
    // A segment of the cgroupfs driver given systemd's form: `kubelet-kubepods-…-pod<uid>.slice:cri-containerd:<id>`.
    let segment = segment.split(':').next()?;
    let uid = match segment.strip_suffix(".slice") {
        Some(slice) if slice.contains("kubepods") => &slice[slice.rfind("-pod")? + 4..],
        Some(_) => return None,
        None => segment.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    is_pod_uid(&uid).then_some(uid)
}

/// A UUID; or, for static pods, the 32 hex digits of a hash of their manifest.
fn is_pod_uid(uid: &str) -> bool {
    let hex = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|b| *b == b'-').count();
    hex == 32 && hex + dashes == uid.len() && matches!(dashes, 0 | 4)
}

/// A segment that names its maker.
fn named(segment: &str) -> Option<(Runtime, String)> {
    let scope = segment.strip_suffix(".scope").unwrap_or(segment);
    if let Some((_, rest)) = scope.split_once(":cri-containerd:") {
        return is_id(rest).then(|| (Runtime::Containerd, rest.to_owned()));
    }
    const PREFIXES: [(&str, Runtime); 5] = [
        ("cri-containerd-", Runtime::Containerd),
        ("nerdctl-", Runtime::Containerd),
        ("crio-", Runtime::Crio),
        ("docker-", Runtime::Docker),
        ("libpod-", Runtime::Podman),
    ];
    PREFIXES.iter().find_map(|(prefix, runtime)| {
        let id = scope.strip_prefix(prefix)?;
        is_id(id).then(|| (*runtime, id.to_owned()))
    })
}

/// A bare id below a folder that tells whose it is.
fn bare(segment: &str, parent: Option<&str>) -> Option<(Runtime, String)> {
    if !is_id(segment) {
        return None;
    }
    let runtime = match parent? {
        "docker" => Runtime::Docker,
        "libpod_parent" => Runtime::Podman,
        // containerd's namespaces with the cgroupfs driver: /<namespace>/<id>.
        "k8s.io" | "moby" => Runtime::Containerd,
        parent if pod_uid(parent).is_some() => Runtime::Unnamed,
        _ => return None,
    };
    Some((runtime, segment.to_owned()))
}

/// 64 hex digits (all runtimes), or at least 12 of them (a shortened id).
fn is_id(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_unit(segment: &str) -> bool {
    [".service", ".scope", ".socket", ".mount", ".swap", ".slice"]
        .iter()
        .any(|suffix| segment.len() > suffix.len() && segment.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4a0c7e9d2b1f6a8c5e7d9b0a1c2e3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b8c9d";
    const UID: &str = "6b1f0c3a-9d2e-4f7b-8a1c-2e3f4a5b6c7d";

    fn container(path: &str) -> (Runtime, String, Option<String>) {
        match parse(path) {
            Workload::Container { runtime, container_id, pod_uid, cgroup_path } => {
                assert_eq!(cgroup_path, path);
                (runtime, container_id, pod_uid)
            }
            other => panic!("{path} → {other:?}"),
        }
    }

    #[test]
    fn containers_as_their_runtimes_name_them() {
        let under = UID.replace('-', "_");
        let pod = Some(UID.to_owned());
        let table = [
            // systemd driver
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
                ),
                Runtime::Containerd,
                pod.clone(),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{ID}.scope"),
                Runtime::Containerd,
                pod.clone(),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/crio-{ID}.scope"
                ),
                Runtime::Crio,
                pod.clone(),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{under}.slice/docker-{ID}.scope"
                ),
                Runtime::Docker,
                pod.clone(),
            ),
            // kind: a slice of the kubelet's own above it
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{under}.slice/cri-containerd-{ID}.scope"
                ),
                Runtime::Containerd,
                pod.clone(),
            ),
            // systemd's names given to the cgroupfs driver
            (
                format!("/system.slice/kubepods-besteffort-pod{under}.slice:cri-containerd:{ID}"),
                Runtime::Containerd,
                pod.clone(),
            ),
            // cgroupfs driver
            (format!("/kubepods/besteffort/pod{UID}/{ID}"), Runtime::Unnamed, pod.clone()),
            (format!("/kubepods/pod{UID}/{ID}"), Runtime::Unnamed, pod.clone()),
            (format!("/kubepods/burstable/pod{UID}/crio-{ID}"), Runtime::Crio, pod.clone()),
            // inside the container: an init system's folder, and Hemostat's
            (format!("/kubepods/pod{UID}/{ID}/system.slice/nginx.service"), Runtime::Unnamed, pod.clone()),
            (format!("/kubepods/pod{UID}/{ID}/hemostat-act-1"), Runtime::Unnamed, pod.clone()),
            // a node that is a container
            (format!("/docker/0123456789abcdef/kubepods/pod{UID}/{ID}"), Runtime::Unnamed, pod),
            // without Kubernetes
            (format!("/system.slice/docker-{ID}.scope"), Runtime::Docker, None),
            (format!("/docker/{ID}"), Runtime::Docker, None),
            (format!("/machine.slice/libpod-{ID}.scope"), Runtime::Podman, None),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Runtime::Podman, None),
            (
                format!(
                    "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"
                ),
                Runtime::Podman,
                None,
            ),
            (format!("/libpod_parent/libpod-{ID}"), Runtime::Podman, None),
            (format!("/system.slice/nerdctl-{ID}.scope"), Runtime::Containerd, None),
            (format!("/k8s.io/{ID}"), Runtime::Containerd, None),
        ];
        for (path, runtime, pod) in table {
            assert_eq!(container(&path), (runtime, ID.to_owned(), pod), "{path}");
        }
    }

    #[test]
    fn a_static_pods_uid_is_a_hash() {
        let (_, _, pod) = container(&format!("/kubepods/burstable/podd4f1b6a3c2e5f7a8b9c0d1e2f3a4b5c6/{ID}"));
        assert_eq!(pod.unwrap(), "d4f1b6a3c2e5f7a8b9c0d1e2f3a4b5c6");
    }

    #[test]
    fn units_and_the_rest_of_the_host() {
        let unit = |path: &str, unit: &str| {
            assert_eq!(parse(path), Workload::unit(unit, path));
        };
        unit("/system.slice/ssh.service", "ssh.service");
        unit("/user.slice/user-1000.slice/session-3.scope", "session-3.scope");
        unit("/user.slice/user-1000.slice/user@1000.service/app.slice/app-vim.scope", "app-vim.scope");
        unit("/system.slice/containerd.service", "containerd.service");
        unit("/system.slice/ssh.service/hemostat-act-9", "ssh.service");
        unit("/init.scope", "init.scope");
        // Not containers, though they look a little like them.
        unit(
            &format!("/kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_")),
            &format!("kubepods-pod{}.slice", UID.replace('-', "_")),
        );
        unit(&format!("/machine.slice/libpod-conmon-{ID}.scope"), &format!("libpod-conmon-{ID}.scope"));
        unit(&format!("/system.slice/crio-conmon-{ID}.scope"), &format!("crio-conmon-{ID}.scope"));
        for path in ["/", "/hemostat-demo", "/kubepods/besteffort", "/pod-of-whales", "/docker", "/.service"]
        {
            assert_eq!(parse(path), Workload::Host { cgroup_path: path.into() });
        }
    }

    #[test]
    fn the_outermost_pod_is_the_one_that_the_kubelet_made() {
        let (ours, theirs) = (UID, "00000000-9d2e-4f7b-8a1c-2e3f4a5b6c7d");
        let under = UID.replace('-', "_");
        for path in [
            format!("/kubepods/besteffort/pod{ours}/{ID}"),
            format!("/kubepods/pod{ours}"),
            format!("/kubepods/pod{ours}/{ID}/kubepods/pod{theirs}/{ID}"),
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/system.slice/kubepods-besteffort-pod{under}.slice:cri-containerd:{ID}"),
            format!(
                "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice/cri-containerd-{ID}.scope"
            ),
            format!("/docker/0123456789abcdef/kubepods/pod{ours}/{ID}"),
            format!("/kubepods/pod{ours}/{ID}/hemostat-act-1"),
        ] {
            assert_eq!(pod_of(&path), PodOf::Pod(ours.into()), "{path}");
        }
        for path in
            ["/", "/system.slice/ssh.service", &format!("/docker/{ID}"), &format!("/user/pod{ours}/{ID}")]
        {
            assert_eq!(pod_of(path), PodOf::None, "{path}");
        }
        for path in ["/kubepods", "/kubepods/besteffort/pod../x", &format!("/kubepods.slice/{ID}")] {
            assert_eq!(pod_of(path), PodOf::Untold, "{path}");
        }
    }

    #[test]
    fn a_name_that_only_imitates_a_pod_gives_no_uid() {
        let (runtime, _, pod) = container(&format!("/kubepods/pod../docker-{ID}.scope"));
        assert_eq!((runtime, pod), (Runtime::Docker, None));
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_parsed_and_kept(path in ".{0,300}") {
            let workload = parse(&path);
            proptest::prop_assert_eq!(workload.cgroup_path(), Some(path.as_str()));
        }
    }
}
