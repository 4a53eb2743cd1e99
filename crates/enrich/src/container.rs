//! Finds the pod and the container in a cgroup's path.
//!
//! A path is read from the root down and the innermost match wins, so a pod inside a container of kind or minikube is
//! found, and whatever an init system makes below a container's own cgroup belongs to that container.

use std::borrow::Cow;

/// What a path says of the container that its cgroup belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container<'p> {
    /// The id, whole, as the runtime shows it; for LXC and nspawn the container's name.
    pub id: Cow<'p, str>,
    /// The runtime, in the words of the `container.runtime.name` attribute, where the path tells.
    pub runtime: Option<&'static str>,
}

/// The pod and the container that a cgroup belongs to, as far as its path tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place<'p> {
    /// The pod's UID with dashes, or the 32 hexadecimal digits of a static pod.
    pub pod: Option<Cow<'p, str>>,
    /// The pod's own container, where the innermost one lies within it.
    pub outer: Option<Cow<'p, str>>,
    /// The innermost container.
    pub container: Option<Container<'p>>,
}

/// What runtimes put before a container's id, or name the directory above it.
const RUNTIMES: &[(&str, &str)] = &[
    ("buildkit", "buildkit"),
    ("containerd", "containerd"),
    ("cri-containerd", "containerd"),
    ("crio", "cri-o"),
    ("default", "containerd"),
    ("docker", "docker"),
    ("garden", "garden"),
    ("k8s.io", "containerd"),
    ("libpod", "podman"),
    ("libpod-payload", "podman"),
    ("mesos", "mesos"),
    ("moby", "docker"),
    ("nerdctl", "containerd"),
];

/// Gives the pod and the container that the cgroup with this path (from the hierarchy's root) belongs to.
pub fn locate(path: &str) -> Place<'_> {
    let mut place = Place::default();
    let mut above = "";
    // A cgroup namespace shows what is outside of its root as `/../..`.
    let segments = path.split('/').filter(|segment| !matches!(*segment, "" | ".."));
    for (depth, segment) in segments.enumerate() {
        if let Some(pod) = pod(segment) {
            place = Place { pod: Some(pod), ..Place::default() };
        }
        let outermost = place.container.is_none();
        let found = hexadecimal(segment, above)
            .or_else(|| with_other_id(segment, above))
            .or_else(|| if outermost { named(segment, above, depth) } else { None });
        if found.is_some() {
            let around = std::mem::replace(&mut place.container, found);
            if place.pod.is_some() && place.outer.is_none() {
                place.outer = around.map(|container| container.id);
            }
        }
        above = segment;
    }
    place
}

/// Reads `pod<uid>`, `kubepods-burstable-pod<uid>.slice` and `…-pod<uid>.slice:cri-containerd:<id>`.
fn pod(segment: &str) -> Option<Cow<'_, str>> {
    let slice = segment.split(':').next().unwrap_or(segment);
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None if name.contains("kubepods") => name.rsplit_once("-pod")?.1,
        None => return None,
    };
    if is_hexadecimal(uid, 32) {
        Some(Cow::Borrowed(uid))
    } else if is_uuid(uid) {
        // A dash separates the levels of a slice's name, so the systemd driver writes `_` within the UID.
        Some(if uid.contains('_') { Cow::Owned(uid.replace('_', "-")) } else { Cow::Borrowed(uid) })
    } else {
        None
    }
}

/// Reads what ends in 64 hexadecimal digits: alone, after a runtime's prefix, or as `slice:prefix:id`.
fn hexadecimal<'p>(segment: &'p str, above: &str) -> Option<Container<'p>> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (prefix, id) = name.split_at_checked(name.len().checked_sub(64)?)?;
    if !is_hexadecimal(id, 64) {
        return None;
    }
    if prefix.is_empty() {
        // Podman's pods have a directory of their own; the containers are below it.
        return (above != "libpod_parent").then(|| Container { id: id.into(), runtime: runtime(above) });
    }
    let prefix = prefix.strip_suffix(['-', '_', ':'])?;
    // The monitors of CRI-O and Podman carry the id of the container that they watch, but are not in it.
    let prefix = prefix.rsplit(':').next().unwrap_or(prefix);
    (!prefix.ends_with("conmon")).then(|| Container { id: id.into(), runtime: runtime(prefix) })
}

/// Reads ids of another form: `BuildKit`'s steps, Fargate's containers, Garden's and Mesos' UUIDs.
fn with_other_id<'p>(segment: &'p str, above: &str) -> Option<Container<'p>> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (prefix, id) = name.rsplit_once(['-', ':']).unwrap_or((above, name));
    let prefix = prefix.rsplit(':').next().unwrap_or(prefix);
    if matches!(prefix, "buildkit" | "docker") && is_buildkit(id) {
        return Some(Container { id: id.into(), runtime: Some("buildkit") });
    }
    if is_hexadecimal(prefix, 32) && id.len() >= 6 && id.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Container { id: name.into(), runtime: None });
    }
    (matches!(above, "garden" | "mesos") && is_uuid(segment))
        .then(|| Container { id: segment.into(), runtime: runtime(above) })
}

/// Reads containers that have a name in place of an id: LXC, nspawn and those of containerd's `ctr`.
///
/// Only the outermost container can be one of them: the names are too free to be looked for within another.
fn named<'p>(segment: &'p str, above: &str, depth: usize) -> Option<Container<'p>> {
    let lxc = |id: &'p str| (!id.is_empty()).then(|| Container { id: unescape(id), runtime: Some("lxc") });
    if let Some(name) = segment.strip_prefix("lxc.payload.") {
        return lxc(name);
    }
    if matches!(above, "lxc" | "lxc.payload") {
        return lxc(segment);
    }
    if let Some(name) = segment.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service")) {
        return Some(Container { id: unescape(name), runtime: Some("systemd-nspawn") });
    }
    if let Some(name) = segment.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope")) {
        // libvirt's machines carry driver and number: `lxc\x2d7\x2dweb`. A virtual machine is no container.
        return match name.strip_prefix(r"lxc\x2d") {
            Some(rest) => lxc(rest.split_once(r"\x2d").map_or(rest, |(_, name)| name)),
            None if name.starts_with(r"qemu\x2d") => None,
            None => Some(Container { id: unescape(name), runtime: Some("systemd-nspawn") }),
        };
    }
    let namespace = depth == 1 && matches!(above, "default" | "k8s.io");
    namespace.then(|| Container { id: segment.into(), runtime: Some("containerd") })
}

fn runtime(prefix: &str) -> Option<&'static str> {
    RUNTIMES.iter().find(|(name, _)| *name == prefix).map(|(_, runtime)| *runtime)
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => matches!(b, b'-' | b'_'),
            _ => b.is_ascii_hexdigit(),
        })
}

/// `BuildKit` names each step by 25 digits of base 36.
fn is_buildkit(text: &str) -> bool {
    text.len() == 25 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z'))
}

/// Undoes systemd's `\x2d`, which it writes for characters that have a meaning in a unit's name.
fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains(r"\x") {
        return Cow::Borrowed(name);
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = rest
            .strip_prefix(br"\x")
            .and_then(|digits| digits.get(..2))
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &rest[4..] } else { tail };
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
