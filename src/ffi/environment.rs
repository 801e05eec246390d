//! The process's environment.

/// Keeps tpm2-tss from writing its own warnings to standard error. Call it first in `main`, before
/// any thread exists; a `TSS2_LOG` that the user set stays.
pub fn quiet_tss2() {
    if std::env::var_os("TSS2_LOG").is_none() {
        // SAFETY: documented above: no other thread reads or writes the environment yet.
        unsafe { std::env::set_var("TSS2_LOG", "all+NONE") };
    }
}
