//! The calls into libcryptsetup.
//!
//! libcryptsetup's own log never reaches the terminal; the last error line of a call becomes the
//! failure's detail. External token plugins are never loaded.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use libcryptsetup_rs_sys as sys;
use zeroize::Zeroizing;

use crate::secret::{KeyslotPassphrase, VolumeKey};

/// `CRYPT_ANY_SLOT`, `CRYPT_ANY_TOKEN`: any keyslot, or the first free one.
pub(crate) const ANY: c_int = -1;
/// Longer than any volume key that the kernel takes.
const VOLUME_KEY_MAX: usize = 4096;
const DETAIL_MAX: usize = 160;

/// A negative return value of libcryptsetup.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The positive `errno` value.
    pub(crate) errno: c_int,
    /// The last error line that the call logged: printable ASCII, bounded, or empty.
    pub(crate) detail: String,
}

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

// Contexts share libcryptsetup's global state, which no lock of its own protects.
static LIBRARY: Mutex<()> = Mutex::new(());
static SETUP: Once = Once::new();

fn enter() -> MutexGuard<'static, ()> {
    let guard = LIBRARY.lock().unwrap_or_else(PoisonError::into_inner);
    SETUP.call_once(|| {
        // SAFETY: plain setters of process-wide state, called once, under the lock; the callback is
        // a function that lives for ever and takes no user pointer.
        unsafe {
            sys::crypt_set_log_callback(ptr::null_mut(), Some(keep_error), ptr::null_mut());
            sys::crypt_token_external_disable();
            // `lock` holds cryptsetup's lock around a whole change, with a bounded wait. It also
            // keeps loading from rewriting a damaged copy.
            sys::crypt_metadata_locking(ptr::null_mut(), 0);
        }
    });
    LAST_ERROR.with_borrow_mut(String::clear);
    guard
}

unsafe extern "C" fn keep_error(level: c_int, message: *const c_char, _: *mut c_void) {
    if level != sys::CRYPT_LOG_ERROR as c_int || message.is_null() {
        return;
    }
    // SAFETY: libcryptsetup passes a NUL-terminated string that outlives this call.
    let message = unsafe { CStr::from_ptr(message) };
    let printable = |byte: &u8| (b' '..=b'~').contains(byte);
    let line = message.to_bytes().iter().copied().filter(printable).take(DETAIL_MAX);
    LAST_ERROR.with_borrow_mut(|last| *last = line.map(char::from).collect());
}

fn check(code: c_int) -> Result<c_int, Failure> {
    if code >= 0 {
        return Ok(code);
    }
    let detail = LAST_ERROR.with_borrow_mut(std::mem::take);
    Err(Failure { errno: code.saturating_neg(), detail })
}

fn invalid() -> Failure {
    Failure { errno: 22, detail: String::new() }
}

fn c_string(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| invalid())
}

/// A libcryptsetup context: one loaded header and its devices.
pub(crate) struct Context {
    device: NonNull<sys::crypt_device>,
}

impl Drop for Context {
    fn drop(&mut self) {
        let _guard = enter();
        // SAFETY: `device` came from crypt_init_data_device and is freed here only.
        unsafe { sys::crypt_free(self.device.as_ptr()) }
    }
}

impl Context {
    /// Loads the LUKS2 header on `metadata`, for the volume whose data is on `data`.
    pub(crate) fn load(metadata: &Path, data: &Path) -> Result<Self, Failure> {
        let metadata = c_string(metadata.as_os_str().as_bytes())?;
        let data = c_string(data.as_os_str().as_bytes())?;
        let guard = enter();
        let mut device = ptr::null_mut();
        // SAFETY: an out pointer and two paths that live through the call.
        check(unsafe {
            sys::crypt_init_data_device(&mut device, metadata.as_ptr(), data.as_ptr())
        })?;
        let context = Self { device: NonNull::new(device).ok_or_else(invalid)? };
        // SAFETY: a context that was just initialised; LUKS2 takes no parameters.
        let loaded = check(unsafe { sys::crypt_load(device, c"LUKS2".as_ptr(), ptr::null_mut()) });
        // Dropping a context that failed to load takes the lock again.
        drop(guard);
        loaded.map(|_| context)
    }

    /// The UUID of the binary header; bytes that are not text are refused.
    pub(crate) fn uuid(&self) -> Option<String> {
        let _guard = enter();
        // SAFETY: a loaded context; the string belongs to it.
        let uuid = unsafe { sys::crypt_get_uuid(self.device.as_ptr()) };
        if uuid.is_null() {
            return None;
        }
        // SAFETY: not null, NUL-terminated, copied while the context lives.
        unsafe { CStr::from_ptr(uuid) }.to_str().ok().map(str::to_owned)
    }

    /// The metadata JSON as libcryptsetup understood it.
    pub(crate) fn json(&self) -> Result<Vec<u8>, Failure> {
        let _guard = enter();
        let mut json = ptr::null();
        // SAFETY: a loaded context and an out pointer; flags must be zero.
        check(unsafe { sys::crypt_dump_json(self.device.as_ptr(), &mut json, 0) })?;
        if json.is_null() {
            return Err(invalid());
        }
        // SAFETY: not null, NUL-terminated, owned by the context, copied before any further call.
        Ok(unsafe { CStr::from_ptr(json) }.to_bytes().to_vec())
    }

