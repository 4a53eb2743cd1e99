//! How programs come to their hooks: tracepoints, cgroups, and iterators, which run when they are read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{CgroupSkbAttachType, Iter, Program, ProgramError, ProgramFd};

use crate::error::{Error, chain, hint, os_error, refusal_hint};
use crate::gate::{Gates, NEXT};
use crate::object::Object;
use crate::pins::Place;
use crate::types::Types;

/// A link attaches beside others whatever the mode says; the kernel refuses the flag of the other modes.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;
/// How much of the verifier's log an error shows.
const LOG_LINES: usize = 6;

impl Object {
    /// Attaches a program to the tracepoint that it is named after, up to a `__`.
    ///
    /// # Errors
    /// Fails when there is no such program or tracepoint, and when the kernel refuses it.
    pub fn attach(&mut self, program: &str, types: &Types) -> Result<(), Error> {
        let fd = self.load(program, Place::Tracepoint(hook(program)), types)?;
        if self.install(program, &fd, Place::Tracepoint(hook(program)), types)? {
            return Ok(());
        }
        let Program::BtfTracePoint(tracepoint) = self.program(program)? else { return Err(self.no_such(program)) };
        tracepoint.attach().map_err(|error| failed(program, hook(program), &error))?;
        self.tally.add_program(program, fd);
        Ok(())
    }

    /// Lets a program share the tracepoint that it is named after, up to a `__`, with programs of other objects: it ends
    /// with `HAND_OVER` of `bpf/lib/gate.bpf.h`.
    ///
    /// # Errors
    /// Fails when there is no such program or tracepoint, and when the kernel refuses it.
    pub fn attach_behind(&mut self, gates: &Gates, program: &str, types: &Types) -> Result<(), Error> {
        self.enter(gates, program, Place::Tracepoint(hook(program)), types)
    }

    /// Lets a program of `cgroup_skb` share its way of the packets, in or out, with programs of other objects: it ends with
    /// `HAND_OVER` of `bpf/lib/gate.bpf.h`.
    ///
    /// # Errors
    /// Fails when there is no such program and when the kernel refuses it.
    pub fn attach_cgroup_behind(
        &mut self,
        gates: &Gates,
        program: &str,
        cgroup: &File,
        types: &Types,
    ) -> Result<(), Error> {
        let place = Place::Cgroup(self.cgroup_hook(program)?, cgroup);
        self.enter(gates, program, place, types)
    }

    /// Attaches a program of a cgroup hook (`cgroup_skb/…`, `cgroup/sock_create`) to a directory of the version 2
    /// hierarchy and all below it. Programs of others on the same hook keep running.
    ///
    /// # Errors
    /// Fails when there is no such program and when the kernel refuses it.
    pub fn attach_cgroup(&mut self, program: &str, cgroup: &File, types: &Types) -> Result<(), Error> {
        let hook = self.cgroup_hook(program)?;
        let fd = self.load(program, Place::Cgroup(hook, cgroup), types)?;
        if self.install(program, &fd, Place::Cgroup(hook, cgroup), types)? {
            return Ok(());
        }
        match self.program(program)? {
            Program::CgroupSkb(skb) => {
                let way = skb.expected_attach_type().unwrap_or(CgroupSkbAttachType::Egress);
                skb.attach(cgroup, way, MODE).map_err(|error| failed(program, hook, &error))?;
            }
            Program::CgroupSock(sock) => {
                sock.attach(cgroup, MODE).map_err(|error| failed(program, hook, &error))?;
            }
            _ => return Err(self.no_such(program)),
        }
        self.tally.add_program(program, fd);
        Ok(())
    }

