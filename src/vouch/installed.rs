//! What kernel-install has just put in its place for one kernel.

use std::io;
use std::path::{Path, PathBuf};

/// Where unified kernel images lie on the boot partition (UAPI.1, Type #2).
const IMAGES: &str = "EFI/Linux";
/// Names that are looked at in a folder.
const MAX_NAMES: usize = 4096;

/// One kernel, as kernel-install(8) speaks of it to its plugins.
#[derive(Debug, Clone)]
pub struct InstalledKernel {
    /// As `uname -r` has it.
    pub release: String,
    /// `KERNEL_INSTALL_BOOT_ROOT`.
    pub boot_root: PathBuf,
    /// `KERNEL_INSTALL_ENTRY_TOKEN`.
    pub entry_token: String,
}

impl InstalledKernel {
    /// The unified kernel image, with the number of tries in its name or without (90-uki-copy), else
    /// the initrds in the folder of the kernel's entry (90-loaderentry). The kernel is a package's.
    ///
    /// # Errors
    /// Those of reading the folders; none where there is no such folder.
    pub fn built(&self) -> io::Result<Vec<PathBuf>> {
        let start = format!("{}-{}", self.entry_token, self.release);
        let is_image = |name: &str| {
            let rest = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(".efi"));
            rest.is_some_and(|rest| rest.is_empty() || is_count(rest))
        };
        let images = names(&self.boot_root.join(IMAGES), is_image)?;
        if !images.is_empty() {
            return Ok(images);
        }
        let folder = self.boot_root.join(&self.entry_token).join(&self.release);
        names(&folder, |name| name.starts_with("initrd"))
    }
}

/// `+LEFT` or `+LEFT-DONE` of the boot counter (systemd, Automatic Boot Assessment).
fn is_count(text: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.strip_prefix('+').is_some_and(|count| match count.split_once('-') {
        Some((left, done)) => is_number(left) && is_number(done),
        None => is_number(count),
    })
}

fn names(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let entries = match folder.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut found = vec![];
    for entry in entries.take(MAX_NAMES) {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&is_wanted) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn built(files: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let kernel = InstalledKernel {
            release: "6.12.57+deb13".into(),
            boot_root: folder.path().into(),
            entry_token: "token".into(),
        };
        let found = kernel.built().unwrap().into_iter();
        let inside = |path: PathBuf| path.strip_prefix(folder.path()).unwrap().to_owned();
        found.map(|path| inside(path).to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_image_of_this_kernel_counts_whatever_its_tries() {
        let others = [
            "EFI/Linux/token-6.12.57.efi",
            "EFI/Linux/token-6.12.57+deb13-cloud.efi",
            "EFI/Linux/token-6.12.57+deb13+x.efi",
            "EFI/Linux/token-6.12.57+deb13.efi.bak",
            "EFI/Linux/other-6.12.57+deb13.efi",
        ];
        assert_eq!(built(&others), Vec::<String>::new());
        for image in ["", "+3", "+2-1"] {
            let image = format!("EFI/Linux/token-6.12.57+deb13{image}.efi");
            let files = [&others[..], &[&image, "token/6.12.57+deb13/initrd"]].concat();
            assert_eq!(built(&files), [image]);
        }
    }

    #[test]
    fn without_an_image_its_initrds_do() {
        let files = ["linux", "initrd", "initrd-microcode"];
        let files = files.map(|file| format!("token/6.12.57+deb13/{file}"));
        let files =
            [&files[0], &files[1], &files[2], "token/6.12.57/initrd"].map(|file: &str| file);
        let expected = ["token/6.12.57+deb13/initrd", "token/6.12.57+deb13/initrd-microcode"];
        assert_eq!(built(&files), expected);
        assert_eq!(built(&[]), Vec::<String>::new());
    }
}
