//! What is asked for at INIT, flag by flag, and why.
//!
//! A flag that is asked for is honoured; one that is not honoured is not asked for. Nothing is
//! claimed and then ignored.
//!
//! Invariants: [`FLAGS`] has every flag of ABI 7.45 exactly once, in the order of their bits.

use super::abi::*;
use super::connection::{Config, ReadDirPlus};

/// When a flag is asked for.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Wherever the kernel offers it.
    Always,
    /// Where the configuration says so, and the kernel offers it.
    If(fn(&Config) -> bool),
    /// Whatever the kernel offers.
    Never,
}

/// One flag of INIT.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its bit; 32 and up travel in `flags2`.
    pub bit: u64,
    /// Its name in fuse.h, without `FUSE_`.
    pub name: &'static str,
    /// The minor version that brought it.
    pub since: u32,
    /// When it is asked for.
    pub when: When,
    /// Why.
    pub why: &'static str,
}

macro_rules! flags {
    ($($bit:ident $name:literal $since:literal $when:expr, $why:literal;)*) => {
        /// Every flag, by bit.
        pub const FLAGS: &[Flag] = &[
            $(Flag { bit: $bit, name: $name, since: $since, when: $when, why: $why },)*
        ];
    };
}

use When::{Always, If, Never};

flags! {
    FUSE_ASYNC_READ "ASYNC_READ" 6 Always,
        "reads ahead are sent side by side; each is answered on its own";
    FUSE_POSIX_LOCKS "POSIX_LOCKS" 7 Never,
        "without it fcntl locks live in the kernel, which blocks and frees them properly on one host";
    FUSE_FILE_OPS "FILE_OPS" 9 Never,
        "no kernel has ever looked at it; handles come with GETATTR and SETATTR anyway";
    FUSE_ATOMIC_O_TRUNC "ATOMIC_O_TRUNC" 9 Always,
        "open and truncate are one event; OPEN is never answered with ENOSYS, which would lose the truncation";
    FUSE_EXPORT_SUPPORT "EXPORT_SUPPORT" 10 If(|config| config.export),
        "lookups of `.` and `..` on nodes that the kernel forgot must then be served";
    FUSE_BIG_WRITES "BIG_WRITES" 9 Always,
        "writes longer than a page; newer kernels take it for granted";
    FUSE_DONT_MASK "DONT_MASK" 12 Always,
        "a default ACL takes the place of the umask, and only the server knows if there is one";
    FUSE_SPLICE_WRITE "SPLICE_WRITE" 14 If(|config| config.splice),
        "the transport may splice replies to the device";
    FUSE_SPLICE_MOVE "SPLICE_MOVE" 14 If(|config| config.splice),
        "spliced pages may move instead of being copied";
    FUSE_SPLICE_READ "SPLICE_READ" 14 Never,
        "splicing requests from the device lost against read(2) in measurements, so no transport does it";
    FUSE_FLOCK_LOCKS "FLOCK_LOCKS" 17 Never,
        "as POSIX_LOCKS: flock locks live in the kernel";
    FUSE_HAS_IOCTL_DIR "HAS_IOCTL_DIR" 18 Always,
        "ioctl on a directory is answered like one on a file";
    FUSE_AUTO_INVAL_DATA "AUTO_INVAL_DATA" 20 Never,
        "it throws away cached pages after our own writes, and rules out EXPLICIT_INVAL_DATA";
    FUSE_DO_READDIRPLUS "DO_READDIRPLUS" 21 If(|config| config.readdirplus != ReadDirPlus::Never),
        "a listing brings attributes, which saves a LOOKUP per name on a walk";
    FUSE_READDIRPLUS_AUTO "READDIRPLUS_AUTO" 21 If(|config| config.readdirplus == ReadDirPlus::Adaptive),
        "only where somebody looks at attributes; without it plain listings are ten times slower";
    FUSE_ASYNC_DIO "ASYNC_DIO" 22 Always,
        "parts of one direct read or write are sent side by side";
    FUSE_WRITEBACK_CACHE "WRITEBACK_CACHE" 23 Never,
        "a write would be answered before it is in the log, and come from nobody";
    FUSE_NO_OPEN_SUPPORT "NO_OPEN_SUPPORT" 23 Never,
        "with OPEN unserved there are no FOPEN flags, no RELEASE, and O_TRUNC is lost; ENOSYS says so without it";
    FUSE_PARALLEL_DIROPS "PARALLEL_DIROPS" 25 If(|config| config.parallel_dirops),
        "lookups and listings in one directory run side by side";
    FUSE_HANDLE_KILLPRIV "HANDLE_KILLPRIV" 26 Never,
        "version 2 says which writes are to clear set-id bits; this one leaves it to be guessed";
    FUSE_POSIX_ACL "POSIX_ACL" 26 Always,
        "the kernel checks ACLs that we keep; it does not inherit default ACLs, so we do";
    FUSE_ABORT_ERROR "ABORT_ERROR" 27 Always,
        "reading the device tells an aborted connection (ECONNABORTED) from an unmounted one (ENODEV)";
    FUSE_MAX_PAGES "MAX_PAGES" 28 Always,
        "requests longer than 32 pages";
    FUSE_CACHE_SYMLINKS "CACHE_SYMLINKS" 28 Always,
        "the target of a link never changes";
    FUSE_NO_OPENDIR_SUPPORT "NO_OPENDIR_SUPPORT" 29 If(|config| config.no_opendir),
        "OPENDIR may be answered with ENOSYS; every listing is cached then, so each must be one that may be";
    FUSE_EXPLICIT_INVAL_DATA "EXPLICIT_INVAL_DATA" 30 Always,
        "we know every change, so pages are dropped when we say so and not when a time stamp moved";
    FUSE_MAP_ALIGNMENT "MAP_ALIGNMENT" 31 Never,
        "for the DAX window of virtiofs";
    FUSE_SUBMOUNTS "SUBMOUNTS" 32 Never,
        "every view is one filesystem; for virtiofs";
    FUSE_HANDLE_KILLPRIV_V2 "HANDLE_KILLPRIV_V2" 33 Always,
        "set-id bits and capabilities are cleared where a request says so; else each write asks for a capability first";
    FUSE_SETXATTR_EXT "SETXATTR_EXT" 33 Always,
        "SETXATTR says when setting an ACL is to clear the set-group-id bit";
    FUSE_INIT_EXT "INIT_EXT" 36 Always,
        "without it there is no `flags2`";
    FUSE_SECURITY_CTX "SECURITY_CTX" 36 If(|config| config.security_context),
        "what comes must be stored with the new inode";
    FUSE_HAS_INODE_DAX "HAS_INODE_DAX" 36 Never,
        "for the DAX window of virtiofs";
    FUSE_CREATE_SUPP_GROUP "CREATE_SUPP_GROUP" 38 If(|config| config.supplementary_group),
        "for servers that take on the caller's identity; the kernel has checked the group already";
    FUSE_HAS_EXPIRE_ONLY "HAS_EXPIRE_ONLY" 38 Always,
        "names can be expired without dropping what is below them";
    FUSE_DIRECT_IO_ALLOW_MMAP "DIRECT_IO_ALLOW_MMAP" 39 Always,
        "shared mappings work on files that are open past the page cache";
    FUSE_PASSTHROUGH "PASSTHROUGH" 40 Never,
        "it needs one plain file per inode; ours are extents";
    FUSE_NO_EXPORT_SUPPORT "NO_EXPORT_SUPPORT" 40 If(|config| !config.export),
        "file handles that go stale whenever the kernel forgets a node are refused instead";
    FUSE_HAS_RESEND "HAS_RESEND" 40 Always,
        "requests that a dead server had read can be sent again, and are known by their mark";
    FUSE_ALLOW_IDMAP "ALLOW_IDMAP" 41 Never,
        "it takes uid and gid out of all requests but creations, on every mount";
    FUSE_OVER_IO_URING "OVER_IO_URING" 42 If(|config| config.io_uring),
        "requests come over the ring; a crash there cannot be resumed";
    FUSE_REQUEST_TIMEOUT "REQUEST_TIMEOUT" 43 If(|config| config.request_timeout_s != 0),
        "the kernel aborts the connection if a request waits longer";
}

