//! The one table of what mke2fs and the kernel can make of an ext file system.

/// A kind of ext file system.
#[derive(Debug)]
pub struct Variant {
    /// What it is called in messages, and on the command line.
    pub name: &'static str,
    /// Arguments of mke2fs; the size is 64 MiB.
    pub mkfs: &'static [&'static str],
    /// Options of the mount under which it is filled.
    pub mount: &'static str,
    /// What of `workload.py` is run in it beside the usual.
    pub extra: &'static [&'static str],
}

impl Variant {
    /// Tells whether it has a journal: a copy of the mounted file system can be recovered.
    pub fn has_journal(&self) -> bool {
        !self.mkfs.contains(&"ext2") && !self.mkfs.iter().any(|arg| arg.contains("^has_journal"))
    }

    /// Returns the variant of that name.
    ///
    /// # Panics
    /// Where there is none: a test names what is not in the table.
    pub fn named(name: &str) -> &'static Self {
        let found = VARIANTS.iter().find(|variant| variant.name == name);
        found.unwrap_or_else(|| panic!("no variant {name}"))
    }
}

const fn usual(name: &'static str, mkfs: &'static [&'static str]) -> Variant {
    Variant { name, mkfs, mount: "rw", extra: &[] }
}

const fn mounted(
    name: &'static str,
    mkfs: &'static [&'static str],
    mount: &'static str,
) -> Variant {
    Variant { name, mkfs, mount, extra: &[] }
}

const fn with(
    name: &'static str,
    mkfs: &'static [&'static str],
    extra: &'static [&'static str],
) -> Variant {
    Variant { name, mkfs, mount: "rw", extra }
}

/// How inline data is mounted. With `data=ordered` Linux 6.18 can lock up: the thread that commits
/// writes data out and, where that is inline, waits for room in the log that it alone can make.
const INLINE_MOUNT: &str = "data=writeback";

/// Every kind that is made.
pub const VARIANTS: &[Variant] = &[
    usual("4k", &["-t", "ext4", "-b", "4096"]),
    usual("1k", &["-t", "ext4", "-b", "1024"]),
    usual("2k", &["-t", "ext4", "-b", "2048"]),
    usual("64k", &["-t", "ext4", "-b", "65536", "-N", "8192"]),
    usual("ext2-1k", &["-t", "ext2", "-b", "1024"]),
    usual("ext2-r0", &["-t", "ext2", "-b", "4096", "-r", "0"]),
    usual("ext3-1k", &["-t", "ext3", "-b", "1024"]),
    usual("ext3-4k", &["-t", "ext3", "-b", "4096"]),
    usual("ext3-2k", &["-t", "ext3", "-b", "2048"]),
    mounted("ext3-data", &["-t", "ext3", "-b", "1024"], "data=journal"),
    usual("no-journal", &["-t", "ext4", "-b", "4096", "-O", "^has_journal"]),
    mounted("data-4k", &["-t", "ext4", "-b", "4096"], "data=journal"),
    mounted("data-1k", &["-t", "ext4", "-b", "1024"], "data=journal"),
    mounted("async-commit", &["-t", "ext4", "-b", "4096"], "journal_async_commit,data=writeback"),
    usual("small-journal", &["-t", "ext4", "-b", "1024", "-J", "size=1"]),
    usual("no-csum", &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"]),
    usual("no-csum-2k", &["-t", "ext4", "-b", "2048", "-O", "^64bit,^metadata_csum"]),
    usual("no-64bit", &["-t", "ext4", "-b", "4096", "-O", "^64bit"]),
    mounted(
        "data-no-csum",
        &["-t", "ext4", "-b", "1024", "-O", "^64bit,^metadata_csum"],
        "data=journal",
    ),
    mounted(
        "journal-csum-v1",
        &["-t", "ext4", "-b", "4096", "-O", "^metadata_csum"],
        "journal_checksum",
    ),
    with("fast-commit", &["-t", "ext4", "-b", "4096", "-O", "fast_commit"], &["late"]),
    usual("uninit-1k", &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"]),
    usual("uninit-128", &["-t", "ext4", "-O", "^metadata_csum,uninit_bg", "-I", "128"]),
    mounted(
        "uninit-data",
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,uninit_bg"],
        "data=journal",
    ),
    usual("128-byte-inodes", &["-t", "ext4", "-O", "^64bit", "-I", "128"]),
    usual("1k-inodes", &["-t", "ext4", "-I", "1024"]),
    mounted("inline-1k", &["-t", "ext4", "-b", "1024", "-O", "inline_data"], INLINE_MOUNT),
    mounted(
        "inline-data",
        &["-t", "ext4", "-b", "4096", "-O", "inline_data", "-I", "512"],
        "data=journal",
    ),
    usual("meta-bg", &["-t", "ext4", "-O", "meta_bg,^resize_inode"]),
    usual("meta-bg-1k", &["-t", "ext4", "-b", "1024", "-O", "64bit,meta_bg,^resize_inode"]),
    usual("bigalloc", &["-t", "ext4", "-O", "bigalloc", "-C", "16384"]),
    usual("bigalloc-32k", &["-t", "ext4", "-O", "bigalloc", "-C", "32768", "-N", "8192"]),
    usual("bigalloc-1k", &["-t", "ext4", "-b", "1024", "-O", "bigalloc", "-C", "8192"]),
    usual(
        "bigalloc-meta-bg",
        &["-t", "ext4", "-b", "1024", "-O", "bigalloc,meta_bg,^resize_inode"],
    ),
    with("ea-inode", &["-t", "ext4", "-O", "ea_inode"], &["attributes"]),
    with("large-dir", &["-t", "ext4", "-b", "1024", "-O", "large_dir"], &["names"]),
    usual("sparse-super2", &["-t", "ext4", "-b", "1024", "-O", "sparse_super2,^resize_inode"]),
    usual(
        "csum-seed",
        &["-t", "ext4", "-O", "metadata_csum_seed", "-U", "01234567-89ab-cdef-0123-456789abcdef"],
    ),
    usual("orphan-file", &["-t", "ext4", "-b", "1024", "-O", "orphan_file"]),
    mounted("mmp", &["-t", "ext4", "-O", "mmp,ea_inode,inline_data", "-I", "512"], INLINE_MOUNT),
    usual("project", &["-t", "ext4", "-O", "project"]),
    usual("casefold", &["-t", "ext4", "-O", "casefold"]),
    usual("encrypt-verity", &["-t", "ext4", "-O", "encrypt,verity,stable_inodes"]),
    usual("no-flex-bg", &["-t", "ext4", "-b", "1024", "-O", "^flex_bg"]),
    usual("no-filetype", &["-t", "ext4", "-O", "^filetype"]),
    usual("no-extents", &["-t", "ext4", "-b", "1024", "-O", "^extents,^64bit"]),
    usual(
        "old-features",
        &["-t", "ext4", "-O", "^dir_index,^filetype,^64bit,^metadata_csum,^huge_file,^dir_nlink"],
    ),
];