    /// Size of one metadata copy in bytes, its binary header of 4096 bytes included.
    pub(crate) fn metadata_size(&self) -> Result<u64, Failure> {
        let _guard = enter();
        let mut size = 0;
        // SAFETY: a loaded context and an out pointer; the second one may be null.
        check(unsafe {
            sys::crypt_get_metadata_size(self.device.as_ptr(), &mut size, ptr::null_mut())
        })?;
        Ok(size)
    }

    /// Opens a keyslot, or [`ANY`] that belongs to the data segment, and compares the key with the
    /// keyslot's digest.
    pub(crate) fn volume_key(
        &mut self,
        keyslot: c_int,
        passphrase: &KeyslotPassphrase,
    ) -> Result<(c_int, VolumeKey), Failure> {
        let _guard = enter();
        let mut buffer = Zeroizing::new(vec![0_u8; VOLUME_KEY_MAX]);
        let mut length = buffer.len();
        let passphrase = passphrase.expose();
        // SAFETY: both buffers are valid for the lengths given; `length` is in and out.
        let keyslot = check(unsafe {
            sys::crypt_volume_key_get(
                self.device.as_ptr(),
                keyslot,
                buffer.as_mut_ptr().cast(),
                &mut length,
                passphrase.as_ptr().cast(),
                passphrase.len(),
            )
        })?;
        let key = buffer.get(..length).ok_or_else(invalid)?;
        Ok((keyslot, VolumeKey::new(key.to_vec())))
    }

    /// Adds a keyslot at the first free number, with systemd's minimal PBKDF
    /// (`cryptsetup_set_minimal_pbkdf`): the passphrase has the entropy, not the KDF.
    pub(crate) fn add_keyslot(
        &mut self,
        key: &VolumeKey,
        passphrase: &KeyslotPassphrase,
    ) -> Result<c_int, Failure> {
        let _guard = enter();
        let pbkdf = sys::crypt_pbkdf_type {
            type_: c"pbkdf2".as_ptr(),
            hash: c"sha512".as_ptr(),
            time_ms: 1,
            iterations: 1000,
            max_memory_kb: 0,
            parallel_threads: 0,
            flags: sys::CRYPT_PBKDF_NO_BENCHMARK,
        };
        // SAFETY: the structure and its static strings live through the call, which copies them.
        check(unsafe { sys::crypt_set_pbkdf_type(self.device.as_ptr(), &pbkdf) })?;
        let (key, passphrase) = (key.expose(), passphrase.expose());
        // SAFETY: both buffers are valid for the lengths given.
        check(unsafe {
            sys::crypt_keyslot_add_by_volume_key(
                self.device.as_ptr(),
                ANY,
                key.as_ptr().cast(),
                key.len(),
                passphrase.as_ptr().cast(),
                passphrase.len(),
            )
        })
    }

    /// Overwrites a keyslot's area and removes it from the header.
    pub(crate) fn destroy_keyslot(&mut self, keyslot: c_int) -> Result<(), Failure> {
        let _guard = enter();
        // SAFETY: a loaded context.
        check(unsafe { sys::crypt_keyslot_destroy(self.device.as_ptr(), keyslot) })?;
        Ok(())
    }

    /// Writes a token at `token`, or at [`ANY`] free number; without `json`, removes it.
    pub(crate) fn set_token(&mut self, token: c_int, json: Option<&str>) -> Result<c_int, Failure> {
        let json = json.map(|json| c_string(json.as_bytes())).transpose()?;
        let json = json.as_deref().map_or(ptr::null(), CStr::as_ptr);
        let _guard = enter();
        // SAFETY: a loaded context; `json` is null, or a string that lives through the call.
        check(unsafe { sys::crypt_token_json_set(self.device.as_ptr(), token, json) })
    }

    /// Opens the volume as `/dev/mapper/NAME` with `CRYPT_ACTIVATE_*` flags.
    pub(crate) fn activate(
        &mut self,
        name: &str,
        key: &VolumeKey,
        flags: u32,
    ) -> Result<(), Failure> {
        let name = c_string(name.as_bytes())?;
        let _guard = enter();
        let key = key.expose();
        // SAFETY: a loaded context, a name and a key buffer that live through the call.
        check(unsafe {
            sys::crypt_activate_by_volume_key(
                self.device.as_ptr(),
                name.as_ptr(),
                key.as_ptr().cast(),
                key.len(),
                flags,
            )
        })?;
        Ok(())
    }
}

/// Closes `/dev/mapper/NAME`.
pub(crate) fn deactivate(name: &str) -> Result<(), Failure> {
    let name = c_string(name.as_bytes())?;
    let _guard = enter();
    // SAFETY: a null context is allowed: libcryptsetup then makes one from the name.
    check(unsafe { sys::crypt_deactivate(ptr::null_mut(), name.as_ptr()) })?;
    Ok(())
}
