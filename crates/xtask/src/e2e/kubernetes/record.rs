//! Writes down what a real API server says, so that the fake one of the tests says the same.
//!
//! An answer is a file: the request after `>`, the status and two headers after `<`, an empty line, the body. Uids and times are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::api::{Client, JSON, METADATA};
use super::cluster::Cluster;
use super::pods::{Driver, NAMESPACE, Pod};
use super::scene;
use super::{NODE, token};
use crate::e2e::END;
use crate::e2e::child::Program;
use crate::e2e::http::Response;
use crate::e2e::prometheus::eventually;

/// Runs a cluster of its own through everything that a watcher of pods meets, and writes the answers into `out`.
///
/// # Errors
/// Fails when the cluster does, or an answer has another status than expected.
pub fn run(dir: &Path, out: &Path) -> Result<()> {
    let signer = token::Signer::prepare(dir)?;
    let cluster = Cluster::prepare(dir.to_owned())?;
    let mut etcd = cluster.start_etcd()?;
    let mut server = cluster.start()?;
    let api = Client::administrator(dir, cluster.port)?;
    let mut book = Book { out: out.to_owned(), uids: BTreeMap::new() };
    fs::create_dir_all(out)?;
    let scene = scene::prepare(&api)?;

    let reader = || Client::bearer(dir, cluster.port, token::issued(&api)?);
    let pods = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}");
    let first = format!("{pods}&limit=500&resourceVersion=0");
    book.write("unauthorized", 401, &Client::bearer(dir, cluster.port, "nonsense".into())?, &first)?;
    let late = Client::bearer(dir, cluster.port, signer.token(&scene.account, Duration::from_secs(1))?)?;
    thread::sleep(Duration::from_secs(2));
    book.write("unauthorized_expired", 401, &late, &first)?;
    let binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/telesonde";
    api.must("DELETE", binding, JSON, "")?;
    eventually(|| match reader()?.get(&first)?.status {
        403 => Ok(()),
        status => bail!("answered {status}"),
    })?;
    book.write("forbidden", 403, &reader()?, &first)?;
    scene::prepare(&api)?;
    eventually(|| match reader()?.get(&first)?.status {
        200 => Ok(()),
        status => bail!("answered {status}"),
    })?;

    book.write("list_empty", 200, &reader()?, &first)?;
    let metadata =
        json!({"labels": {"app": "web", "pod-template-hash": scene::HASH}, "ownerReferences": scene.web().reference()});
    let mut pod = Pod::create(&api, "web-6d4cf56db6-4x2lq", Driver::Cgroupfs, &metadata, &json!({}))?;
    let (id, work) = pod.run(1, Duration::from_millis(1))?;
    work.finish()?;
    pod.publish(&api, "containerStatuses", "app", &id, 0)?;
    let listed = book.write("list", 200, &reader()?, &first)?;
    let version = resource_version(&listed)?;
    let watch = |version: &str| {
        format!("{pods}&watch=true&timeoutSeconds=6&allowWatchBookmarks=true&resourceVersion={version}")
    };
    let replica_set = format!("/apis/apps/v1/namespaces/{NAMESPACE}/replicasets");
    book.write("owner", 200, &reader()?.accepting(METADATA), &format!("{replica_set}/{}", scene.web().name))?;
    book.write("owner_missing", 404, &reader()?.accepting(METADATA), &format!("{replica_set}/gone"))?;

    let from = watch(&version);
    let client = reader()?;
    let watched = thread::scope(|scope| {
        let watched = scope.spawn(|| client.get(&from));
        thread::sleep(Duration::from_secs(1));
        let mut second = Pod::create(&api, "db-0", Driver::Systemd, &json!({}), &json!({}))?;
        let (id, work) = second.run(1, Duration::from_millis(1))?;
        work.finish()?;
        second.publish(&api, "containerStatuses", "app", &id, 0)?;
        second.delete(&api)?;
        watched.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))?
    })?;
    book.keep("watch", 200, &from, &watched)?;

    server.end(END)?;
    drop(server);
    let mut server = cluster.launch()?;
    starting(&mut book, &mut server, &client, &first)?;
    eventually(|| match api.get("/readyz")?.status {
        200 => Ok(()),
        status => bail!("/readyz is {status}"),
    })?;
    // What it served before is no longer in its memory.
    let from = watch("2");
    book.write("watch_too_old", 200, &client, &from)?;
    cluster.compact(&version)?;
    let exact = format!("{pods}&resourceVersion=2&resourceVersionMatch=Exact");
    book.write("list_too_old", 410, &client, &exact)?;
    etcd.end(END)?;
    book.write("etcd_down_list", 200, &client, &first)?;
    // The server answers, or hangs up, whichever of its deadlines comes first.
    let owner = format!("{replica_set}/{}", scene.web().name);
    match client.get(&owner) {
        Ok(answer) => book.keep("etcd_down", 504, &owner, &answer)?,
        Err(error) => println!("left etcd_down as it is: {error:#}"),
    }
    server.end(END)?;
    drop(pod);
    Ok(())
}

