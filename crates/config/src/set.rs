//! `--set key.path=value` of the command line.

use serde_json::Value;

use crate::environment::resolve;
use crate::error::Problem;
use crate::node::{Data, Node};
use crate::place::{Key, Place};

/// Collects all of them; of two for one key the later wins. Unknown keys are left to the checker, which names the nearest.
pub(crate) fn collect(set: &[String], schema: &Value, problems: &mut Vec<Problem>) -> Node {
    let mut root = Node::empty(Place::Set);
    for given in set {
        let Some((key, value)) = given.split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
            let given = given.split('=').next().unwrap_or_default().to_owned();
            problems.push(Problem::BadSet { given });
            continue;
        };
        let segments: Vec<&str> = key.trim().split('.').collect();
        let path = resolve(&segments, schema, ".").unwrap_or_else(|| Key::of(key.trim()).0);
        root.put(&path, Node::new(Place::Set, Data::Raw(value.to_owned())));
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::schema;

    #[test]
    fn keys_of_user_maps_keep_their_dots() {
        let set = ["agent.resource.deployment.environment.name=prod", "log.level=warn", "log.level=debug", "oops"];
        let mut problems = Vec::new();
        let node = collect(&set.map(str::to_owned), &schema(&[]), &mut problems);
        assert_eq!(
            node.json(),
            serde_json::json!({"agent": {"resource": {"deployment.environment.name": "prod"}}, "log": {"level": "debug"}})
        );
        assert_eq!(problems[0].to_string(), "--set oops: expected key=value, such as log.level=debug");
    }
}
