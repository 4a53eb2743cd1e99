//! What the allocator keeps of memory that was freed: parsing the kernel's types takes 20 MB for a second. Elsewhere than
//! with glibc these do nothing.

/// From this size on an allocation is a mapping of its own. By itself glibc lets that grow with what was freed last, up to
/// 32 MiB: then what a scrape or a gather needs for a moment comes to lie between what stays, and its place is lost to both.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 512 << 10;

/// Lets all threads allocate from one place, before there is a second one: of the places that glibc gives each thread
/// it does not give back the end, however much of that is free. What is large has a place of its own.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "glibc takes its settings no other way")]
        // SAFETY: it takes no pointer, and changes only how later allocations are served.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        }
    }
}

/// Gives memory that was freed back to the system.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "glibc has no other way to give memory back")]
        // SAFETY: it takes no pointer and only touches the allocator's own free lists, under its locks.
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
