use super::*;
use crate::place::shared;

fn read(text: &str) -> Node {
    parse(text, &shared(Path::new("f.yaml"))).expect("valid")
}

fn errors(text: &str) -> Vec<String> {
    parse(text, &shared(Path::new("f.yaml"))).expect_err("invalid").iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_a_null() {
    for text in ["", "\n# only a comment\n", "---\n", "\u{feff}"] {
        assert_eq!(read(text).data, Data::Null, "{text:?}");
    }
}

#[test]
fn scalars_follow_the_core_schema() {
    let node = read(
        "a: 12\nb: 1.5\nc: yes\nd: '12'\ne: ~\nf: 0x10\ng: true\nh: 15s\ni: 1.2.3\nj: -3\nk: !!str 7\nl: 0o17\nm: +-1\nn: .\n",
    );
    let json = node.json();
    let expected = serde_json::json!({"a": 12, "b": 1.5, "c": "yes", "d": "12", "e": null, "f": 16, "g": true,
        "h": "15s", "i": "1.2.3", "j": -3, "k": "7", "l": 15, "m": "+-1", "n": "."});
    assert_eq!(json, expected);
}

#[test]
fn every_value_knows_its_line_and_column() {
    let node = read("agent:\n  node_name: x\n  list: [1,\n    2]\n");
    assert_eq!(node.find("agent.node_name").expect("present").place.to_string(), "f.yaml:2:14");
    let Data::List(items) = &node.find("agent.list").expect("present").data else { panic!("a list") };
    assert_eq!(items[1].place.to_string(), "f.yaml:4:5");
    assert_eq!(node.entries()[0].place.to_string(), "f.yaml:1:1");
}

#[test]
fn a_duplicate_key_is_an_error_that_names_both_lines() {
    assert_eq!(
        errors("agent:\n  a: 1\n  b: 2\n  a: 3\nagent: {}\n"),
        [
            "f.yaml:4:3: agent.a is given twice, first on line 2; keep one of them",
            "f.yaml:5:1: agent is given twice, first on line 1; keep one of them"
        ]
    );
}

#[test]
fn aliases_repeat_what_their_anchor_holds() {
    let node = read("a: &x {k: 1}\nb: *x\n");
    assert_eq!(node.find("b.k").expect("present").data, Data::Integer(1));
}

#[test]
fn nested_aliases_cannot_exhaust_the_memory() {
    let mut lines = vec!["a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned()];
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(",");
        lines.push(format!("a{i}: &a{i} [{list}]\n"));
    }
    assert!(errors(&lines.concat())[0].contains("unfolds to more than"));
}

#[test]
fn what_is_not_a_configuration_is_one_error() {
    for (text, part) in [
        ("a: [1, 2\n", "f.yaml:"),
        ("a: 1\n---\nb: 2\n", "a second document"),
        ("a: !thing 1\n", "has no meaning here"),
        ("a: !!int x\n", "not a !!int"),
        ("? [a]\n: 1\n", "a key must be plain text"),
        ("a: *nowhere\n", "f.yaml:1"),
        ("agent:\n\tnode_name: x\n", "f.yaml:2"),
    ] {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{text:?}: {errors:?}");
        assert!(errors[0].contains(part), "{text:?}: {errors:?}");
    }
    let deep = "[".repeat(5_000);
    assert!(parse(&deep, &shared(Path::new("f.yaml"))).is_err());
}
