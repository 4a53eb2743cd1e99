//! Files as the runtimes write them, in a directory of the test's own.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use model::{Answer, Census, Resolver, Subject};

use super::*;
use crate::{Hierarchy, Settings};

const ID: &str = "3f1a9c5be0d24786bb0c9a7f61d2e8453f1a9c5be0d24786bb0c9a7f61d2e845";
const OTHER: &str = "a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5";

struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("telesonde-runtimes-{}-{name}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        Self(root)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn places(&self) -> Places {
        let root = self.0.clone();
        Places::usual(move |path| root.join(&path[1..]))
    }

    /// Gives the names of a container of the host's own runtimes, or what is wrong.
    fn find(&self, id: &str) -> String {
        self.find_of(id, 0)
    }

    fn find_of(&self, id: &str, owner: u32) -> String {
        match self.places().find(id, owner) {
            Ok(Some(container)) => {
                container.names.iter().flat_map(|(key, value)| [key.as_str(), "=", value.as_str(), " "]).collect()
            }
            Ok(None) => "nothing".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const DOCKER: &str = r#"{"StreamConfig":{},"State":{"Running":true,"Pid":4711},"ID":"…","Created":"2026-01-02T03:04:05Z",
"Path":"nginx","Args":["-g"],"Config":{"Hostname":"3f1a9c5be0d2","Image":"registry:5000/shop/web:1.27@sha256:00","Labels":{}},
"Image":"sha256:11","Name":"/web","Driver":"overlay2"}"#;

#[test]
fn each_runtime_names_its_containers() {
    let root = Root::new("names");
    root.write(&format!("var/lib/docker/containers/{ID}/config.v2.json"), DOCKER);
    assert_eq!(root.find(ID), "container.name=web container.image.name=registry:5000/shop/web ");
    assert_eq!(root.find(OTHER), "nothing");

    let root = Root::new("containerd");
    let task = |namespace: &str, id: &str| {
        format!("run/containerd/io.containerd.runtime.v2.task/{namespace}/{id}/config.json")
    };
    root.write(
        &task("default", ID),
        r#"{"ociVersion":"1.1.0","process":{"args":["sh"]},"annotations":{"nerdctl/name":"db","nerdctl/namespace":"default"}}"#,
    );
    let cri =
        r#"{"annotations":{"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.image-name":"busybox:1"}}"#;
    root.write(&task("k8s.io", OTHER), cri);
    // `ctr` notes nothing: what it was given as an id is the name.
    root.write(
        &task("shop", "batch"),
        r#"{"ociVersion":"1.0.2-dev","process":{"args":["/calls"]},"annotations":null}"#,
    );
    assert_eq!(root.find("batch"), "container.name=batch ");
    assert_eq!(root.find(ID), "container.name=db ");
    assert_eq!(root.find(OTHER), "container.name=app container.image.name=busybox ");

    let root = Root::new("podman");
    let stored = format!(
        r#"[{{"id":"{OTHER}","names":["first"],"image":"22","layer":"33"}},{{"id":"{ID}","names":["cache"],"image":"44",
        "metadata":"{{\"image-name\":\"docker.io/library/redis:7\",\"name\":\"cache\",\"created-at\":1}}"}}]"#
    );
    root.write("var/lib/containers/storage/overlay-containers/containers.json", &stored);
    assert_eq!(root.find(ID), "container.name=cache container.image.name=docker.io/library/redis ");
    assert_eq!(root.find(OTHER), "container.name=first ");
    // What lives only until the next start of the host has a list of its own, and each driver has both.
    root.write("var/lib/containers/storage/vfs-containers/volatile-containers.json", &stored.replace(ID, "17"));
    assert_eq!(root.find("17"), "container.name=cache container.image.name=docker.io/library/redis ");
}

