//! rpm's database, which rpm alone reads: several formats, none of them public.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command};
use std::time::Duration;

use super::Voucher;
use super::program::output_of;
use super::search::{Packaged, Search};
use crate::measurement::{Digest, PcrBank};

/// Where the program lies below the root.
const PROGRAM: &str = "usr/bin/rpm";
/// One line a file. `=` repeats what a package has once (rpm-queryformat(7), Iterators).
const FORMAT: &str =
    "[%{=NAME}\\t%{=VERSION}-%{=RELEASE}\\t%{=FILEDIGESTALGO}\\t%{FILEDIGESTS}\\t%{FILENAMES}\\n]";
/// SHA-256 in `FILEDIGESTALGO`, an OpenPGP hash algorithm (RFC 9580, 9.5).
const SHA256: &[u8] = b"8";
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of its list: some three million files.
const MAX_LIST: u64 = 512 << 20;
/// Bytes of a line; a longer one is passed over.
const MAX_LINE: u64 = 8192;

/// The program that reads the database.
#[derive(Debug)]
pub(super) struct Rpm {
    pub program: PathBuf,
    pub patience: Duration,
    pub most: u64,
}

impl Rpm {
    /// That of the running system: only there are program and database known to fit each other.
    pub fn of(root: &Path) -> Option<Self> {
        let program = root.join(PROGRAM);
        let is_there = root == Path::new("/") && program.is_file();
        is_there.then_some(Self { program, patience: PATIENCE, most: MAX_LIST })
    }

    /// What it knows of the wanted files. Nothing, where it fails or does not end in time: half a
    /// list is no answer.
    pub fn look(&self, search: Search<Digest>) -> Vec<(usize, Voucher)> {
        if search.is_empty() {
            return vec![];
        }
        let most = self.most;
        let found = output_of(&mut self.command(), self.patience, move |list| {
            let mut search = search;
            read_list(list, most, &mut search).map(|()| search.found())
        });
        found.unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-qa", "--qf", FORMAT])
            // Neither macros of a user nor another language.
            .env_clear()
            .envs([("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", "/"), ("LC_ALL", "C")]);
        command
    }
}

fn read_list(list: ChildStdout, most: u64, search: &mut Search<Digest>) -> io::Result<()> {
    let mut list = BufReader::with_capacity(1 << 16, list);
    let (mut line, mut read, mut is_rest) = (Vec::new(), 0_u64, false);
    loop {
        line.clear();
        let len = list.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        read = read.saturating_add(len as u64);
        if len == 0 {
            return Ok(());
        }
        if read > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let whole = line.strip_suffix(b"\n");
        if let Some((digest, packaged)) = whole.filter(|_| !is_rest).and_then(entry)
            && search.wants(&digest)
        {
            search.saw(&digest, &packaged.to_packaged());
        }
        is_rest = whole.is_none();
    }
}

/// A line's texts.
struct Entry<'a> {
    name: &'a [u8],
    version: &'a [u8],
    file: &'a [u8],
}

impl Entry<'_> {
    fn to_packaged(&self) -> Packaged {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Packaged { name: text(self.name), version: text(self.version), file: text(self.file) }
    }
}

/// `None` for what has no SHA-256: folders and links, files of packages with older digests.
fn entry(line: &[u8]) -> Option<(Digest, Entry<'_>)> {
    let mut fields = line.splitn(5, |byte| *byte == b'\t');
    let mut next = || fields.next().filter(|field| !field.is_empty());
    let (name, version) = (next()?, next()?);
    let is_sha256 = next()? == SHA256;
    let digest = next().filter(|_| is_sha256).and_then(|hex| std::str::from_utf8(hex).ok())?;
    let file = next()?;
    Some((Digest::from_hex(PcrBank::Sha256, digest).ok()?, Entry { name, version, file }))
}

#[cfg(test)]
mod tests;