    /// Loads and attaches the dispatcher's program for a hook; gives the program and its link.
    pub(crate) fn fasten(&mut self, place: Place<'_>, types: &Types) -> Result<(OwnedFd, FdLink), Error> {
        let program = match place {
            Place::Tracepoint(_) => "tracepoint",
            Place::Cgroup(program, _) => program,
        };
        let fd = self.load(program, place, types)?;
        let link = match (self.program(program)?, place) {
            (Program::BtfTracePoint(tracepoint), _) => {
                tracepoint.attach().and_then(|link| tracepoint.take_link(link)).map(FdLink::from).map_err(boxed)
            }
            (Program::CgroupSkb(skb), Place::Cgroup(_, cgroup)) => {
                let way = skb.expected_attach_type().unwrap_or(CgroupSkbAttachType::Egress);
                let link = skb.attach(cgroup, way, MODE).and_then(|link| skb.take_link(link));
                link.map_err(boxed).and_then(|link| FdLink::try_from(link).map_err(boxed))
            }
            (Program::CgroupSock(sock), Place::Cgroup(_, cgroup)) => {
                let link = sock.attach(cgroup, MODE).and_then(|link| sock.take_link(link));
                link.map_err(boxed).and_then(|link| FdLink::try_from(link).map_err(boxed))
            }
            _ => return Err(self.no_such(program)),
        };
        Ok((fd, link.map_err(|error| failed(program, program, &*error))?))
    }

    /// Loads a program for its hook.
    fn load(&mut self, program: &str, place: Place<'_>, types: &Types) -> Result<OwnedFd, Error> {
        match (self.program(program)?, place) {
            (Program::BtfTracePoint(tracepoint), Place::Tracepoint(hook)) => {
                tracepoint.load(hook, types.btf()).map_err(|error| refusal(program, hook, &error))?;
                duplicate(tracepoint.fd(), program, hook)
            }
            (Program::CgroupSkb(skb), Place::Cgroup(hook, _)) => {
                skb.load().map_err(|error| refusal(program, "cgroup_skb", &error))?;
                duplicate(skb.fd(), program, hook)
            }
            (Program::CgroupSock(sock), Place::Cgroup(hook, _)) => {
                sock.load().map_err(|error| refusal(program, "cgroup/sock", &error))?;
                duplicate(sock.fd(), program, hook)
            }
            _ => Err(self.no_such(program)),
        }
    }

    /// Puts a loaded program behind what is pinned on its hook; says whether anything is to be pinned.
    fn install(&mut self, program: &str, fd: &OwnedFd, place: Place<'_>, types: &Types) -> Result<bool, Error> {
        let Some(pinned) = &self.pinned else { return Ok(false) };
        let dispatcher = pinned.install(program, fd, place, types)?;
        let fd = fd.try_clone().map_err(|error| failed(program, hook(program), &error))?;
        self.tally.add_guest(program, fd, dispatcher);
        Ok(true)
    }

    /// Loads a program and puts it behind the gate of its hook; where it is pinned, behind a dispatcher of its own.
    fn enter(&mut self, gates: &Gates, program: &str, place: Place<'_>, types: &Types) -> Result<(), Error> {
        let fd = self.load(program, place, types)?;
        if self.install(program, &fd, place, types)? {
            return Ok(());
        }
        let (hook, cgroup) = match place {
            Place::Tracepoint(hook) => (hook, None),
            Place::Cgroup(hook, cgroup) => (hook, Some(cgroup)),
        };
        let (passage, gate) = gates.enter(hook, &fd, self.raw(&format!("{NEXT}{hook}"))?, cgroup, types)?;
        self.passages.push(passage);
        self.tally.add_guest(program, fd, gate);
        Ok(())
    }

