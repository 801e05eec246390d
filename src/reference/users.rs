//! The users that the programs of a reference boot run as.

/// The users that QEMU and swtpm run as where root starts them: nobody's, and each its own. The guest
/// talks to both, and what measures must be safe from what is measured.
pub(super) struct Users {
    pub(super) qemu: Option<u32>,
    pub(super) swtpm: Option<u32>,
}

impl Users {
    /// The first number behind those of containers, which no system gives away (systemd's UIDS-GIDS).
    const FIRST: u32 = 0x7000_0000;
    const COUNT: u32 = 2 << 16;

    pub(super) fn new() -> Self {
        let mut random = [0; 2];
        // Numbers that others could guess are as good: nobody can become them.
        let _ = getrandom::fill(&mut random);
        let first = Self::FIRST + 2 * u32::from(u16::from_le_bytes(random));
        let user = |number| rustix::process::geteuid().is_root().then_some(number);
        Self { qemu: user(first), swtpm: user(first + 1) }
    }

    /// May what this user owns be of a boot that this user, or root, started?
    pub(super) fn may_be_ours(user: u32) -> bool {
        let own = rustix::process::geteuid();
        let given = own.is_root() && (Self::FIRST..Self::FIRST + Self::COUNT).contains(&user);
        user == own.as_raw() || given
    }
}
