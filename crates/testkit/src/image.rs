//! LUKS2 disks as sparse files, made and read by cryptsetup.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::header_edit::edit_header;
use crate::run::{Ran, run, run_with_input};

/// The passphrase of every image's first keyslot.
pub const PASSPHRASE: &str = "correct horse battery staple";
/// The UUID of every image that was not given another.
pub const UUID: &str = "6a1c1b5e-2b7f-4c3e-9d21-0f6c4f1a7b90";
/// Bytes of an image; all but the header is a hole.
const SIZE: u64 = 32 << 20;
/// Bytes of the LUKS2 header and keyslots that cryptsetup makes by default.
const HEADER: usize = 16 << 20;

/// Bytes of each of the two copies of the metadata: a binary header, then JSON.
pub const METADATA_SIZE: usize = 16 << 10;

/// A LUKS2 image. The file goes with its folder.
pub struct Image {
    path: PathBuf,
}

/// The bytes of an image's header and keyslots at one time.
#[derive(PartialEq, Eq)]
pub struct Snapshot(Vec<u8>);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot of {} bytes", self.0.len())
    }
}

impl Image {
    /// An image in `folder`, opened by [`PASSPHRASE`] in keyslot 0.
    pub fn create(folder: &Path) -> Self {
        static TEMPLATE: OnceLock<Vec<u8>> = OnceLock::new();
        let header = TEMPLATE.get_or_init(|| {
            let folder = TempDir::new().unwrap();
            let image = Self::format(folder.path(), &[]);
            let bytes = fs::read(&image.path).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            bytes[..used].to_vec()
        });
        let path = unused(folder);
        let mut file = fs::File::create_new(&path).unwrap();
        file.write_all(header).unwrap();
        file.set_len(SIZE).unwrap();
        Self { path }
    }

    /// An image in `folder` made with further options of `cryptsetup luksFormat`.
    pub fn format(folder: &Path, options: &[&str]) -> Self {
        let path = unused(folder);
        fs::File::create_new(&path).unwrap().set_len(SIZE).unwrap();
        let mut format = Command::new("cryptsetup");
        format.args(["luksFormat", "--batch-mode", "--type", "luks2", "--uuid", UUID]);
        format.args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-"]);
        run_with_input(format.args(options).arg(&path), PASSPHRASE.as_bytes()).ok();
        Self { path }
    }

    /// The image file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A copy beside it.
    pub fn copy(&self) -> Self {
        let path = unused(self.path.parent().unwrap());
        let mut file = fs::File::create_new(&path).unwrap();
        file.write_all(&self.snapshot().0).unwrap();
        file.set_len(SIZE).unwrap();
        Self { path }
    }

    /// The bytes of header and keyslots now.
    pub fn snapshot(&self) -> Snapshot {
        let mut bytes = vec![0; HEADER];
        fs::File::open(&self.path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        Snapshot(bytes)
    }

    /// Puts the bytes of a snapshot back.
    pub fn restore(&self, snapshot: &Snapshot) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(&snapshot.0, 0).unwrap();
    }

    /// Overwrites bytes at an offset.
    pub fn damage(&self, offset: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    /// Runs `cryptsetup VERB OPTIONS… IMAGE` with `input` on standard input.
    pub fn cryptsetup(&self, verb: &str, options: &[&str], input: &[u8]) -> Ran {
        let mut command = Command::new("cryptsetup");
        command.arg(verb).args(["--batch-mode"]).args(options).arg(&self.path);
        run_with_input(&mut command, input)
    }

    /// Whether cryptsetup opens a keyslot with the passphrase.
    pub fn opens_with(&self, passphrase: &str) -> bool {
        let options = ["--test-passphrase", "--key-file", "-", "--disable-external-tokens"];
        self.cryptsetup("open", &options, passphrase.as_bytes()).code == Some(0)
    }

    /// The LUKS2 metadata, as cryptsetup prints it.
    #[track_caller]
    pub fn metadata(&self) -> Value {
        let mut dump = Command::new("cryptsetup");
        run(dump.args(["luksDump", "--dump-json-metadata"]).arg(&self.path)).ok().json()
    }

    /// The keyslot numbers in use.
    pub fn keyslots(&self) -> Vec<u32> {
        let metadata = self.metadata();
        let numbers = metadata["keyslots"].as_object().unwrap().keys();
        let mut numbers: Vec<u32> = numbers.map(|number| number.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The tokens of one type, with their numbers.
    pub fn tokens(&self, kind: &str) -> Vec<(u32, Value)> {
        let metadata = self.metadata();
        let tokens = metadata["tokens"].as_object().unwrap().iter();
        let tokens = tokens.filter(|(_, token)| token["type"] == kind);
        tokens.map(|(number, token)| (number.parse().unwrap(), token.clone())).collect()
    }

    /// Writes a token as it stands, by cryptsetup.
    pub fn import_token(&self, number: u32, token: &Value) -> Ran {
        let options = ["import", "--disable-external-tokens", "--token-id", &number.to_string()];
        self.token(&options, token.to_string().as_bytes())
    }

    /// Replaces a token by what `edit` makes of it.
    #[track_caller]
    pub fn edit_token(&self, number: u32, edit: impl FnOnce(&mut Value)) {
        let mut token = self.metadata()["tokens"][number.to_string()].clone();
        edit(&mut token);
        let number = number.to_string();
        self.token(&["remove", "--token-id", &number], b"").ok();
        self.import_token(number.parse().unwrap(), &token).ok();
    }

    /// Rewrites the JSON of both header copies, and their checksums, as an attacker with the disk in
    /// hand would: cryptsetup itself would refuse some of it.
    pub fn edit_metadata(&self, edit: impl Fn(&mut Value)) {
        edit_header(&self.path, edit);
    }

    fn token(&self, options: &[&str], input: &[u8]) -> Ran {
        let mut command = Command::new("cryptsetup");
        // Without this, systemd's own plugin would refuse the malformed tokens of a test.
        command.args(["token", "--disable-external-tokens"]).args(options).arg(&self.path);
        run_with_input(&mut command, input)
    }
}

fn unused(folder: &Path) -> PathBuf {
    (0..).map(|n| folder.join(format!("disk{n}.img"))).find(|path| !path.exists()).unwrap()
}
