//! What the allocator keeps of memory that was freed: parsing the kernel's types takes 20 MB for a second. Elsewhere than
//! with glibc these do nothing.

/// Lets all threads allocate from one place, before there is a second one: of the places that glibc gives each thread
/// it does not give back the end, however much of that is free.
pub fn share_one_arena() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "glibc takes its settings no other way")]
        // SAFETY: it takes no pointer, and changes only how later allocations are served.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
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
