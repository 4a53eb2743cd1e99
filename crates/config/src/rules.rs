//! What one key cannot know of another, and keys whose effect is still to come.

use crate::error::{Problem, Warning};
use crate::nearest::nearest;
use crate::node::{Data, Node};
use crate::place::{Key, Place};
use crate::url;

/// Judges the merged tree as a whole.
pub(crate) fn judge(root: &Node, problems: &mut Vec<Problem>, warnings: &mut Vec<Warning>) {
    let mut rules = Rules { root, problems, warnings };
    rules.prometheus();
    rules.endpoints();
    rules.events();
    rules.hubble();
    rules.listeners();
}

struct Rules<'a> {
    root: &'a Node,
    problems: &'a mut Vec<Problem>,
    warnings: &'a mut Vec<Warning>,
}

impl Rules<'_> {
    fn text(&self, key: &str) -> &str {
        self.root.find(key).and_then(Node::text).unwrap_or_default()
    }

    fn is(&self, key: &str) -> bool {
        self.root.find(key).is_some_and(|node| node.data == Data::Bool(true))
    }

    fn place(&self, key: &str) -> Place {
        self.root.find(key).map_or(Place::Default, |node| node.place.clone())
    }

    fn refuse(&mut self, key: &str, reason: impl Into<String>) {
        self.problems.push(Problem::Conflict { place: self.place(key), key: key.to_owned(), reason: reason.into() });
    }

    fn warn(&mut self, key: &str, message: impl Into<String>) {
        self.warnings.push(Warning { place: self.place(key), key: key.to_owned(), message: message.into() });
    }

    fn pair(&mut self, prefix: &str, cert: &str, key: &str) {
        let (cert, key) = (format!("{prefix}{cert}"), format!("{prefix}{key}"));
        match (self.text(&cert).is_empty(), self.text(&key).is_empty()) {
            (false, true) => self.refuse(&cert, format!("a certificate needs its key; set {key}")),
            (true, false) => self.refuse(&key, format!("a key needs its certificate; set {cert}")),
            _ => {}
        }
    }

    fn prometheus(&mut self) {
        self.pair("exporters.prometheus.tls.", "cert", "key");
        let ca = "exporters.prometheus.tls.client_ca";
        if !self.text(ca).is_empty() && self.text("exporters.prometheus.tls.cert").is_empty() {
            self.refuse(ca, "client certificates need TLS; set exporters.prometheus.tls.cert and key");
        }
        let auth = "exporters.prometheus.auth.";
        let set = |rules: &Self, key: &str| !rules.text(&format!("{auth}{key}")).is_empty();
        let exclusive = [("basic.password", "basic.password_file"), ("bearer.token", "bearer.token_file")];
        for (inline, file) in exclusive {
            if set(self, inline) && set(self, file) {
                self.refuse(&format!("{auth}{file}"), format!("{auth}{inline} is set too; keep one of the two"));
            }
        }
        let password = set(self, "basic.password") || set(self, "basic.password_file");
        let bearer = set(self, "bearer.token") || set(self, "bearer.token_file");
        match (set(self, "basic.username"), password) {
            (true, false) => {
                self.refuse(&format!("{auth}basic.username"), "a user needs a password; set password or password_file");
            }
            (false, true) => {
                let given = if set(self, "basic.password") { "basic.password" } else { "basic.password_file" };
                self.refuse(&format!("{auth}{given}"), "a password needs a user; set username");
            }
            (true, true) if bearer => {
                self.refuse(
                    &format!("{auth}basic.username"),
                    "basic and bearer exclude each other; keep one of the two",
                );
            }
            _ => {}
        }
    }

    fn endpoints(&mut self) {
        let root = self.root;
        let Some(endpoints) = root.find("exporters.otlp") else { return };
        for entry in endpoints.entries() {
            let prefix = Key::of("exporters.otlp").child(&entry.key);
            if entry.key.contains('.') {
                let reason = "the name of an endpoint must not contain a dot";
                let key = prefix.to_string();
                self.problems.push(Problem::Conflict { place: entry.place.clone(), key, reason: reason.to_owned() });
                continue;
            }
            self.pair(&format!("{prefix}.tls."), "cert", "key");
            let key = format!("{prefix}.endpoint");
            let url = self.text(&key).to_owned();
            let Ok(parts) = url::parse(&url) else { continue };
            let grpc = self.text(&format!("{prefix}.protocol")) == "grpc";
            if grpc && !parts.path.trim_matches('/').is_empty() {
                self.warn(&key, "gRPC has no use for a path; was protocol: http/protobuf meant?");
            } else if grpc && parts.authority.ends_with(":4318") {
                self.warn(&key, "port 4318 is usually OTLP over HTTP; was protocol: http/protobuf meant?");
            } else if !grpc && parts.authority.ends_with(":4317") {
                self.warn(&key, "port 4317 is usually OTLP over gRPC; was protocol: grpc meant?");
            }
            if parts.scheme == "http" {
                for word in ["ca", "cert", "server_name"] {
                    let tls = format!("{prefix}.tls.{word}");
                    if !self.text(&tls).is_empty() {
                        self.warn(&tls, "it has no effect on an http:// endpoint; write https://");
                    }
                }
            }
            if self.is(&format!("{prefix}.tls.insecure_skip_verify")) {
                self.warn(
                    &format!("{prefix}.tls.insecure_skip_verify"),
                    "any certificate is accepted: anybody may read what is sent",
                );
            }
        }
    }

    /// The default name may point nowhere; another one must not.
    fn events(&mut self) {
        let key = "exporters.events.otlp";
        let wanted = self.text(key).to_owned();
        let root = self.root;
        let names: Vec<&str> =
            root.find("exporters.otlp").into_iter().flat_map(Node::entries).map(|entry| entry.key.as_str()).collect();
        if wanted.is_empty() || wanted == "main" || names.contains(&wanted.as_str()) {
            return;
        }
        let hint = match nearest(&wanted, names.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None if names.is_empty() => "there is none; add one to exporters.otlp".to_owned(),
            None => format!("there are {}", names.join(", ")),
        };
        self.refuse(key, format!("there is no OTLP endpoint named {wanted:?}; {hint}"));
    }

    fn hubble(&mut self) {
        let prefix = "integrations.ebpf.cilium.";
        self.pair(prefix, "hubble_tls_cert", "hubble_tls_key");
        let root = self.root;
        let list = |key: &str| match root.find(&format!("{prefix}{key}")).map(|node| &node.data) {
            Some(Data::List(items)) => items.as_slice(),
            _ => &[],
        };
        let (watched, excluded) = (list("watch_namespaces"), list("exclude_namespaces"));
        if let Some(both) = watched.iter().find(|own| excluded.iter().any(|other| other.data == own.data)) {
            let name = both.text().unwrap_or_default();
            let reason = format!("{name} is in exclude_namespaces too; keep it in one of the two");
            self.refuse(&format!("{prefix}watch_namespaces"), reason);
        }
    }

    fn listeners(&mut self) {
        let mut taken: Vec<(&str, String)> = Vec::new();
        for key in ["exporters.prometheus.listen", "health.listen", "admin.listen"] {
            if key.starts_with("exporters") && !self.is("exporters.prometheus.enabled") {
                continue;
            }
            let address = self.text(key).to_owned();
            if address.is_empty() || address.ends_with(":0") {
                continue;
            }
            if let Some((other, _)) = taken.iter().find(|(_, other)| *other == address) {
                let other = (*other).to_owned();
                // The one that somebody wrote is the one to point at.
                let at = if self.place(key) == Place::Default { other.clone() } else { key.to_owned() };
                let rest = if at == key { other.as_str() } else { key };
                self.refuse(&at, format!("{rest} listens on {address} too; give one of them another port"));
            }
            taken.push((key, address));
        }
    }
}
