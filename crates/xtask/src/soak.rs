//! `cargo xtask soak`: the agent under a load that comes and goes for minutes (`tests/kernel/soak.rs`), with what it printed
//! in the end kept in docs/performance.md.

use anyhow::{Result, bail};

use crate::process::{self, ByHand};
use crate::{bench, setup};

/// What takes the place of the minutes that the test takes by default.
const MINUTES: &str = "TELESONDE_SOAK_MINUTES";

/// How long, and with which binary.
#[derive(clap::Args)]
pub struct Options {
    /// How long the load goes on, in minutes.
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,
    /// Use the binary that is quick to build, not the one that is released.
    #[arg(long)]
    debug: bool,
}

/// Runs the load, prints what was counted and taken, and replaces its part of docs/performance.md.
///
/// # Errors
/// Fails when the tests cannot be built or raised, when a sum is not exact, and when the agent has grown.
pub fn run(options: &Options) -> Result<()> {
    if !(0.5..=100_000.0).contains(&options.minutes) {
        bail!("--minutes {}: give half a minute at least", options.minutes);
    }
    setup::test()?;
    let mut command = process::cargo()?;
    command.env(MINUTES, options.minutes.to_string());
    command.args(["test", "--package", "telesonde", "--test", "tests"]);
    if !options.debug {
        command.arg("--release");
    }
    command.args(["kernel::soak::", "--", "--nocapture"]);
    let own = format!("cargo xtask soak --minutes {}{}", options.minutes, if options.debug { " --debug" } else { "" });
    if !process::run_raised(&mut command)? {
        return Err(ByHand::new("the soak loads programs into the kernel and needs root", format!("sudo {own}")).into());
    }
    let printed = bench::watch(command)?;
    let Some(result) = result(&printed) else { bail!("the soak did not run: see above") };
    bench::record("soak", &format!("$ {own}\n{result}"))
}

/// Gives what the test said, without what the harness said around it.
fn result(printed: &str) -> Option<&str> {
    let begin = printed.find(" minutes, ").and_then(|at| printed[..at].rfind('\n'))? + 1;
    let end = printed[begin..].find("\ntest ").map_or(printed.len(), |at| begin + at);
    Some(printed[begin..end].trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_what_the_test_itself_said() {
        let printed =
            "\nrunning 1 test\n3.0 minutes, 7 rounds\n\na 1\ntest kernel::soak::x ... ok\n\ntest result: ok.\n";
        assert_eq!(result(printed), Some("3.0 minutes, 7 rounds\n\na 1"));
        assert_eq!(result("\nrunning 1 test\nSKIPPED kernel::soak::x: no BTF\n"), None);
    }
}