/// Every other answer that a client gets while the server starts.
fn starting(book: &mut Book, server: &mut Program, client: &Client, path: &str) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut failed = None;
    server.until("answering", Duration::from_mins(2), || {
        let Ok(answer) = client.get(path) else { return false };
        if answer.status != 200 && seen.insert(answer.status) {
            failed = book.keep(&format!("starting_{}", answer.status), answer.status, path, &answer).err();
        }
        answer.status == 200
    })?;
    failed.map_or(Ok(()), Err)
}

fn resource_version(list: &Response) -> Result<String> {
    let list: serde_json::Value = serde_json::from_str(&list.body)?;
    Ok(list["metadata"]["resourceVersion"].as_str().context("the list has no version")?.to_owned())
}

/// The directory of the answers.
struct Book {
    out: std::path::PathBuf,
    uids: BTreeMap<String, String>,
}

impl Book {
    fn write(&mut self, name: &str, status: u16, client: &Client, path: &str) -> Result<Response> {
        let answer = client.get(path)?;
        self.keep(name, status, path, &answer)?;
        Ok(answer)
    }

    fn keep(&mut self, name: &str, status: u16, path: &str, answer: &Response) -> Result<()> {
        if answer.status != status {
            bail!("GET {path} was answered {} and should be {status}: {}", answer.status, answer.body);
        }
        let mut text = format!("> GET {path}\n< {status}\n");
        for header in ["content-type", "retry-after"] {
            if let Some(value) = answer.headers.get(header) {
                writeln!(text, "< {header}: {value}")?;
            }
        }
        writeln!(text, "\n{}", self.plain(answer.body.trim_end()))?;
        println!("recorded {name}: {status}, {} bytes", text.len());
        fs::write(self.out.join(format!("{name}.http")), text).with_context(|| format!("cannot write {name}"))
    }

    /// Replaces every uid by a counted one, also where a container's id begins with it, and every time by one.
    fn plain(&mut self, body: &str) -> String {
        let mut out = body.to_owned();
        for uid in words(body, 36, is_uid) {
            let number = self.uids.len() + 1;
            let plain = self.uids.entry(uid.clone()).or_insert_with(|| format!("00000000-0000-4000-8000-{number:012}"));
            out = out.replace(&uid, plain).replace(&uid.replace('-', ""), &plain.replace('-', ""));
        }
        for time in words(body, 20, is_time) {
            out = out.replace(&time, "2026-01-01T00:00:00Z");
        }
        out
    }
}

/// Gives all windows of a length that satisfy a condition, in their order.
fn words(text: &str, length: usize, is: fn(&[u8]) -> bool) -> Vec<String> {
    let found = text.as_bytes().windows(length).filter(|window| is(window));
    found.map(|window| String::from_utf8_lossy(window).into_owned()).collect()
}

fn is_uid(window: &[u8]) -> bool {
    window.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    })
}

fn is_time(window: &[u8]) -> bool {
    window.iter().zip(b"0000-00-00T00:00:00Z").all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        form => byte == form,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_and_times_are_replaced() {
        let mut book = Book { out: std::path::PathBuf::new(), uids: BTreeMap::new() };
        let uid = "5fbb1c5e-3a02-4b1e-9f0f-2d4c67a8e913";
        let body = format!("{uid} containerd://{}ff 2031-07-08T09:10:11Z", uid.replace('-', ""));
        let plain = "00000000-0000-4000-8000-000000000001";
        let expected = format!("{plain} containerd://{}ff 2026-01-01T00:00:00Z", plain.replace('-', ""));
        assert_eq!(book.plain(&body), expected);
        assert_eq!(book.plain(uid), plain);
    }
}
