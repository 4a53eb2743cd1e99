//! The kernel's table of which cgroups are observed: all objects share it, the kernel passes a rule on to what is made
//! below a cgroup, and here it is corrected to what the census says.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bpf::abi::filter::{CGROUP_ALLOW, CGROUP_DENY, CGROUP_SKIP};
use model::{Census, Rule};

/// The name of the map in every object.
const MAP: &str = "cgroup_rules";

/// The rules as the kernel has them.
pub struct CgroupRules {
    table: Mutex<Written>,
}

struct Written {
    table: bpf::Table<u64, u32>,
    /// The number of the census' list that was written last.
    known: u64,
    rules: HashMap<u64, Rule>,
    warned: bool,
}

impl CgroupRules {
    /// Makes the table and writes the rules of all cgroups that exist.
    ///
    /// # Errors
    /// Fails when the kernel refuses to make it.
    pub fn new(census: &dyn Census, max_entries: u32) -> Result<Self, bpf::Error> {
        let table = bpf::Table::create(MAP, max_entries)?;
        let written = Written { table, known: 0, rules: HashMap::new(), warned: false };
        let rules = Self { table: Mutex::new(written) };
        rules.update(census);
        Ok(rules)
    }

    /// Lets an object use the table; without it the object's programs do not look for rules.
    #[must_use]
    pub fn share(&self, loader: bpf::Loader) -> bpf::Loader {
        loader.constant("cgroup_filter", &1_u32).shared(MAP, &self.written().table)
    }

    /// Takes over the census' list where it has changed.
    pub fn update(&self, census: &dyn Census) {
        let mut written = self.written();
        let Some((known, rules)) = census.rules(written.known) else { return };
        written.known = known;
        let rules: HashMap<u64, Rule> = rules.into_iter().collect();
        for (&cgroup, &rule) in &rules {
            written.write(cgroup, rule);
        }
        let gone: Vec<u64> = written.rules.keys().copied().filter(|cgroup| !rules.contains_key(cgroup)).collect();
        for cgroup in gone {
            written.rules.remove(&cgroup);
            // The kernel has removed it already, unless its report came before ours.
            drop(written.table.remove(&cgroup));
        }
    }

    /// Writes the rule of a cgroup that has just been made.
    pub fn correct(&self, census: &dyn Census, cgroup: u64) {
        if let Some(rule) = census.rule(cgroup) {
            self.written().write(cgroup, rule);
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Written {
    fn write(&mut self, cgroup: u64, rule: Rule) {
        if self.rules.get(&cgroup) == Some(&rule) {
            return;
        }
        let value = match rule {
            Rule::Allow => CGROUP_ALLOW,
            Rule::Deny => CGROUP_DENY,
            Rule::Skip => CGROUP_SKIP,
        };
        match self.table.insert(&cgroup, &value) {
            Ok(()) => drop(self.rules.insert(cgroup, rule)),
            // Nothing is shown that should not be: what the kernel counts in vain enrichment leaves out.
            Err(error) if !self.warned => {
                self.warned = true;
                tracing::warn!("some cgroups are filtered only after they have been counted: {error}");
            }
            Err(_) => {}
        }
    }
}