/// What is asked for under `config` from a kernel that offers `offered`.
pub fn wanted(config: &Config, offered: u64) -> u64 {
    let wanted = FLAGS
        .iter()
        .filter(|flag| match flag.when {
            Always => true,
            If(asked) => asked(config),
            Never => false,
        })
        .fold(0, |all, flag| all | flag.bit);
    wanted & offered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_but_the_reserved_one_is_there_once_and_in_order() {
        let bits: Vec<u32> = FLAGS.iter().map(|flag| flag.bit.trailing_zeros()).collect();
        let all: Vec<u32> = (0..=42).filter(|&bit| 1 << bit != FUSE_INIT_RESERVED).collect();
        assert_eq!(bits, all);
        assert!(FLAGS.iter().all(|flag| flag.bit.is_power_of_two()));
    }

    #[test]
    fn versions_grow_with_the_bits_that_came_later() {
        let later = FLAGS.iter().filter(|flag| flag.since > 12);
        assert!(later.is_sorted_by_key(|flag| flag.since));
        assert!(FLAGS.iter().all(|flag| flag.since <= FUSE_KERNEL_MINOR_VERSION));
    }

    #[test]
    fn what_excludes_each_other_is_never_asked_for_together() {
        for export in [false, true] {
            let config = Config { export, ..Config::default() };
            let wanted = wanted(&config, u64::MAX);
            let both = |one, other| wanted & one != 0 && wanted & other != 0;
            assert!(!both(FUSE_AUTO_INVAL_DATA, FUSE_EXPLICIT_INVAL_DATA));
            assert!(!both(FUSE_EXPORT_SUPPORT, FUSE_NO_EXPORT_SUPPORT));
            assert!(!both(FUSE_HANDLE_KILLPRIV, FUSE_HANDLE_KILLPRIV_V2));
            assert_eq!(wanted & FUSE_INIT_RESERVED, 0);
        }
    }

    #[test]
    fn nothing_is_asked_for_that_the_kernel_does_not_offer() {
        for flag in FLAGS {
            assert_eq!(wanted(&Config::default(), !flag.bit) & flag.bit, 0, "{}", flag.name);
        }
    }
}