    /// Gives the name of a cgroup's hook.
    fn cgroup_hook(&mut self, program: &str) -> Result<&'static str, Error> {
        match self.program(program)? {
            Program::CgroupSkb(skb) => Ok(match skb.expected_attach_type() {
                Some(CgroupSkbAttachType::Ingress) => "ingress",
                Some(CgroupSkbAttachType::Egress) | None => "egress",
            }),
            // aya does not tell which of these it is for; their names do.
            Program::CgroupSock(_) if program.ends_with("bind4") => Ok("post_bind4"),
            Program::CgroupSock(_) if program.ends_with("bind6") => Ok("post_bind6"),
            Program::CgroupSock(_) => Ok("sock_create"),
            _ => Err(self.no_such(program)),
        }
    }

    /// Loads an iterator over a kind of kernel object, such as `task`; [`walk`](Self::walk) runs it.
    ///
    /// # Errors
    /// Fails when there is no such program, and when the kernel refuses it.
    pub fn load_iterator(&mut self, program: &str, over: &str, types: &Types) -> Result<(), Error> {
        let Program::Iter(iter) = self.program(program)? else { return Err(self.no_such(program)) };
        let iter: &mut Iter = iter;
        iter.load(over, types.btf()).map_err(|error| refusal(program, over, &error))?;
        let fd = duplicate(iter.fd(), program, over)?;
        self.tally.add_program(program, fd);
        Ok(())
    }

    /// Runs a loaded iterator once over all its objects; appends what the program writes to `output`.
    ///
    /// # Errors
    /// Fails when the kernel refuses to run it.
    pub fn walk(&mut self, program: &str, output: &mut Vec<u8>) -> Result<(), Error> {
        let Program::Iter(iter) = self.program(program)? else { return Err(self.no_such(program)) };
        let link =
            iter.attach().and_then(|link| iter.take_link(link)).map_err(|error| failed(program, "iter", &error))?;
        let mut file = link.into_file().map_err(|error| failed(program, "iter", &error))?;
        loop {
            match file.read_to_end(output) {
                Ok(_) => return Ok(()),
                // The kernel pauses after a million objects that wrote nothing.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(failed(program, "iter", &error)),
            }
        }
    }

    /// Gives a descriptor of a loaded program.
    pub(crate) fn program_of(&mut self, program: &str) -> Result<OwnedFd, Error> {
        let fd = match self.program(program)? {
            Program::BtfTracePoint(tracepoint) => tracepoint.fd(),
            Program::CgroupSkb(skb) => skb.fd(),
            _ => return Err(self.no_such(program)),
        };
        duplicate(fd, program, program)
    }

    fn program(&mut self, program: &str) -> Result<&mut Program, Error> {
        let object = self.name;
        let unknown = || Error::UnknownProgram { object: object.to_owned(), program: program.to_owned() };
        self.ebpf.program_mut(program).ok_or_else(unknown)
    }

    fn no_such(&self, program: &str) -> Error {
        Error::UnknownProgram { object: self.name.to_owned(), program: program.to_owned() }
    }
}

/// Gives the tracepoint that a program is named after.
fn hook(program: &str) -> &str {
    program.split("__").next().unwrap_or(program)
}

fn boxed<E: std::error::Error + 'static>(error: E) -> Box<dyn std::error::Error> {
    Box::new(error)
}

fn duplicate(fd: Result<&ProgramFd, ProgramError>, program: &str, hook: &str) -> Result<OwnedFd, Error> {
    let fd = fd.map_err(|error| failed(program, hook, &error))?;
    fd.as_fd().try_clone_to_owned().map_err(|error| failed(program, hook, &error))
}

fn failed(program: &str, hook: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::Attach {
        program: program.to_owned(),
        hook: hook.to_owned(),
        reason: chain(error),
        hint: hint(os_error(error)),
    }
}

fn refusal(program: &str, hook: &str, error: &ProgramError) -> Error {
    let (reason, log) = match error {
        ProgramError::LoadError { io_error, verifier_log } => (io_error.to_string(), verifier_log.to_string()),
        other => (chain(other), String::new()),
    };
    let lines: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // The very last lines are the verifier's statistics.
    let end = lines.iter().rposition(|line| !line.starts_with("processed ")).map_or(0, |last| last + 1);
    let tail = &lines[end.saturating_sub(LOG_LINES)..end];
    let hint = refusal_hint(os_error(error), &log);
    let log = if tail.is_empty() { String::new() } else { format!("; the verifier says: {}", tail.join(" | ")) };
    Error::Verify { program: program.to_owned(), hook: hook.to_owned(), reason, hint, log }
}
