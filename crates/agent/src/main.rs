//! The `telesonde` binary: all of it is in the library, so that other programs can add collectors.

fn main() -> std::process::ExitCode {
    telesonde::main(&[])
}
