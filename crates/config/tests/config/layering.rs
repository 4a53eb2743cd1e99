//! Which layer wins, and what each value says of its origin.

use config::{Enabled, Sources};
use serde_json::json;

use crate::support::{Directory, from, pairs, sections, text, warnings};

#[test]
fn each_layer_overrides_the_one_before() {
    let directory = Directory::new();
    let main =
        directory.file("telesonde.yaml", "log: {level: warn, format: json}\nseries_ttl: 1m\nshutdown_timeout: 7s\n");
    directory.file("conf.d/20-b.yaml", "series_ttl: 3m\n");
    directory.file("conf.d/10-a.yaml", "series_ttl: 2m\nlog: {format: text}\n");
    directory.file("conf.d/notes.txt", "not yaml: [");
    directory.file("conf.d/.hidden.yaml", "not yaml: [");
    let env = [("TELESONDE_LOG__LEVEL", "error"), ("OTEL_LOG_LEVEL", "debug"), ("TELESONDE_SERIES_TTL", "4m")];
    let loaded = from(&[&main], &env, &["series_ttl=5m 1s"]).expect("loads");
    let config = &loaded.config;
    assert_eq!(config.series_ttl.as_secs(), 301);
    assert_eq!(config.shutdown_timeout.as_secs(), 7);
    let origin = |key: &str| loaded.origin(key).expect(key).origin();
    assert_eq!(origin("series_ttl"), "--set");
    assert_eq!(origin("log.level"), "environment TELESONDE_LOG__LEVEL");
    assert_eq!(origin("log.format"), format!("{}:2", directory.0.join("conf.d/10-a.yaml").display()));
    assert_eq!(origin("shutdown_timeout"), format!("{}:3", main.display()));
    assert_eq!(origin("health.listen"), "default");
    assert_eq!(loaded.files.len(), 3);
    let printed = loaded.print();
    assert!(printed.contains("series_ttl: 5m 1s  # --set\n"), "{printed}");
    assert!(printed.contains("  level: error  # environment TELESONDE_LOG__LEVEL\n"), "{printed}");
}

#[test]
fn the_default_file_may_be_missing_and_an_empty_one_is_valid() {
    let directory = Directory::new();
    let mut sources = Sources { default_file: Some(directory.0.join("telesonde.yaml")), ..Sources::default() };
    let loaded = config::load(&sources, &sections()).expect("no file is fine");
    assert!(loaded.files.is_empty() && loaded.warnings.is_empty());
    sources.default_file = Some(directory.file("telesonde.yaml", "# nothing\n"));
    assert_eq!(config::load(&sources, &sections()).expect("loads").files.len(), 1);
    sources.files = vec![directory.file("empty.yaml", "")];
    assert_eq!(config::load(&sources, &sections()).expect("loads").files, sources.files);
}

#[test]
fn maps_merge_and_lists_replace() {
    let directory = Directory::new();
    let one = directory.file(
        "1.yaml",
        "exporters: {otlp: {a: {timeout: 3s, headers: {x: '1'}}}}\nenrich: {attributes: {drop: [p, q]}}\n",
    );
    let two = directory.file("2.yaml", "exporters: {otlp: {a: {headers: {y: '2'}}, b: {protocol: http/protobuf}}}\nenrich: {attributes: {drop: [r]}}\n");
    let config = from(&[&one, &two], &[], &[]).expect("loads").config;
    let a = &config.exporters.otlp["a"];
    assert_eq!((a.timeout.as_secs(), a.headers.len()), (3, 2));
    assert_eq!(a.headers["x"].expose(), "1");
    assert_eq!(config.exporters.otlp["b"].endpoint, "http://127.0.0.1:4318");
    assert_eq!(config.enrich.attributes.drop, ["r"]);
    assert_eq!(config.interval_of(a).as_secs(), 15);
}

#[test]
fn a_key_without_a_value_is_not_set() {
    let config = text("exporters:\n  prometheus:\n    tls:\n    listen:\nagent:\n").expect("loads").config;
    assert_eq!(config.exporters.prometheus.listen.to_string(), "127.0.0.1:9464");
}

#[test]
fn short_and_long_forms_of_collectors_follow_their_layers() {
    let loaded = text("integrations: {ebpf: {collect_syscalls: false}}\n").expect("loads");
    assert_eq!(loaded.collectors[0].enabled, Enabled::False);
    assert_eq!(
        loaded.collectors[0].section,
        json!({"syscalls": [], "latency": {"sample": 16}, "latency_by_syscall": []})
    );

    let directory = Directory::new();
    let long =
        directory.file("1.yaml", "integrations: {ebpf: {collectors: {syscalls: {enabled: require, latency: off}}}}\n");
    let short = directory.file("2.yaml", "integrations: {ebpf: {collect_syscalls: false}}\n");
    let loaded = from(&[&long], &[], &[]).expect("loads");
    assert_eq!(
        (loaded.collectors[0].enabled, &loaded.collectors[0].section["latency"]),
        (Enabled::Require, &json!("off"))
    );
    assert_eq!(from(&[&long, &short], &[], &[]).expect("loads").collectors[0].enabled, Enabled::False);
    assert_eq!(from(&[&short, &long], &[], &[]).expect("loads").collectors[0].enabled, Enabled::Require);
    let env = [("TELESONDE_INTEGRATIONS__EBPF__COLLECTORS__SYSCALLS__LATENCY__SAMPLE", "4")];
    assert_eq!(from(&[], &env, &[]).expect("loads").collectors[0].section["latency"], json!({"sample": 4}));
    let off = from(&[&long], &[], &["integrations.ebpf.enabled=false"]).expect("loads");
    assert_eq!(off.collectors[0].enabled, Enabled::False);
}

