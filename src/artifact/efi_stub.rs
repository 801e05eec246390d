//! What a Linux kernel's own EFI stub measures into PCR 9: its command line, then its initrd.

use super::hashing::Recipe;
use super::measured::{Content, Pending};
use crate::measurement::PcrIndex;

/// The command line event (`efi_convert_cmdline`): the load options as the loader set them, which
/// [`super::ucs2::with_nul`] gives for systemd's and OVMF's, and which have no NUL from GRUB.
/// `None` without load options: nothing is measured then.
pub fn load_options<'a>(options: &[u8]) -> Option<Pending<'a>> {
    let words = String::from("command line that the kernel was started with");
    let content = Content::Recipe(Recipe::bytes(options));
    (!options.is_empty()).then_some(Pending { pcr: PcrIndex::KERNEL_INITRD, words, content })
}

/// The initrd event (`efi_load_initrd`): all bytes that the loader hands over. `None` for an initrd
/// without any.
pub fn initrd(content: Content<'_>) -> Option<Pending<'_>> {
    let empty = matches!(&content, Content::Recipe(recipe) if recipe.is_empty());
    let words = String::from("initrd that the kernel loaded");
    (!empty).then_some(Pending { pcr: PcrIndex::KERNEL_INITRD, words, content })
}