#[test]
fn docker_may_keep_its_state_elsewhere() {
    let root = Root::new("elsewhere");
    root.write("etc/docker/daemon.json", r#"{"data-root":"/srv/docker","log-driver":"journald"}"#);
    root.write(&format!("srv/docker/containers/{ID}/config.v2.json"), DOCKER);
    assert_eq!(root.find(ID), "container.name=web container.image.name=registry:5000/shop/web ");
    assert!(root.places().readable());
}

/// As a rootless Podman 4.3 wrote it.
#[test]
fn users_name_their_own_containers() {
    let root = Root::new("rootless");
    root.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nbroken\nshopper:x:4711:4711::/home/shopper:/bin/sh\n");
    let stored = format!(
        r#"[{{"id":"{ID}","names":["basket"],"image":"b6627804739f","layer":"57563f5e9d7f","metadata":"{{\"image-name\":
        \"localhost/calls:1\",\"image-id\":\"b6627804739f\",\"name\":\"basket\",\"created-at\":1795294641}}",
        "created":"2026-11-21T20:57:21.958398213Z","flags":{{"MountLabel":"","ProcessLabel":""}}}}]"#
    );
    root.write(
        "home/shopper/.local/share/containers/storage/vfs-containers/containers.json",
        &stored.replace('\n', ""),
    );
    assert_eq!(root.find_of(ID, 4711), "container.name=basket container.image.name=localhost/calls ");
    // Those of others, and of nobody who is known, are not theirs to name.
    assert_eq!((root.find_of(ID, 0), root.find_of(ID, 4712)), ("nothing".to_owned(), "nothing".to_owned()));

    root.write(&format!("home/shopper/.local/share/docker/containers/{OTHER}/config.v2.json"), DOCKER);
    assert_eq!(root.find_of(OTHER, 4711), "container.name=web container.image.name=registry:5000/shop/web ");
    assert!(!root.places().readable());
    fs::create_dir_all(root.0.join("run/user/4711/containers")).unwrap();
    assert!(root.places().readable());
}

#[test]
fn no_file_makes_anybody_wait() {
    let root = Root::new("pipe");
    let directory = root.0.join(format!("var/lib/docker/containers/{ID}"));
    fs::create_dir_all(&directory).unwrap();
    let pipe = directory.join("config.v2.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(root.find(ID).contains("is no file"), "{}", root.find(ID));
}

#[test]
fn broken_files_name_nothing() {
    let root = Root::new("broken");
    let file = format!("var/lib/docker/containers/{ID}/config.v2.json");
    for text in ["", "{", "[]", r#"{"Name":7}"#, "<html>"] {
        root.write(&file, text);
        assert!(root.find(ID).contains("config.v2.json"), "{text}: {}", root.find(ID));
    }
    root.write(&file, r#"{"Name":"/"}"#);
    assert_eq!(root.find(ID), "nothing");
    root.write(&file, "{\"Name\":\"/a\\u0007b\"}");
    assert_eq!(root.find(ID), "container.name=ab ");
    root.write(&file, &format!(r#"{{"Name":"/{}"}}"#, "x".repeat(1 << 20)));
    assert_eq!(root.find(ID).len(), "container.name= ".len() + 255);
    for id in ["", "..", ".", "a/b"] {
        assert_eq!(root.find(id), "nothing");
    }
}

#[test]
fn what_is_seen_gets_its_name() {
    let root = Root::new("seen");
    let cgroup = format!("cgroups/docker/{ID}");
    fs::create_dir_all(root.0.join(&cgroup)).unwrap();
    let hierarchy = Hierarchy { mount: root.0.join("cgroups"), whole: true };
    let id = hierarchy.id(&format!("/docker/{ID}")).unwrap();
    let workloads = Arc::new(Workloads::start(hierarchy, &Settings::default()).unwrap());
    root.write(&format!("var/lib/docker/containers/{ID}/config.v2.json"), DOCKER);
    start(root.places(), &workloads).unwrap();
    let begin = Instant::now();
    loop {
        if let Answer::Known(set) = workloads.resolve(Subject::Cgroup(id))
            && set.get("container.name") == Some("web")
        {
            assert_eq!((set.get("container.runtime.name"), set.get("container.id")), (Some("docker"), None));
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "it has no name");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(workloads.sources()[0].state, State::Running);
}

#[test]
fn what_has_ended_gets_its_name_too() {
    let root = Root::new("ended");
    fs::create_dir_all(root.0.join("cgroups")).unwrap();
    let hierarchy = Hierarchy { mount: root.0.join("cgroups"), whole: true };
    let settings = Settings { expects: vec![Kind::Containers], ..Settings::default() };
    let workloads = Arc::new(Workloads::start(hierarchy, &settings).unwrap());
    start(root.places(), &workloads).unwrap();
    let (id, parent, path) = (1 << 40, 1, format!("/docker/{ID}"));
    workloads.changed(model::CgroupChange::Made { id, parent, path: Some(path.into()) });
    workloads.changed(model::CgroupChange::Removed { id });
    root.write(&format!("var/lib/docker/containers/{ID}/config.v2.json"), DOCKER);
    let begin = Instant::now();
    while !matches!(workloads.resolve(Subject::Cgroup(id)), Answer::Known(set) if set.get("container.name") == Some("web"))
    {
        assert!(begin.elapsed() < Duration::from_secs(30), "it has no name");
        thread::sleep(Duration::from_millis(10));
    }
}
