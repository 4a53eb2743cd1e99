//! Each mistake gives one message with its place, its key and the fix.

use crate::support::{Directory, from, sections, text};

/// Texts, and the one message that each must give: whole, or a part where it does not begin with the file.
const MISTAKES: &[(&str, &str)] = &[
    ("log: {levle: info}\n", "f.yaml:1:7: log.levle is not a known key; did you mean level?"),
    (
        "colour: red\n",
        "f.yaml:1:1: colour is not a known key; the keys here are agent, host, integrations, exporters, enrich, series_ttl, limits, budget, health, admin, log, shutdown_timeout",
    ),
    (
        "series_ttl: 15\n",
        "f.yaml:1:13: series_ttl must be a duration of at least 1s, such as 15s, not the number 15; write 15s for seconds or 15ms",
    ),
    (
        "series_ttl: '15'\n",
        "f.yaml:1:13: series_ttl must be a duration of at least 1s, such as 15s, not \"15\"; add a unit: 15s",
    ),
    ("series_ttl: 500ms\n", "f.yaml:1:13: series_ttl must be a duration of at least 1s, such as 15s, not \"500ms\""),
    (
        "exporters:\n  prometheus: {enabled: yes}\n",
        "f.yaml:2:25: exporters.prometheus.enabled must be true or false, not \"yes\"; write true",
    ),
    (
        "exporters: {prometheus: {listen: ':9464'}}\n",
        "f.yaml:1:34: exporters.prometheus.listen must be an address and a port, such as 127.0.0.1:9464, not \":9464\"; write 0.0.0.0:9464 or [::]:9464 to listen on every address",
    ),
    (
        "exporters: {prometheus: {path: metrics}}\n",
        "f.yaml:1:32: exporters.prometheus.path must be a path that begins with /, not \"metrics\"; write /metrics",
    ),
    (
        "exporters: {otlp: {main: {endpoint: 'collector:4317'}}}\n",
        "f.yaml:1:37: exporters.otlp.main.endpoint must be a URL, such as http://127.0.0.1:4317, not \"collector:4317\"; the scheme is missing: write http://HOST:PORT, or https://HOST:PORT for TLS",
    ),
    (
        "exporters: {otlp: {main: {protocol: http/protobuff}}}\n",
        "f.yaml:1:37: exporters.otlp.main.protocol must be grpc or http/protobuf, not \"http/protobuff\"; did you mean http/protobuf?",
    ),
    (
        "exporters: {otlp: {main: {headers: {tenant: 7}}}}\n",
        "f.yaml:1:45: exporters.otlp.main.headers.tenant must be text, not an unquoted number or truth value; put it in quotes",
    ),
    (
        "limits: {series_total: 0}\n",
        "f.yaml:1:24: limits.series_total must be a whole number between 1 and 100000000, not the number 0",
    ),
    (
        "limits: {map_memory: 1KiB}\n",
        "f.yaml:1:22: limits.map_memory must be a size between 1MiB and 64GiB, such as 64KiB, not \"1KiB\"",
    ),
    (
        "integrations: {ebpf: {sample_rate: 101}}\n",
        "f.yaml:1:36: integrations.ebpf.sample_rate must be a whole number between 1 and 100, not the number 101",
    ),
    (
        "integrations: {ebpf: {process_filter: nginx}}\n",
        "f.yaml:1:39: integrations.ebpf.process_filter must be a list, not \"nginx\"; put it in [ ]",
    ),
    (
        "integrations: {ebpf: {collectors: {sycalls: {}}}}\n",
        "f.yaml:1:36: integrations.ebpf.collectors.sycalls is not a known key; did you mean syscalls?",
    ),
    (
        "integrations: {ebpf: {collect_tcp: true}}\n",
        "f.yaml:1:23: integrations.ebpf.collect_tcp is not a known key; did you mean collect_http?",
    ),
    (
        "integrations: {ebpf: {collectors: {syscalls: {enabled: maybe}}}}\n",
        "f.yaml:1:56: integrations.ebpf.collectors.syscalls.enabled must be true, false or require, not \"maybe\"",
    ),
    (
        "integrations: {ebpf: {collectors: {syscalls: {latency: {sample: 0}}}}}\n",
        "f.yaml:1:65: integrations.ebpf.collectors.syscalls.latency.sample must be a whole number between 1 and 65536, not the number 0",
    ),
    (
        "integrations: {ebpf: {collectors: {syscalls: {syscalls: [raed]}}}}\n",
        "f.yaml:1:58: integrations.ebpf.collectors.syscalls.syscalls: raed is not a system call; did you mean read?",
    ),
    (
        "integrations: {ebpf: {collect_syscalls: true, collectors: {syscalls: {enabled: false}}}}\n",
        "integrations.ebpf.collect_syscalls: it contradicts collectors.syscalls.enabled",
    ),
    (
        "exporters: {events: {otlp: mian}, otlp: {main: {}}}\n",
        "f.yaml:1:28: exporters.events.otlp: there is no OTLP endpoint named \"mian\"; did you mean main?",
    ),
    (
        "exporters: {prometheus: {tls: {cert: a.pem}}}\n",
        "f.yaml:1:38: exporters.prometheus.tls.cert: a certificate needs its key; set exporters.prometheus.tls.key",
    ),
    ("exporters: {prometheus: {auth: {basic: {username: u}}}}\n", "a user needs a password"),
    (
        "health: {listen: '127.0.0.1:9464'}\n",
        "f.yaml:1:18: health.listen: exporters.prometheus.listen listens on 127.0.0.1:9464 too; give one of them another port",
    ),
    ("- a\n- b\n", "f.yaml:1:1: the configuration must be a map of agent, host and others, not a list"),
    ("log: {level: info}\nlog: {level: warn}\n", "f.yaml:2:1: log is given twice, first on line 1; keep one of them"),
];

