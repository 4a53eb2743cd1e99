//! The kernel's table of which cgroups are observed: all objects share it, the kernel passes a rule on to what is made
//! below a cgroup, and here it is corrected to what the census says.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bpf::abi::filter::{CGROUP_ALLOW, CGROUP_DENY, CGROUP_SKIP};
use model::{Census, Rule};

/// The names of the maps in every object.
const RULES: &str = "cgroup_rules";
const CACHE: &str = "cgroup_cache";
/// The slots of the rules that programs have found lately.
const SLOTS: u32 = 4096;

/// The rules as the kernel has them.
pub struct CgroupRules {
    table: Mutex<Written>,
}

struct Written {
    table: bpf::Table<u64, u32>,
    cache: bpf::Cells<u64>,
    /// What was written since the last update: a program may have put an older rule into its slot meanwhile.
    recent: Vec<u64>,
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
        let (table, cache) = (bpf::Table::create(RULES, max_entries)?, bpf::Cells::create(CACHE, SLOTS)?);
        let written = Written { table, cache, recent: Vec::new(), known: 0, rules: HashMap::new(), warned: false };
        let rules = Self { table: Mutex::new(written) };
        rules.update(census);
        Ok(rules)
    }

    /// Lets an object use the table; without it the object's programs do not look for rules.
    #[must_use]
    pub fn share(&self, loader: bpf::Loader) -> bpf::Loader {
        let written = self.written();
        let loader = loader.constant("cgroup_filter", &1_u32).constant("cgroup_cache_mask", &(SLOTS - 1));
        loader.shared(RULES, &written.table).shared_cells(CACHE, &written.cache)
    }

    /// Takes over the census' list where it has changed.
    pub fn update(&self, census: &dyn Census) {
        let mut written = self.written();
        for cgroup in std::mem::take(&mut written.recent) {
            written.uncache(cgroup);
        }
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
            Ok(()) => {
                self.rules.insert(cgroup, rule);
                self.uncache(cgroup);
                self.recent.push(cgroup);
            }
            // Nothing is shown that should not be: what the kernel counts in vain enrichment leaves out.
            Err(error) if !self.warned => {
                self.warned = true;
                tracing::warn!("some cgroups are filtered only after they have been counted: {error}");
            }
            Err(_) => {}
        }
    }

    fn uncache(&mut self, cgroup: u64) {
        if let Err(error) = self.cache.set(cgroup as u32 & (SLOTS - 1), &0) {
            tracing::warn!("a cgroup may be filtered by an older rule: {error}");
        }
    }
}
