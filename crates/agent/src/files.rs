//! Tells when the files of the configuration may have changed: written, made, removed, renamed, or reached by another
//! symbolic link, as Kubernetes does with a `ConfigMap`.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

/// After a change it is waited until nothing has changed for this time, but not longer than that.
const QUIET: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(2);
/// The most symbolic links on one path, as in the kernel.
const LINKS: usize = 40;

/// Directories to watch, each with the names in it that matter; without names all do.
type Watched = HashMap<PathBuf, HashSet<OsString>>;

/// The files and directories of a configuration.
pub struct Files {
    places: Vec<PathBuf>,
    inotify: Option<AsyncFd<OwnedFd>>,
    names: HashMap<i32, HashSet<OsString>>,
}

impl Files {
    /// Watches the places. Where the kernel refuses, nothing is ever reported, and the log says so.
    pub fn watch(places: Vec<PathBuf>) -> Self {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        #[expect(deprecated, reason = "what replaces it is unsafe; an OwnedFd always gives the same descriptor")]
        let inotify = inotify::init(flags).map_err(std::io::Error::from).and_then(AsyncFd::new);
        let inotify = inotify.inspect_err(|error| {
            tracing::warn!(
                "changes of the configuration's files are not seen, SIGHUP and `telesonde reload` are: {error}"
            );
        });
        let mut files = Self { places, inotify: inotify.ok(), names: HashMap::new() };
        files.look();
        files
    }

    /// Waits until something has changed, and then until it rests.
    pub async fn changed(&mut self) {
        while !self.hear().await {}
        let until = Instant::now() + PATIENCE;
        while tokio::time::timeout_at(until.min(Instant::now() + QUIET), self.hear()).await.is_ok() {}
        self.look();
    }

    /// Waits for reports; says whether one was of something that matters.
    async fn hear(&self) -> bool {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        let mut matters = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            let known = self.names.get(&event.wd());
            // What has no name is the directory itself, or reports that were lost.
            matters |= name.is_none_or(|name| known.is_some_and(|names| names.is_empty() || names.contains(name)));
        }
        ready.clear_ready();
        matters
    }

    /// Watches what the places lead to now; what was watched before stays watched.
    fn look(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut watched = Watched::new();
        for place in &self.places {
            follow(place, &mut watched);
        }
        let of_interest = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        let mut names: HashMap<i32, HashSet<OsString>> = HashMap::new();
        for (directory, wanted) in watched {
            // One that has just gone is reported by the directory above it.
            let Ok(watch) = inotify::add_watch(inotify, &directory, of_interest) else { continue };
            // Two paths may lead to one directory.
            let all = wanted.is_empty() || names.get(&watch).is_some_and(HashSet::is_empty);
            let known = names.entry(watch).or_default();
            if all { known.clear() } else { known.extend(wanted) }
        }
        for watch in self.names.keys().filter(|watch| !names.contains_key(watch)) {
            // The kernel has removed the watches of directories that are gone.
            let _ = inotify::remove_watch(inotify, *watch);
        }
        self.names = names;
    }
}

/// Adds what decides where a path leads: each symbolic link on it, and its end. Of a directory all names matter.
fn follow(path: &Path, watched: &mut Watched) {
    let Ok(absolute) = std::path::absolute(path) else { return };
    let mut rest: Vec<OsString> = parts(&absolute);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        if let Ok(target) = std::fs::read_link(&next) {
            add(watched, &at, name);
            links += 1;
            if links > LINKS {
                return;
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(parts(&target));
            continue;
        }
        if rest.is_empty() || !next.exists() {
            // What is not there yet may be made.
            add(watched, &at, name);
            if next.is_dir() {
                watched.insert(next, HashSet::new());
            }
            return;
        }
        at = next;
    }
}

fn add(watched: &mut Watched, directory: &Path, name: OsString) {
    match watched.get_mut(directory) {
        // All names matter already.
        Some(names) if names.is_empty() => {}
        Some(names) => drop(names.insert(name)),
        None => drop(watched.insert(directory.to_owned(), HashSet::from([name]))),
    }
}

/// Gives the names of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("telesonde-files-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            // The temporary directory itself may be reached by a link.
            Self(path.canonicalize().unwrap())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    async fn reported(files: &mut Files) {
        tokio::time::timeout(Duration::from_secs(20), files.changed()).await.expect("the change is reported");
    }

    #[tokio::test]
    async fn a_file_that_is_written_made_or_replaced_is_reported() {
        let directory = Directory::new("plain");
        let (file, beside) = (directory.0.join("a.yaml"), directory.0.join("conf.d"));
        let mut files = Files::watch(vec![file.clone(), beside.clone()]);
        fs::write(&file, "made").unwrap();
        reported(&mut files).await;
        fs::write(&file, "written").unwrap();
        reported(&mut files).await;
        fs::write(directory.0.join("new"), "replaced").unwrap();
        fs::rename(directory.0.join("new"), &file).unwrap();
        reported(&mut files).await;
        fs::create_dir(&beside).unwrap();
        reported(&mut files).await;
        fs::write(beside.join("10.yaml"), "within a directory").unwrap();
        reported(&mut files).await;
        fs::write(directory.0.join("other"), "nobody asks for this one").unwrap();
        let silent = tokio::time::timeout(QUIET, files.changed()).await;
        assert!(silent.is_err());
        fs::remove_dir_all(&beside).unwrap();
        reported(&mut files).await;
    }

    /// A `ConfigMap` is a link to a file below a link to a directory, and that second link is replaced.
    #[tokio::test]
    async fn a_config_map_that_is_swapped_is_reported_each_time() {
        let directory = Directory::new("map");
        for (version, text) in [("..1", "first"), ("..2", "second"), ("..3", "third")] {
            fs::create_dir(directory.0.join(version)).unwrap();
            fs::write(directory.0.join(version).join("a.yaml"), text).unwrap();
        }
        symlink("..1", directory.0.join("..data")).unwrap();
        symlink("..data/a.yaml", directory.0.join("a.yaml")).unwrap();
        let file = directory.0.join("a.yaml");
        let mut files = Files::watch(vec![file.clone()]);
        for (version, text) in [("..2", "second"), ("..3", "third")] {
            symlink(version, directory.0.join("..data_tmp")).unwrap();
            fs::rename(directory.0.join("..data_tmp"), directory.0.join("..data")).unwrap();
            reported(&mut files).await;
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        fs::write(directory.0.join("..3/a.yaml"), "where it leads to now").unwrap();
        reported(&mut files).await;
    }

    #[test]
    fn links_that_lead_nowhere_come_to_an_end() {
        let directory = Directory::new("loop");
        symlink("b", directory.0.join("a")).unwrap();
        symlink("a", directory.0.join("b")).unwrap();
        let mut watched = Watched::new();
        follow(&directory.0.join("a"), &mut watched);
        assert_eq!(watched[&directory.0], HashSet::from(["a".into(), "b".into()]));
    }
}
