//! The `bpf` system call as far as aya does not offer it: sized map operations, batches and self-information.
//! Nearly all unsafe code of the product is here.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

const MAP_CREATE: libc::c_int = 0;
const LOOKUP_ELEM: libc::c_int = 1;
const UPDATE_ELEM: libc::c_int = 2;
const DELETE_ELEM: libc::c_int = 3;
const GET_NEXT_KEY: libc::c_int = 4;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LOOKUP_AND_DELETE_ELEM: libc::c_int = 21;
const LOOKUP_BATCH: libc::c_int = 24;

/// The kernel's map types that we use.
pub(crate) mod kind {
    pub(crate) const HASH: u32 = 1;
    pub(crate) const ARRAY: u32 = 2;
    pub(crate) const PERCPU_HASH: u32 = 5;
    pub(crate) const PERCPU_ARRAY: u32 = 6;
    pub(crate) const STACK: u32 = 23;
    pub(crate) const RINGBUF: u32 = 27;
    pub(crate) const TASK_STORAGE: u32 = 29;
}

/// The kernel's description of a map, as far as we read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct MapInfo {
    pub kind: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
    pub name: [u8; 16],
}

/// The kernel's description of a program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub(crate) struct ProgramInfo {
    pub kind: u32,
    pub id: u32,
    pub tag: [u8; 8],
    jited_length: u32,
    translated_length: u32,
    jited_instructions: u64,
    translated_instructions: u64,
    pub load_time: u64,
    created_by: u32,
    map_count: u32,
    map_ids: u64,
    pub name: [u8; 16],
    interface: u32,
    gpl_compatible: u32,
    namespace: [u64; 2],
    symbol_counts: [u32; 2],
    symbols: [u64; 2],
    types: u32,
    function_record: u32,
    functions: u64,
    function_count: u32,
    line_count: u32,
    lines: u64,
    jited_lines: u64,
    jited_line_count: u32,
    line_record: u32,
    jited_line_record: u32,
    tag_count: u32,
    tags: u64,
    pub run_time_ns: u64,
    pub run_count: u64,
    pub misses: u64,
    pub verified: u32,
    pub attach_object: u32,
    pub attach_type: u32,
    padding: u32,
}

#[repr(C)]
#[derive(IntoBytes, Immutable)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable)]
struct Info {
    fd: u32,
    length: u32,
    address: u64,
}

/// Calls the kernel.
///
/// # Safety
/// Every address in `attributes` must be null or point to memory of the size that the command reads or writes there.
#[expect(unsafe_code, reason = "a raw system call")]
unsafe fn bpf<T: IntoBytes>(command: libc::c_int, attributes: &mut T) -> io::Result<()> {
    // SAFETY: the attributes live as long as the call and their size is given; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn information<T: IntoBytes + FromZeros>(fd: &OwnedFd) -> io::Result<(T, usize)> {
    let mut found = T::new_zeroed();
    let mut info = Info {
        fd: fd.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        address: std::ptr::from_mut(&mut found) as u64,
    };
    #[expect(unsafe_code, reason = "a raw system call")]
    // SAFETY: the address is that of `found`, whose size is given; any bytes are a valid T.
    unsafe {
        bpf(OBJ_GET_INFO_BY_FD, &mut info)?;
    }
    Ok((found, info.length as usize))
}

/// Describes a program, and says how many bytes of the description this kernel knows.
pub(crate) fn program_info(fd: &OwnedFd) -> io::Result<(ProgramInfo, usize)> {
    information(fd)
}

/// Describes a map.
pub(crate) fn map_info(fd: &OwnedFd) -> io::Result<MapInfo> {
    Ok(information(fd)?.0)
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable)]
struct NewMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    node: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable)]
struct NewProgram {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

#[repr(C)]
#[derive(Default, IntoBytes, FromBytes, Immutable)]
struct TestRun {
    program: u32,
    result: u32,
    data_sizes: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    context_sizes: [u32; 2],
    context: [u64; 2],
    flags: u32,
    cpu: u32,
}

/// Takes over the descriptor that a command has given.
#[expect(unsafe_code, reason = "a raw system call")]
fn bpf_descriptor<T: IntoBytes>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the attributes live as long as the call and their size is given; the callers' addresses outlive it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes a map.
pub(crate) fn create_map(
    kind: u32,
    name: &str,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let (key_size, value_size) = (key_size as u32, value_size as u32);
    let mut map = NewMap { kind, key_size, value_size, max_entries, flags, inner_map: 0, node: 0, name: [0; 16] };
    for (to, from) in map.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    bpf_descriptor(MAP_CREATE, &mut map)
}

/// The flag of an array that user space can map.
pub(crate) const MAPPABLE: u32 = 1 << 10;

#[repr(C)]
#[derive(IntoBytes, FromBytes, Immutable)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Pins a map, a program or a link on a BPF file system: it stays until the file is removed.
pub(crate) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = Pin { path: path.as_ptr() as u64, fd: fd.as_raw_fd() as u32, flags: 0 };
    #[expect(unsafe_code, reason = "a raw system call")]
    // SAFETY: the path is a string that ends with NUL and lives as long as the call.
    unsafe {
        bpf(OBJ_PIN, &mut pin)
    }
}

/// Opens what is pinned.
pub(crate) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf_descriptor(OBJ_GET, &mut Pin { path: path.as_ptr() as u64, fd: 0, flags: 0 })
}

