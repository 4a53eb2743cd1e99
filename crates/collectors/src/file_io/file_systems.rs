//! Names of file systems by the magic number of their superblocks.

/// Names a kind of file system as `/proc/filesystems` does; nothing for one that is not known.
pub(super) fn name(magic: u32) -> Option<&'static str> {
    let known = KINDS.binary_search_by_key(&magic, |&(known, _)| known).ok()?;
    Some(KINDS[known].1)
}

/// In the order of the numbers.
const KINDS: &[(u32, &str)] = &[
    (0x0000_4d44, "vfat"),
    (0x0000_6969, "nfs"),
    (0x0000_9660, "iso9660"),
    (0x0000_9fa0, "proc"),
    (0x0000_ef53, "ext4"),
    (0x0027_e0eb, "cgroup"),
    (0x00c3_6400, "ceph"),
    (0x0102_1994, "tmpfs"),
    (0x0102_1997, "9p"),
    (0x0116_1970, "gfs2"),
    (0x0765_5821, "resctrl"),
    (0x0bd0_0bd0, "lustre"),
    (0x1501_3346, "udf"),
    (0x1980_0202, "mqueue"),
    (0x2011_bab0, "exfat"),
    (0x2fc1_2fc1, "zfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x5346_544e, "ntfs"),
    (0x5846_5342, "xfs"),
    (0x6165_676c, "pstore"),
    (0x6265_6570, "configfs"),
    (0x6265_6572, "sysfs"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x6573_5546, "fuse"),
    (0x7363_6673, "securityfs"),
    (0x7366_746e, "ntfs3"),
    (0x7371_7368, "squashfs"),
    (0x7461_636f, "ocfs2"),
    (0x7472_6163, "tracefs"),
    (0x786f_4256, "vboxsf"),
    (0x794c_7630, "overlay"),
    (0x8584_58f6, "ramfs"),
    (0x9123_683e, "btrfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xcafe_4a11, "bpf"),
    (0xde5e_81e4, "efivarfs"),
    (0xe0f5_e1e2, "erofs"),
    (0xf2f5_2010, "f2fs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0xfe53_4d42, "smb3"),
    (0xff53_4d42, "cifs"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found() {
        assert!(KINDS.is_sorted_by(|one, other| one.0 < other.0));
        assert_eq!((name(0xef53), name(0x0102_1994), name(0xff53_4d42)), (Some("ext4"), Some("tmpfs"), Some("cifs")));
        assert_eq!((name(0), name(u32::MAX)), (None, None));
    }
}
