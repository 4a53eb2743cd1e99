//! How events leave the kernel: by a ring or by perf buffers, and how large a ring may be.

use runtime::{Buffer, MakeError, Platform};

/// The default of `ring_buffer_size`.
pub const DEFAULT: u32 = 64 * 1024;

/// Gives the size of a ring: the kernel wants a power of two of whole pages.
pub fn bytes(asked: u32) -> u32 {
    const LARGEST_PAGE: u32 = 64 * 1024;
    asked.clamp(LARGEST_PAGE, 1 << 30).next_power_of_two()
}

/// Says whether events go through perf buffers.
///
/// # Errors
/// Fails when the configuration insists on rings and the kernel has none.
pub fn wants_perf(platform: &Platform) -> Result<bool, MakeError> {
    let has_rings = platform.facts.maps.iter().any(|&(kind, has)| kind == "ringbuf" && has);
    match platform.buffer {
        Buffer::Auto => Ok(!has_rings),
        Buffer::Perf => Ok(true),
        Buffer::Ring if has_rings => Ok(false),
        Buffer::Ring => Err(MakeError::Unsupported(
            "this kernel has no ring buffers; set integrations.ebpf.events.buffer to auto or perf".to_owned(),
        )),
    }
}
