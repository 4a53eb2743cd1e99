//! The built-in collectors, one noun per file.

use runtime::Descriptor;

/// Every built-in collector, in the order in which `list` shows them.
pub static ALL: &[&Descriptor] = &[];
