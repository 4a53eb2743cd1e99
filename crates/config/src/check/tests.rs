use std::path::Path;

use serde_json::json;

use super::*;
use crate::place::{Place, shared};
use crate::yaml;

fn messages(text: &str, schema: &Value) -> Vec<String> {
    let node = yaml::parse(text, &shared(Path::new("f.yaml"))).expect("yaml");
    let mut problems = Vec::new();
    check(&node, schema, &Key::default(), &mut problems);
    problems.iter().map(ToString::to_string).collect()
}

fn raw(text: &str, schema: &Value) -> Result<Value, String> {
    let node = Node::new(Place::variable("X"), Data::Raw(text.to_owned()));
    let mut problems = Vec::new();
    let typed = check(&node, schema, &Key::of("k"), &mut problems);
    match problems.first() {
        Some(problem) => Err(problem.to_string()),
        None => Ok(typed.map_or(Value::Null, |node| node.json())),
    }
}

#[test]
fn text_of_a_variable_gets_the_type_of_its_key() {
    assert_eq!(raw("12", &json!({"type": "string"})), Ok(json!("12")));
    assert_eq!(raw("12", &json!({"type": "integer", "minimum": 0})), Ok(json!(12)));
    assert_eq!(raw("true", &json!({"type": "boolean"})), Ok(json!(true)));
    assert_eq!(raw("a, b", &json!({"type": "array", "items": {"type": "string"}})), Ok(json!(["a", "b"])));
    assert_eq!(raw("[1, b]", &json!({"type": "array", "items": {"type": "string"}})), Ok(json!(["1", "b"])));
    assert_eq!(raw("", &json!({"type": "array", "items": {"type": "string"}})), Ok(json!([])));
    assert_eq!(
        raw("a=b,c=d=e", &json!({"type": "object", "additionalProperties": {"type": "string"}})),
        Ok(json!({"a": "b", "c": "d=e"}))
    );
    assert_eq!(raw("require", &json!({"enum": [true, false, "require"]})), Ok(json!("require")));
    assert_eq!(raw("false", &json!({"enum": [true, false, "require"]})), Ok(json!(false)));
    assert_eq!(raw("", &json!({"type": "integer"})), Ok(Value::Null));
    let error = raw("yes", &json!({"type": "boolean"})).expect_err("not a boolean of YAML 1.2");
    assert_eq!(error, "environment variable X: k must be true or false, not \"yes\"; write true");
}

#[test]
fn alternatives_are_named_and_maps_are_judged_inside() {
    let latency = json!({"oneOf": [
        {"type": "string", "enum": ["all", "off"]},
        {"type": "object", "properties": {"sample": {"type": "integer", "minimum": 1}}, "required": ["sample"], "additionalProperties": false}
    ]});
    let schema = json!({"type": "object", "properties": {"latency": latency}, "additionalProperties": false});
    assert_eq!(messages("latency: all\n", &schema), Vec::<String>::new());
    assert_eq!(messages("latency: {sample: 4}\n", &schema), Vec::<String>::new());
    assert_eq!(
        messages("latency: some\n", &schema),
        ["f.yaml:1:10: latency must be all, off or a map of sample, not \"some\""]
    );
    assert_eq!(
        messages("latency: {sample: 0}\n", &schema),
        ["f.yaml:1:19: latency.sample must be a whole number of at least 1, not the number 0"]
    );
    assert_eq!(
        messages("latency: {sampel: 1, sample: 2}\n", &schema),
        ["f.yaml:1:11: latency.sampel is not a known key; did you mean sample?"]
    );
    assert_eq!(raw("{sample: 3}", &schema["properties"]["latency"]), Ok(json!({"sample": 3})));
}

#[test]
fn a_secret_is_never_quoted() {
    let schema = json!({"type": "object", "additionalProperties": {"type": "string", "writeOnly": true}});
    assert_eq!(
        messages("token: 12345\n", &schema),
        ["f.yaml:1:8: token must be text, not an unquoted number or truth value; put it in quotes"]
    );
    let error = raw("hunter2", &schema).expect_err("no pair");
    assert!(!error.contains("hunter2"), "{error}");
}
