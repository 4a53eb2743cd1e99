//! The standard variables: the table is walked, and precedence is what the specification and we say.

use config::sections::otlp::{Compression, Protocol, Temporality};
use config::{Loaded, OTEL_VARIABLES, Status};

use crate::support::{Directory, from, warnings};

/// Everything that a variable could change, and what was said of it.
fn state(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let secrets: Vec<String> = config
        .exporters
        .otlp
        .values()
        .flat_map(|endpoint| endpoint.headers.values().map(|value| value.expose().to_owned()))
        .collect();
    format!("{} {secrets:?}", serde_json::to_string(config).expect("json"))
}

#[test]
fn every_honoured_variable_changes_the_configuration() {
    for variable in OTEL_VARIABLES {
        // INSECURE says something of endpoints that name no scheme.
        let mut base: Vec<(&str, &str)> = match variable.name {
            name if name.ends_with("_INSECURE") => vec![
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
                ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "logs:4317"),
            ],
            name if name.contains("_LOGS_") && !name.ends_with("ENDPOINT") => {
                vec![("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4317")]
            }
            name if name.contains("OTLP_ENDPOINT") => vec![],
            _ => vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "http://base:4317")],
        };
        // A certificate without its key is refused.
        if variable.name.contains("_CLIENT_") {
            base.extend([
                ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/base.pem"),
                ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/base.key"),
            ]);
        }
        let before = from(&[], &base, &[]).unwrap_or_else(|errors| panic!("{}: {errors:?}", variable.name));
        let mut env: Vec<_> = base.iter().copied().filter(|(name, _)| *name != variable.name).collect();
        env.push((variable.name, variable.example));
        let after = from(&[], &env, &[]).unwrap_or_else(|errors| panic!("{}: {errors:?}", variable.name));
        let said: Vec<String> = warnings(&after)
            .into_iter()
            .filter(|warning| warning.starts_with(&format!("{}:", variable.name)))
            .collect();
        match variable.status {
            Status::Honoured(_) => {
                assert_ne!(state(&before), state(&after), "{} changes nothing", variable.name);
                assert!(said.is_empty(), "{said:?}");
                let shown = after.print();
                assert!(
                    variable.name.ends_with("_INSECURE")
                        || shown.contains(&format!("# environment {}\n", variable.name)),
                    "{}\n{shown}",
                    variable.name
                );
            }
            Status::NotApplicable(why) => {
                assert_eq!(state(&before), state(&after), "{}", variable.name);
                assert!(said.iter().all(|warning| warning.contains(why)), "{said:?}");
                assert!(config::otel_table().contains(why));
            }
        }
    }
}

#[test]
fn precedence_is_ours_then_signal_then_generic() {
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://generic:4317"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://signal:4317"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=2"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "c=3"),
    ];
    let directory = Directory::new();
    let file = directory.file("f.yaml", "exporters: {otlp: {main: {compression: zstd}}}\n");
    let loaded = from(&[&file], &env, &[]).expect("loads");
    let main = &loaded.config.exporters.otlp["main"];
    assert_eq!(main.endpoint, "http://signal:4317");
    assert_eq!(main.timeout.as_secs(), 2);
    assert_eq!((main.compression, main.temporality), (Compression::Zstd, Temporality::Delta));
    assert_eq!(main.headers.keys().collect::<Vec<_>>(), ["c"]);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn headers_of_the_environment_never_override_ours_in_silence() {
    let env =
        [("OTEL_EXPORTER_OTLP_HEADERS", "authorization=theirs"), ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")];
    let loaded = from(&[], &env, &["exporters.otlp.main.headers=authorization=ours"]).expect("loads");
    assert_eq!(loaded.config.exporters.otlp["main"].headers["authorization"].expose(), "ours");
    assert_eq!(
        warnings(&loaded),
        [
            "OTEL_EXPORTER_OTLP_HEADERS: ignored, because exporters.otlp.main.headers is configured; remove one of the two"
        ]
    );
}

#[test]
fn http_paths_follow_the_specification() {
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    for (name, endpoint, url) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318", "http://c:4318/v1/metrics"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/base/", "http://c:4318/base/v1/metrics"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://c:4318", "http://c:4318/"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "http://c:9090/api/v1/otlp/v1/metrics",
            "http://c:9090/api/v1/otlp/v1/metrics",
        ),
    ] {
        let loaded = from(&[], &[http, (name, endpoint)], &[]).expect("loads");
        let main = &loaded.config.exporters.otlp["main"];
        assert_eq!((main.protocol, main.metrics_url()), (Protocol::HttpProtobuf, url.to_owned()));
    }
    let loaded = from(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318")], &[]).expect("loads");
    assert!(warnings(&loaded)[0].contains("port 4318"), "{:?}", loaded.warnings);
}

