//! What a process gives up before it parses what others wrote: images of guests, their logs.
//!
//! From then on it can read files, compute, and write into what was open before. It cannot change,
//! make or run a file, reach a network or another process, nor get any of that back. Each layer is
//! taken where the kernel has it.

use std::collections::BTreeMap;
use std::fmt;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// The newest Landlock that is asked for; an older kernel gives what it has.
const NEWEST: ABI = ABI::V6;
/// System calls of reading, computing, threads and ending; all others fail with `EPERM`.
const ALLOWED: [i64; 71] = [
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_dup,
    libc::SYS_fadvise64,
    libc::SYS_fstatfs,
    libc::SYS_statfs,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_membarrier,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_arch_prctl,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrlimit,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_tgkill,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// A layer that could not be taken, although the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxError {
    /// Which one.
    pub layer: &'static str,
    /// What the kernel said.
    pub cause: String,
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot give up rights ({}): {}", self.layer, self.cause)
    }
}

impl std::error::Error for SandboxError {}

/// The layers that this kernel does not have.
pub type Lacking = Vec<&'static str>;

/// Confines this process for good: all of its threads, and what they start.
///
/// # Errors
/// [`SandboxError`]; some layers may be in force then.
pub fn confine() -> Result<Lacking, SandboxError> {
    let mut lacking = vec![];
    drop_capabilities()?;
    if !restrict_files()? {
        lacking.push("Landlock");
    }
    restrict_calls()?;
    Ok(lacking)
}

/// Root keeps the right to read what is not its own, and nothing more.
fn drop_capabilities() -> Result<(), SandboxError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let kept = CapabilitySet::DAC_READ_SEARCH;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    match set_capabilities(None, sets) {
        // Root of a container may lack it.
        Err(rustix::io::Errno::PERM) => {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets)
        }
        done => done,
    }
    .map_err(|error| SandboxError { layer: "capabilities", cause: error.to_string() })
}

/// Whether the kernel has it.
fn restrict_files() -> Result<bool, SandboxError> {
    let failed = |cause: String| SandboxError { layer: "Landlock", cause };
    let root = PathFd::new("/").map_err(|error| failed(error.to_string()))?;
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|set| set.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|set| set.scope(Scope::from_all(NEWEST)))
        .and_then(|set| set.create())
        .and_then(|set| set.add_rule(PathBeneath::new(root, reading)))
        .and_then(|set| set.restrict_self())
        .map_err(|error| failed(error.to_string()))?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

fn restrict_calls() -> Result<(), SandboxError> {
    let failed = |cause: String| SandboxError { layer: "seccomp", cause };
    let rules: BTreeMap<i64, Vec<_>> = ALLOWED.into_iter().map(|call| (call, vec![])).collect();
    let refuse = SeccompAction::Errno(rustix::io::Errno::PERM.raw_os_error().unsigned_abs());
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, TargetArch::x86_64);
    let program: Result<BpfProgram, _> = filter.and_then(TryInto::try_into);
    let program = program.map_err(|error| failed(error.to_string()))?;
    seccompiler::apply_filter_all_threads(&program).map_err(|error| failed(error.to_string()))
}