#[test]
fn collectors_of_later_versions_give_one_warning_each_when_switched_on() {
    let loaded = text("integrations: {ebpf: {collect_dns: true, collect_http: false, max_stack_depth: 10, collectors: {memory: {enabled: true}}}}\n")
        .expect("loads");
    let keys: Vec<&str> = loaded.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "integrations.ebpf.collectors.memory.enabled",
            "integrations.ebpf.collectors.dns.enabled",
            "integrations.ebpf.max_stack_depth"
        ]
    );
    let errors = text("integrations: {ebpf: {collectors: {dns: {enabled: require}}}}\n").expect_err("not there");
    assert!(
        errors.len() == 1 && errors[0].contains("the collector dns is required but is not in this version yet"),
        "{errors:?}"
    );
}

#[test]
fn common_variables_are_taken_and_strange_values_passed_over() {
    let env = [
        ("NODE_NAME", "12345"),
        ("POD_NAME", "telesonde-x"),
        ("POD_NAMESPACE", "monitoring"),
        ("DEPLOYMENT_MODE", "production"),
    ];
    let loaded = from(&[], &env, &[]).expect("loads");
    let agent = &loaded.config.agent;
    assert_eq!(
        (agent.node_name.as_str(), agent.pod_name.as_str(), agent.pod_namespace.as_str()),
        ("12345", "telesonde-x", "monitoring")
    );
    assert_eq!(
        warnings(&loaded),
        ["DEPLOYMENT_MODE: agent.deployment_mode must be auto, kubernetes or vm, not \"production\"; it is ignored"]
    );
    let loaded = from(&[], &[("NODE_NAME", "a"), ("TELESONDE_AGENT__NODE_NAME", "b")], &[]).expect("loads");
    assert_eq!(loaded.config.agent.node_name, "b");
}

#[test]
fn lists_and_maps_of_the_environment() {
    let env = [
        ("TELESONDE_ENRICH__ATTRIBUTES__DROP", "app, team"),
        ("TELESONDE_EXPORTERS__OTLP__MAIN__HEADERS", "X-Tenant=7,authorization=Bearer abc"),
        ("TELESONDE_EXPORTERS__PROMETHEUS__LIMITS__HEADER_SIZE", "64KiB"),
        ("TELESONDE_ENRICH__KUBERNETES__ENABLED", "false"),
        ("TELESONDE_SERVICE_HOST", "10.0.0.1"),
        ("TELESONDE_PORT", "tcp://10.0.0.1:9464"),
    ];
    let loaded = from(&[], &env, &[]).expect("loads");
    assert_eq!(loaded.config.enrich.attributes.drop, ["app", "team"]);
    assert_eq!(loaded.config.enrich.kubernetes.enabled, config::Switch::False);
    assert_eq!(loaded.config.exporters.otlp["main"].headers["X-Tenant"].expose(), "7");
    assert_eq!(loaded.config.exporters.prometheus.limits.header_size, 64 << 10);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(pairs(&env).len(), 6);
}

#[test]
fn differences_are_named_by_key_and_some_can_be_taken_back() {
    let directory = Directory::new();
    let load = |text: &str| from(&[&directory.file("telesonde.yaml", text)], &[], &[]).expect("loads");
    let before =
        load("log: {level: warn}\nexporters: {otlp: {main: {interval: 5s}, old: {}}}\nagent: {resource: {a: b}}\n");
    let same =
        load("agent:\n  resource: {a: b}\nlog:\n  level: warn\nexporters: {otlp: {old: {}, main: {interval: 5s}}}\n");
    assert_eq!(before.differences(&same), Vec::<String>::new(), "where a value stands is no difference");
    let after = load(
        "log: {level: error}\nexporters: {otlp: {main: {interval: 6s}, new: {}}}\n\
         integrations: {ebpf: {collect_syscalls: false, process_filter: [nginx]}}\nagent: {resource: {c.d: e}}\n",
    );
    let keys = [
        "agent.resource.a",
        "agent.resource.\"c.d\"",
        "exporters.otlp.main.interval",
        "exporters.otlp.new",
        "exporters.otlp.old",
        "integrations.ebpf.collectors.syscalls.enabled",
        "integrations.ebpf.process_filter",
        "log.level",
    ];
    assert_eq!(before.differences(&after), keys);
    let kept = after.keeping(&before, &["agent", "log.level", "exporters.otlp.old"]).expect("fits");
    assert_eq!(kept.config.agent.resource, before.config.agent.resource);
    assert_eq!(kept.config.log.level, before.config.log.level);
    assert_eq!(kept.config.exporters.otlp.keys().collect::<Vec<_>>(), ["main", "new", "old"]);
    assert_eq!(kept.config.integrations.ebpf.process_filter, ["nginx"]);
}

#[test]
fn a_configuration_that_is_wrong_still_says_what_is_right() {
    let directory = Directory::new();
    let file = directory.file("telesonde.yaml", "admin: {socket: /run/x.sock}\nlog: {level: loud}\nnonsense: 1\n");
    let sources = Sources { files: vec![file], ..Sources::default() };
    assert!(config::load(&sources, &sections()).is_err());
    assert_eq!(config::glance(&sources, &sections(), "admin.socket").as_deref(), Some("/run/x.sock"));
    assert_eq!(
        config::glance(&Sources::default(), &sections(), "admin.socket").as_deref(),
        Some("/run/telesonde/admin.sock")
    );
    assert_eq!(config::glance(&sources, &sections(), "admin.nothing"), None);
}
