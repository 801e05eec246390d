//! What a process gives up before it parses what others wrote: images of guests, their logs.
//!
//! From then on it can read files, compute, and write into what was open before. It cannot change,
//! make or run a file, reach a network or another process, nor get any of that back. Each layer is
//! taken where the kernel has it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_thread_gid,
    set_thread_groups, set_thread_uid,
};
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

/// What a process may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Address space, in bytes.
    pub memory: u64,
    /// Processor time, in seconds.
    pub seconds: u64,
}

/// Confines this process for good to reading these files, and what lies below these folders, within
/// limits. Where it is root it becomes nobody, who may still read what is not his. A path that is not
/// there gives no right. To be called while there is but one thread.
///
/// # Errors
/// [`SandboxError`], also where this kernel has no Landlock: whoever takes the process over could
/// read the host's keys, and tell them.
pub fn confine_to<'a>(
    paths: impl IntoIterator<Item = &'a Path>,
    limits: Limits,
) -> Result<(), SandboxError> {
    limit(Resource::As, limits.memory)?;
    limit(Resource::Cpu, limits.seconds)?;
    become_nobody()?;
    drop_capabilities()?;
    if !restrict_files_to(paths)? {
        let cause = "this kernel does not have it, or was told not to use it".to_owned();
        return Err(SandboxError { layer: "Landlock", cause });
    }
    restrict_calls()
}

fn limit(resource: Resource, most: u64) -> Result<(), SandboxError> {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(resource, limit)
        .map_err(|error| SandboxError { layer: "limits", cause: error.to_string() })
}

/// The user and group who own nothing.
const NOBODY: u32 = 65534;

/// Root's own files are his without any capability.
fn become_nobody() -> Result<(), SandboxError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let change = || {
        set_keep_capabilities(true)?;
        set_thread_groups(&[])?;
        set_thread_gid(Gid::from_raw(NOBODY))?;
        set_thread_uid(Uid::from_raw(NOBODY))
    };
    match change() {
        // Root of a container that has no other users.
        Ok(()) | Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(SandboxError { layer: "user", cause: error.to_string() }),
    }
}

/// Root keeps the right to read what is not its own, and nothing more.
fn drop_capabilities() -> Result<(), SandboxError> {
    // What is not had cannot be kept.
    let had = rustix::thread::capabilities(None);
    let had = had.map_or(CapabilitySet::all(), |sets| sets.permitted);
    let kept = had & CapabilitySet::DAC_READ_SEARCH;
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets)
        .map_err(|error| SandboxError { layer: "capabilities", cause: error.to_string() })
}

/// Whether the kernel has it.
fn restrict_files() -> Result<bool, SandboxError> {
    restrict_files_to([Path::new("/")])
}

/// Whether the kernel has it.
fn restrict_files_to<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<bool, SandboxError> {
    let failed = |cause: String| SandboxError { layer: "Landlock", cause };
    let mut rules = vec![];
    for path in paths {
        // One that cannot be opened now cannot be read later, which is told then.
        let Ok(file) = PathFd::new(path) else { continue };
        let folder = AccessFs::ReadFile | AccessFs::ReadDir;
        let rights = if path.is_dir() { folder } else { AccessFs::ReadFile.into() };
        rules.push(Ok::<_, landlock::RulesetError>(PathBeneath::new(file, rights)));
    }
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|set| set.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|set| set.scope(Scope::from_all(NEWEST)))
        .and_then(|set| set.create())
        .and_then(|set| set.add_rules(rules))
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
