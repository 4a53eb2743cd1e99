//! Finds the systemd unit in a cgroup's path.

/// What the directory of a unit that runs processes ends with. Slices only group other units.
const SUFFIXES: &[&str] = &[".service", ".scope", ".mount", ".socket", ".swap"];

/// Gives the name of the innermost unit in a path, in systemd's own spelling (`getty@tty1.service`, `a\x2db.service`).
pub fn unit(path: &str) -> Option<&str> {
    path.rsplit('/')
        .map(plain)
        .find(|name| SUFFIXES.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty())))
}

/// Gives the user whose own service manager runs the innermost unit: different users' units may have one name.
pub fn user(path: &str) -> Option<&str> {
    let (above, _) = path.rsplit_once(unit(path)?)?;
    above.rsplit('/').find_map(|directory| directory.strip_prefix("user@")?.strip_suffix(".service"))
}

/// Gives the slice that a path ends with: what runs there is in no unit of its own.
pub fn slice(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next().map(plain)?;
    name.strip_suffix(".slice").is_some_and(|stem| !stem.is_empty()).then_some(name)
}

/// systemd puts `_` before a name that could be taken for a control file, such as `memory.service`.
fn plain(directory: &str) -> &str {
    directory.strip_prefix('_').unwrap_or(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_unit_counts() {
        let cases = [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/nginx.service/workers/3", Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            (r"/system.slice/my\x2dapp.service", Some(r"my\x2dapp.service")),
            ("/system.slice/_memory.service", Some("memory.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
                Some("vte-spawn-1.scope"),
            ),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-foo.scope", Some("app-foo.scope")),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some("init.scope")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/init.scope", Some("init.scope")),
            ("/system.slice/boot.mount", Some("boot.mount")),
            ("/system.slice/docker.socket", Some("docker.socket")),
            (r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/emulator", Some(r"machine-qemu\x2d1\x2dvm.scope")),
            (
                r"/system.slice/system-postgresql.slice/postgresql@17\x2dmain.service",
                Some(r"postgresql@17\x2dmain.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox@0f3a.service",
                Some("app-firefox@0f3a.service"),
            ),
            ("/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.service", Some("pipewire.service")),
            ("/user.slice/user-1000.slice/user@1000.service", Some("user@1000.service")),
            ("/system.slice/run-r2f1c.scope", Some("run-r2f1c.scope")),
            ("/system.slice", None),
            ("/user.slice/user-1000.slice", None),
            ("/.service", None),
            ("/batch/job-17", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            assert_eq!(unit(path), expected, "{path}");
        }
    }

    #[test]
    fn users_have_units_of_their_own() {
        let cases = [
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", Some("1000")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/worker", Some("1000")),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some("1000")),
            ("/user.slice/user-1000.slice/user@1000.service", None),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/system.slice/web.service", None),
            ("/init.scope", None),
            ("/batch", None),
        ];
        for (path, expected) in cases {
            assert_eq!(user(path), expected, "{path}");
        }
    }

    #[test]
    fn a_slice_is_named_where_the_path_ends_with_it() {
        let cases = [
            ("/system.slice", Some("system.slice")),
            ("/user.slice/user-1000.slice", Some("user-1000.slice")),
            ("/batch.slice/job-17", None),
            ("/.slice", None),
            ("/", None),
        ];
        for (path, expected) in cases {
            assert_eq!(slice(path), expected, "{path}");
        }
    }
}
