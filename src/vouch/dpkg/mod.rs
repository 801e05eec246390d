//! dpkg's database: the MD5 of every packaged file, and which packages are there.

mod md5sums;
mod status;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Voucher;
use super::bounded::Folder;
use super::search::{Packaged, Search};
use md5sums::md5sums;
use status::Packages;

/// Where it lies below the root.
const FOLDER: &str = "var/lib/dpkg";
const MAX_STATUS: u64 = 64 << 20;
const MAX_UPDATE: u64 = 1 << 20;
/// The list of one package: some 300,000 files.
const MAX_MD5SUMS: u64 = 32 << 20;
/// Bytes of all lists. 800 packages have 9 MiB.
const MAX_ALL: usize = 1 << 30;
/// Most names in a folder: a package has about ten.
const MAX_NAMES: usize = 1 << 20;

/// What it knows of the wanted files. What cannot be read vouches for nothing.
pub(super) fn look(root: &Path, mut search: Search<[u8; 16]>) -> Vec<(usize, Voucher)> {
    if !search.is_empty() {
        // Without the folder there is no dpkg.
        let _ = look_below(&root.join(FOLDER), &mut search);
    }
    search.found()
}

/// Looks through the files of all packages that are there.
fn look_below(folder: &Path, search: &mut Search<[u8; 16]>) -> io::Result<()> {
    let info = Folder::open(&folder.join("info"))?;
    let packages = packages(folder);
    let mut left = MAX_ALL;
    for file in info.names(MAX_NAMES)? {
        let Some((name, version)) = package_of(&file, &packages) else { continue };
        let Ok((text, _)) = info.read(&file, MAX_MD5SUMS) else { continue };
        left = left.checked_sub(text.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        for (digest, path) in md5sums(&text) {
            if search.wants(&digest) {
                let file = format!("/{}", String::from_utf8_lossy(path));
                let (name, version) = (name.to_owned(), version.to_owned());
                search.saw(&digest, &Packaged { name, version, file });
            }
        }
    }
    Ok(())
}

/// Name and version of the package that a list is of, where its files are there.
fn package_of<'a>(file: &'a OsStr, packages: &'a Packages) -> Option<(&'a str, &'a str)> {
    let name = file.to_str()?.strip_suffix(".md5sums")?;
    let (name, architecture) = match name.split_once(':') {
        Some((name, architecture)) => (name, Some(architecture)),
        None => (name, None),
    };
    Some((name, packages.version(name, architecture)?))
}

fn packages(folder: &Path) -> Packages {
    let mut packages = Packages::default();
    if let Ok((text, _)) = Folder::open(folder).and_then(|it| it.read("status", MAX_STATUS)) {
        packages.add(&text);
    }
    // While dpkg works, and so while hooks of packages run, what changed is here, in numbered files.
    let Ok(updates) = Folder::open(&folder.join("updates")) else { return packages };
    for file in updates.names(MAX_NAMES).unwrap_or_default() {
        let is_numbered = file.as_bytes().iter().all(u8::is_ascii_digit);
        if let Ok((text, _)) = updates.read(&file, MAX_UPDATE)
            && is_numbered
        {
            packages.add(&text);
        }
    }
    packages
}

#[cfg(test)]
mod tests;