/// Lets the descriptor `place` stand for what `what` stands for.
pub(crate) fn put_in_place(what: &OwnedFd, place: BorrowedFd<'_>) -> io::Result<()> {
    #[expect(unsafe_code, reason = "a raw system call")]
    // SAFETY: both are open; whoever owns `place` goes on owning a map.
    let result = unsafe { libc::dup3(what.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives this process' id as the kernel's programs see it, whatever pid namespace it is in.
pub(crate) fn own_process() -> io::Result<u32> {
    const RAW_TRACEPOINT: u32 = 17;
    const LICENSE: &[u8; 4] = b"GPL\0";
    // r0 = bpf_get_current_pid_tgid(); r0 >>= 32; exit
    const PROGRAM: [[u8; 8]; 3] =
        [[0x85, 0, 0, 0, 14, 0, 0, 0], [0x77, 0, 0, 0, 32, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let mut program = NewProgram {
        kind: RAW_TRACEPOINT,
        instruction_count: PROGRAM.len() as u32,
        instructions: PROGRAM.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
    };
    let program = bpf_descriptor(PROG_LOAD, &mut program)?;
    let mut run = TestRun { program: program.as_raw_fd() as u32, ..TestRun::default() };
    #[expect(unsafe_code, reason = "a raw system call")]
    // SAFETY: all addresses are null.
    unsafe {
        bpf(PROG_TEST_RUN, &mut run)?;
    }
    Ok(run.result)
}

/// A map with the sizes that the kernel reads and writes, so that its operations can check their buffers.
#[derive(Debug)]
pub(crate) struct RawMap {
    pub fd: OwnedFd,
    pub info: MapInfo,
    /// The bytes of one value as they are copied: for per-CPU maps one for each possible CPU.
    pub value_bytes: usize,
    pub cpus: usize,
}

/// How far a batch came.
pub(crate) struct Progress {
    /// The entries copied.
    pub count: usize,
    /// Whether there is more.
    pub more: bool,
}

impl RawMap {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let info = map_info(&fd)?;
        let size = info.value_size as usize;
        let (cpus, value_bytes) = match info.kind {
            kind::PERCPU_HASH | kind::PERCPU_ARRAY => {
                let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
                (cpus, size.next_multiple_of(8) * cpus)
            }
            _ => (1, size),
        };
        Ok(Self { fd, info, value_bytes, cpus })
    }

    /// Reads an entry; false where there is none.
    pub(crate) fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.element(LOOKUP_ELEM, key, Some(value))
    }

    /// Reads and removes an entry in one step (per-CPU maps: from Linux 5.14); false where there is none.
    pub(crate) fn take(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        self.element(LOOKUP_AND_DELETE_ELEM, key, Some(value))
    }

    /// Writes an entry.
    pub(crate) fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check(key.len(), value.len())?;
        let mut element = self.attributes(key);
        element.value = value.as_ptr() as u64;
        #[expect(unsafe_code, reason = "a raw system call")]
        // SAFETY: key and value have the sizes that the kernel reads, which `check` made sure of.
        unsafe {
            bpf(UPDATE_ELEM, &mut element)
        }
    }

    /// Removes an entry; false where there is none.
    pub(crate) fn delete(&self, key: &[u8]) -> io::Result<bool> {
        self.element(DELETE_ELEM, key, None)
    }

    /// Gives the key after another one, or the first; false where there is none.
    pub(crate) fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        self.check(key.map_or(next.len(), <[u8]>::len), self.value_bytes)?;
        self.check(next.len(), self.value_bytes)?;
        let mut element = self.attributes(key.unwrap_or_default());
        if key.is_none() {
            element.key = 0;
        }
        element.value = next.as_mut_ptr() as u64;
        #[expect(unsafe_code, reason = "a raw system call")]
        // SAFETY: both keys have the map's key size or are null.
        found(unsafe { bpf(GET_NEXT_KEY, &mut element) })
    }

    /// Reads as many entries as the buffers hold, from where `cursor` stands (`first`: from the beginning).
    /// ENOSPC: not even one bucket fits, grow the buffers and call again with the same cursor.
    pub(crate) fn batch(
        &self,
        first: bool,
        cursor: &mut [u8],
        keys: &mut [u8],
        values: &mut [u8],
    ) -> io::Result<Progress> {
        let capacity = keys.len() / (self.info.key_size as usize).max(1);
        // The cursor is a key in most maps, and a bucket's number in hash maps.
        if values.len() < capacity * self.value_bytes || cursor.len() < (self.info.key_size as usize).max(8) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let position = cursor.as_mut_ptr() as u64;
        let mut batch = Batch {
            from: if first { 0 } else { position },
            to: position,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: capacity as u32,
            map: self.fd.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        #[expect(unsafe_code, reason = "a raw system call")]
        // SAFETY: keys and values hold `count` entries of the map's sizes and the cursor at least a key, checked above.
        let result = unsafe { bpf(LOOKUP_BATCH, &mut batch) };
        let count = (batch.count as usize).min(capacity);
        found(result).map(|more| Progress { count, more })
    }

    fn element(&self, command: libc::c_int, key: &[u8], value: Option<&mut [u8]>) -> io::Result<bool> {
        self.check(key.len(), value.as_ref().map_or(self.value_bytes, |value| value.len()))?;
        let mut element = self.attributes(key);
        if let Some(value) = value {
            element.value = value.as_mut_ptr() as u64;
        }
        #[expect(unsafe_code, reason = "a raw system call")]
        // SAFETY: key and value have the sizes that the kernel reads and writes, which `check` made sure of.
        found(unsafe { bpf(command, &mut element) })
    }

    fn attributes(&self, key: &[u8]) -> Element {
        // Where a map has no keys, the kernel wants no address.
        let address = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
        Element { map: self.fd.as_raw_fd() as u32, padding: 0, key: address, value: 0, flags: 0 }
    }

    fn check(&self, key: usize, value: usize) -> io::Result<()> {
        if key == self.info.key_size as usize && value == self.value_bytes {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::InvalidInput))
        }
    }
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
