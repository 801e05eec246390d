//! The archives that systemd-stub packs for the initrd (its `cpio.c`).

use super::hashing::{Piece, Recipe};

/// What an archive is for: folder and modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The folder that its files go to.
    pub folder: &'static str,
    /// Permissions of the folder; those above it get 0555.
    pub folder_mode: u32,
    /// Permissions of the files.
    pub file_mode: u32,
}

impl Target {
    /// Texts of the image itself.
    pub const EXTRA: Self = Self { folder: ".extra", folder_mode: 0o555, file_mode: 0o444 };
    /// Credentials of one image.
    pub const CREDENTIALS: Self =
        Self { folder: ".extra/credentials", folder_mode: 0o500, file_mode: 0o400 };
    /// Credentials of all images.
    pub const GLOBAL_CREDENTIALS: Self =
        Self { folder: ".extra/global_credentials", folder_mode: 0o500, file_mode: 0o400 };
    /// System extensions.
    pub const SYSEXT: Self = Self { folder: ".extra/sysext", folder_mode: 0o555, file_mode: 0o444 };
    /// System extensions of all images.
    pub const GLOBAL_SYSEXT: Self =
        Self { folder: ".extra/global_sysext", folder_mode: 0o555, file_mode: 0o444 };
    /// Configuration extensions.
    pub const CONFEXT: Self =
        Self { folder: ".extra/confext", folder_mode: 0o555, file_mode: 0o444 };
    /// Configuration extensions of all images.
    pub const GLOBAL_CONFEXT: Self =
        Self { folder: ".extra/global_confext", folder_mode: 0o555, file_mode: 0o444 };

    /// The archive of these files, in this order; `None` when one is too large for the format.
    pub fn pack<'a>(&self, files: Vec<(&str, Recipe<'a>)>) -> Option<Recipe<'a>> {
        const FOLDER: u32 = 0o040_000;
        const FILE: u32 = 0o100_000;
        let mut archive = Recipe::default();
        let mut inode = 1;
        let parents = self.folder.match_indices('/').filter_map(|(at, _)| self.folder.get(..at));
        let parents = parents.map(|parent| (parent, 0o555));
        for (folder, mode) in parents.chain([(self.folder, self.folder_mode)]) {
            archive.push(Piece::Bytes(header(inode, FOLDER | mode, 1, 0, folder)));
            inode += 1;
        }
        for (name, content) in files {
            let path = format!("{}/{name}", self.folder);
            let len = u32::try_from(content.len()).ok()?;
            archive.push(Piece::Bytes(header(inode, FILE | self.file_mode, 1, len, &path)));
            let padding = u64::from(len.wrapping_neg() % 4);
            archive.append(content);
            archive.push(Piece::Zeros { len: padding });
            inode += 1;
        }
        archive.push(Piece::Bytes(trailer()));
        Some(archive)
    }
}

/// An entry's header and path, padded to four bytes.
fn header(inode: u32, mode: u32, links: u32, len: u32, path: &str) -> Vec<u8> {
    let path_len = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    let fields = [inode, mode, 0, 0, links, 0, len, 0, 0, 0, 0, path_len, 0];
    let mut entry = b"070701".to_vec();
    entry.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    entry.extend(path.as_bytes());
    entry.push(0);
    entry.resize(entry.len().next_multiple_of(4), 0);
    entry
}

/// The stub writes the length of this name in upper case, all others in lower case.
fn trailer() -> Vec<u8> {
    let mut entry = header(0, 0, 1, 0, "TRAILER!!!");
    entry.iter_mut().take(110).for_each(u8::make_ascii_uppercase);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::hashing::digest;
    use crate::measurement::PcrBank;

    /// The same archive, byte for byte, written down from the format's description.
    #[test]
    fn an_archive_has_the_bytes_that_the_stub_writes() {
        let zero = "00000000";
        let expected = [
            "070701",
            "00000001",
            "0000416d",
            zero,
            zero,
            "00000001",
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            "00000007",
            zero,
            ".extra\0\0\0\0",
            "070701",
            "00000002",
            "00004140",
            zero,
            zero,
            "00000001",
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            "00000013",
            zero,
            ".extra/credentials\0\0\0\0",
            "070701",
            "00000003",
            "00008100",
            zero,
            zero,
            "00000001",
            zero,
            "00000005",
            zero,
            zero,
            zero,
            zero,
            "0000001a",
            zero,
            ".extra/credentials/a.cred\0",
            "hello\0\0\0",
            "070701",
            zero,
            zero,
            zero,
            zero,
            "00000001",
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            "0000000B",
            zero,
            "TRAILER!!!\0\0\0\0",
        ]
        .concat();
        let archive = Target::CREDENTIALS.pack(vec![("a.cred", Recipe::bytes("hello"))]).unwrap();
        assert_eq!(archive.len(), expected.len() as u64);
        let digests = digest(&[archive], &[PcrBank::Sha256]).unwrap();
        assert_eq!(digests[0][0], PcrBank::Sha256.hash(expected.as_bytes()));
    }
}