#[test]
fn logs_may_go_elsewhere() {
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "4000"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://l:4318/x"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
    ];
    let config = from(&[], &env, &[]).expect("loads").config;
    let logs = &config.exporters.otlp["logs"];
    assert_eq!(config.exporters.events.otlp, "logs");
    assert_eq!((logs.logs_url().as_str(), logs.metrics, logs.timeout.as_secs()), ("http://l:4318/x", false, 4));
    assert!(config.exporters.otlp["main"].metrics);
}

#[test]
fn exporters_are_chosen_by_name() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    for (list, prometheus, otlp) in
        [("otlp", false, true), ("prometheus", true, false), ("otlp,prometheus", true, true), ("none", false, false)]
    {
        let config = from(&[], &[endpoint, ("OTEL_METRICS_EXPORTER", list)], &[]).expect("loads").config;
        assert_eq!(
            (config.exporters.prometheus.enabled, config.exporters.otlp["main"].metrics),
            (prometheus, otlp),
            "{list}"
        );
    }
    let config = from(&[], &[("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], &[])
        .expect("loads")
        .config;
    assert_eq!(config.exporters.otlp["main"].endpoint, "http://127.0.0.1:4318");
    let loaded = from(&[], &[("OTEL_METRICS_EXPORTER", "console,jaeger")], &[]).expect("loads");
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
}

#[test]
fn strange_values_are_passed_over_and_bad_urls_are_not() {
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "10"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "http"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz"),
        ("OTEL_LOG_LEVEL", ""),
    ];
    let loaded = from(&[], &env, &[]).expect("loads");
    let mut names: Vec<&str> = loaded.warnings.iter().map(|warning| warning.key.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "OTEL_BLRP_MAX_QUEUE_SIZE",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "OTEL_EXPORTER_PROMETHEUS_PORT",
            "OTEL_METRIC_EXPORT_INTERVAL",
            "OTEL_RESOURCE_ATTRIBUTES"
        ]
    );
    let errors = from(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://c:4317")], &[]).expect_err("no URL of ours");
    assert_eq!(
        errors,
        [
            "environment variable OTEL_EXPORTER_OTLP_ENDPOINT: exporters.otlp.main.endpoint: the scheme must be http or https"
        ]
    );
    let loaded = from(&[], &[("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")], &[]).expect("loads");
    assert!(loaded.config.exporters.otlp.is_empty() && warnings(&loaded)[0].contains("no OTLP endpoint"));
}

#[test]
fn misspelt_names_are_told_and_those_of_others_are_not() {
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPIONT", "http://c:4317"),
        ("OTEL_PYTHON_LOG_LEVEL", "debug"),
        ("OTEL_JAVAAGENT_ENABLED", "true"),
    ];
    let loaded = from(&[], &env, &[]).expect("loads");
    assert_eq!(
        warnings(&loaded),
        [
            "OTEL_EXPORTER_OTLP_ENDPIONT: no variable has this name, so it is ignored; did you mean OTEL_EXPORTER_OTLP_ENDPOINT?"
        ]
    );
}
