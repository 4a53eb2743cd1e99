//! The kernel's own types, shared by all objects that are loaded at the same time.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aya::{Btf, Ebpf, EbpfError, EbpfLoader};

use crate::btf;
use crate::error::{Error, chain};

/// Where the kernel shows its own types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The running kernel's types, parsed for all (15 ms, some 20 MB). Drop it when everything is attached.
#[derive(Clone)]
pub struct Types(Arc<Shared>);

struct Shared {
    /// Before what it borrows: fields are dropped in their order. One for all objects, since aya parses the kernel's
    /// types again, in vain, for every loader that it makes.
    loader: Mutex<EbpfLoader<'static>>,
    btf: Arc<Btf>,
    file: Box<Path>,
}

impl Types {
    /// Reads the types from where the kernel shows them, or from a file.
    ///
    /// Programs attach by the numbers of the running kernel's types, so a file has to be a copy of those. That is made
    /// sure of here where the kernel shows them; else nobody knows before programs are loaded.
    ///
    /// # Errors
    /// Fails when the file cannot be read, is no BTF, or is of another kernel.
    pub fn load(path: Option<&Path>) -> Result<Self, Error> {
        let file = path.unwrap_or(Path::new(VMLINUX));
        let fail = |reason| match path {
            None => Error::Types { path: VMLINUX.to_owned(), reason },
            Some(path) => Error::GivenTypes { path: path.display().to_string(), reason },
        };
        let bytes = fs::read(file).map_err(|error| fail(error.to_string()))?;
        // Its own copy of the types goes at once; before ours are there, so that there is one at a time.
        let mut loader = EbpfLoader::new();
        loader.btf(None).allow_unsupported_maps();
        let broken = |error| fail(format!("it is no BTF: {}", chain(&error)));
        let btf = Arc::new(Btf::parse(&bytes, aya::Endianness::default()).map_err(broken)?);
        if path.is_some() && fs::read(VMLINUX).is_ok_and(|own| own != bytes) {
            return Err(fail("it has the types of another kernel than the one that runs".to_owned()));
        }
        #[expect(unsafe_code, reason = "the loader borrows what lies beside it")]
        // SAFETY: the types lie on the heap behind a counter that `Shared` keeps until it has dropped the loader, nobody
        // changes them, and the loader never leaves `Shared`.
        let borrowed: &'static Btf = unsafe { &*Arc::as_ptr(&btf) };
        loader.btf(Some(borrowed));
        Ok(Self(Arc::new(Shared { loader: Mutex::new(loader), btf, file: Box::from(file) })))
    }

    /// Gives the names and values of an enumeration of the kernel; nothing where it has none of that name.
    pub fn enumeration(&self, name: &str) -> Option<Vec<(String, u32)>> {
        btf::enumeration(&fs::read(&self.0.file).ok()?, name)
    }

    /// Says whether the kernel has a tracepoint.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.0.btf.id_by_type_name_kind(&format!("btf_trace_{name}"), aya_obj::btf::BtfKind::Typedef).is_ok()
    }

    /// Gives the types to what attaches programs.
    pub(crate) fn btf(&self) -> &Btf {
        &self.0.btf
    }

    /// Makes the maps of an object's file and prepares its programs. `entries` has to name every map of it: the loader
    /// remembers sizes by name.
    pub(crate) fn prepare(&self, file: &[u8], entries: &[(&'static str, u32)]) -> Result<Ebpf, EbpfError> {
        let mut loader = self.0.loader.lock().unwrap_or_else(PoisonError::into_inner);
        for &(map, entries) in entries {
            loader.map_max_entries(map, entries);
        }
        loader.load(file)
    }
}
