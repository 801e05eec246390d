//! A machine's own authority: the key that approves its boots, kept in its encrypted root. And a
//! host's: one key for each template of machines.
//!
//! The file carries whose it is, so that a clone notices that it signs with another machine's key,
//! and a host that one template's key is not another's.
//! No initramfs ever carries it: what an initrd holds, whoever can read `/boot` has.

mod error;
mod key_file;
mod owner;
mod scribe;
mod signature_file;
mod store;
mod template;

pub use error::AuthorityError;
pub use key_file::KeyFile;
pub use owner::{Holder, Other, Owner, is_template_name};
pub use scribe::{Scribes, replaced, sign_line};
pub use signature_file::{SIGNATURE_FILE, leave_signatures};
pub use store::{Rotated, Store};
pub use template::TemplateKeys;