#[test]
fn messages_name_place_key_and_fix() {
    for (source, expected) in MISTAKES {
        let errors = text(source).expect_err(source);
        assert_eq!(errors.len(), 1, "{source}: {errors:#?}");
        let same = errors[0] == *expected || (!expected.starts_with("f.yaml") && errors[0].contains(expected));
        assert!(same, "{source}\n  found    {}\n  expected {expected}", errors[0]);
    }
}

#[test]
fn a_missing_file_is_an_error_when_it_was_named() {
    let directory = Directory::new();
    let errors = from(&[&directory.0.join("nowhere.yaml")], &[], &[]).expect_err("missing");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("nowhere.yaml: the configuration cannot be read: No such file"), "{errors:?}");
}

#[test]
fn variables_and_arguments_are_named() {
    let env = [("TELESONDE_EXPORTERS__OTLP__MAIN__INTERVAL", "0s"), ("TELESONDE_LIMITS__SERIES_TOTAL", "many")];
    let errors = from(&[], &env, &["log.level=loud", "nothing", "log.colour=red"]).expect_err("wrong");
    assert_eq!(
        errors,
        [
            "environment variable TELESONDE_EXPORTERS__OTLP__MAIN__INTERVAL: exporters.otlp.main.interval must be a duration of at least 1s, such as 15s, not \"0s\"",
            "environment variable TELESONDE_LIMITS__SERIES_TOTAL: limits.series_total must be a whole number between 1 and 100000000, not \"many\"",
            "--set nothing: expected key=value, such as log.level=debug",
            "--set: log.level must be off, error, warn, info, debug or trace, not \"loud\"",
            "--set: log.colour is not a known key; the keys here are level, format",
        ]
    );
}

#[test]
fn no_message_repeats_a_secret() {
    for source in [
        "exporters: {prometheus: {auth: {basic: {password: [hunter2]}}}}\n",
        "exporters: {prometheus: {auth: {bearer: {token: {a: hunter2}}}}}\n",
        "exporters: {otlp: {main: {headers: {a: [hunter2]}}}}\n",
        "exporters: {otlp: {main: {endpoint: 'http://me:hunter2@host'}}}\n",
        "exporters: {otlp: {main: {tls: {key: '-----BEGIN PRIVATE KEY-----hunter2'}}}}\n",
    ] {
        let errors = text(source).expect_err(source);
        assert!(errors.len() == 1 && !errors[0].contains("hunter2"), "{errors:?}");
    }
    let errors =
        from(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"), ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2")], &[])
            .expect_err("no pair");
    assert!(errors.len() == 1 && !errors[0].contains("hunter2"), "{errors:?}");
}

/// Takes the reference with every optional key set and gives each key in turn a value of the wrong type.
#[test]
fn every_key_of_the_wrong_type_gives_one_error_with_key_and_line() {
    let reference = config::reference(&sections());
    let uncommented: Vec<String> = reference
        .lines()
        .filter(|line| !line.trim_end().ends_with("otlp: {}"))
        .map(|line| {
            let body = line.trim_start();
            let indent = &line[..line.len() - body.len()];
            match body.strip_prefix('#') {
                Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => format!("{indent}{rest}"),
                _ => line.to_owned(),
            }
        })
        .collect();
    let whole = uncommented.join("\n");
    text(&whole).unwrap_or_else(|errors| panic!("{errors:#?}\n{whole}"));
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut tried = 0;
    for (at, line) in uncommented.iter().enumerate() {
        let body = line.trim_start();
        let Some((name, _)) = body.split_once(':').filter(|_| !body.starts_with('#') && !body.is_empty()) else {
            continue;
        };
        path.retain(|(indent, _)| *indent < depth(line));
        path.push((depth(line), name.to_owned()));
        let dotted: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
        let dotted = dotted.join(".");
        // A list in a list is no scalar, no map and no list of texts.
        let mut broken: Vec<String> = uncommented[..at].to_vec();
        broken.push(format!("{}{name}: [[]]", " ".repeat(depth(line))));
        let inside = |other: &&String| other.trim().is_empty() || depth(other) > depth(line);
        broken.extend(uncommented[at + 1..].iter().skip_while(inside).cloned());
        let errors = text(&broken.join("\n")).expect_err(&dotted);
        assert_eq!(errors.len(), 1, "{dotted}: {errors:#?}");
        let place = format!("f.yaml:{}:", at + 1);
        assert!(
            errors[0].starts_with(&place) && errors[0].contains(&format!(" {dotted}")),
            "{dotted} {place}: {}",
            errors[0]
        );
        tried += 1;
    }
    assert!(tried > 100, "{tried}");
}

/// Damages the reference in many reproducible ways: whatever comes of it, it is a configuration or a list of errors.
#[test]
fn damaged_files_never_panic() {
    let reference = config::reference(&sections());
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let splinters = [
        "\t", ":", "{", "}", "[", "]", "&a", "*a", "!!int ", "\"", "'", "|\n", "%", "- ", "? ", "#", "\u{0}", "é", "\n",
    ];
    for _ in 0..100 {
        let mut text: Vec<char> = reference.chars().collect();
        for _ in 0..=next(4) {
            let at = next(text.len());
            text.splice(at..(at + next(20)).min(text.len()), splinters[next(splinters.len())].chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = crate::support::text(&text) {
            assert!(!errors.is_empty() && errors.iter().all(|error| !error.contains('\n')), "{errors:?}");
        }
    }
}
