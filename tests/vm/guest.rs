//! One guest machine: its TPM, firmware variables and disks, which stay from boot to boot.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::run::run_with_input;
use testkit::{Image, tool};

use crate::console::Console;
use crate::hardware::{Hardware, TpmInterface, add_disk, add_logged_disk};
use crate::rig;
use crate::valve::Valve;
use crate::write_log::WriteLog;

/// Boots took 12 to 75 seconds under emulation on two busy cores, and an upgrade in one four minutes;
/// what goes wrong is mostly known earlier.
const LIMIT: Duration = Duration::from_secs(900);
const PINS: &str = "etc/vmseal/pins.json";
/// The guest knows each that is there under its name.
const DISKS: [&str; 3] = ["volume", "data", "swap"];

/// What happens in one boot. None of it is measured, except which boot disk is used.
#[derive(Clone)]
pub struct Boot {
    disk: &'static str,
    script: String,
    files: Vec<(String, Vec<u8>)>,
}

impl Boot {
    /// A boot of the approved disk in which nothing happens yet.
    pub fn new() -> Self {
        Self { disk: "approved", script: String::new(), files: vec![] }
    }

    /// Boots another disk of `tests/vm/assemble`.
    pub fn disk(self, disk: &'static str) -> Self {
        Self { disk, ..self }
    }

    /// Runs a shell command; [`Console::exits`] tells how it ended.
    pub fn run(mut self, command: &str) -> Self {
        self.script += &format!("echo 'rig: run'\n{{ {command}\n}}\necho \"rig: exit $?\"\n");
        self
    }

    /// Puts a file into the guest, at a path from the root without its slash.
    pub fn file(mut self, path: &str, bytes: Vec<u8>) -> Self {
        self.files.push((path.to_owned(), bytes));
        self
    }

    /// The tar that the guest's init unpacks.
    fn write(&self, folder: &Path, tar: &Path) {
        let tree = TempDir::new_in(folder).unwrap();
        fs::write(tree.path().join("scenario"), &self.script).unwrap();
        for (path, bytes) in &self.files {
            let path = tree.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        tool("tar", &["-cf", text(tar), "-C", text(tree.path()), "."]);
    }
}

/// A guest machine. Its files go with it.
pub struct Guest {
    folder: TempDir,
}

impl Guest {
    /// A new machine: a TPM with the sha256 bank, a LUKS2 disk.
    pub fn new() -> Self {
        let guest = Self::bare(&rig::parts().join("vars.fd"), "sha256");
        let volume = Image::create(guest.folder.path());
        fs::rename(volume.path(), guest.volume()).unwrap();
        guest
    }

    /// A new machine without a volume: these firmware variables, a TPM with these banks.
    pub fn bare(variables: &Path, banks: &str) -> Self {
        let folder = TempDir::with_prefix("vmseal-guest-").unwrap();
        let tpm = folder.path().join("tpm");
        fs::create_dir(&tpm).unwrap();
        tool("swtpm_setup", &["--tpm2", "--tpmstate", text(&tpm), "--pcr-banks", banks]);
        fs::copy(variables, folder.path().join("vars.fd")).unwrap();
        Self { folder }
    }

    /// The machine, switched off, as an archive of its parts.
    pub fn pack(&self) -> Vec<u8> {
        let mut tar = Command::new("tar");
        tar.args(["-cSf", "-", "-C", text(self.folder.path())]);
        let parts = ["tpm", "vars.fd", "volume.img", "data.img", "pins.json", "disk.img"];
        tar.args(parts.iter().filter(|part| self.file(part).exists()));
        let output = tar.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// A machine that was packed.
    pub fn unpack(archive: &[u8]) -> Self {
        let folder = TempDir::with_prefix("vmseal-guest-").unwrap();
        let mut tar = Command::new("tar");
        run_with_input(tar.args(["-xf", "-", "-C", text(folder.path())]), archive).ok();
        Self { folder }
    }

    /// The next boots write down what they write to `/dev/volume`, until the log is ended.
    pub fn log_writes(&self) -> WriteLog {
        WriteLog::create(self.file("volume.log"))
    }

    /// The LUKS2 disk that the guest knows as `/dev/volume`.
    pub fn volume(&self) -> PathBuf {
        self.file("volume.img")
    }

    /// Keeps the pins file for later boots.
    pub fn keep_pins(&self, pins: &[u8]) {
        fs::write(self.file("pins.json"), pins).unwrap();
    }

    /// Switches the machine on.
    pub fn boot(&self, boot: Boot) -> Console<'_> {
        self.boot_with(rig::accelerator(), LIMIT, boot)
    }

    /// As [`Guest::boot`], with QEMU's options for the processor and a limit of time.
    pub fn boot_with(&self, accelerator: &[&str], limit: Duration, mut boot: Boot) -> Console<'_> {
        // In a real boot the pins are part of the initramfs, and measured with it. Here they come
        // by the unmeasured disk: they are written after the initramfs was built.
        if let Ok(pins) = fs::read(self.file("pins.json")) {
            boot = boot.file(PINS, pins);
        }
        self.power(&Hardware::approved(boot.disk), accelerator, limit, &boot)
    }

    /// Boots other hardware than that of `tests/vm/assemble`. The disk of `boot` does not count.
    pub fn boot_hardware(&self, hardware: &Hardware, boot: &Boot) -> Console<'_> {
        self.power(hardware, rig::accelerator(), LIMIT, boot)
    }

    fn power(
        &self,
        hardware: &Hardware,
        accelerator: &[&str],
        limit: Duration,
        boot: &Boot,
    ) -> Console<'_> {
        boot.write(self.folder.path(), &self.file("input.tar"));
        File::create(self.file("output.tar")).unwrap().set_len(8 << 20).unwrap();
        let socket = self.file("tpm.sock");
        let tpm = (hardware.tpm != TpmInterface::None).then(|| self.start_tpm(&socket));
        let mut qemu = hardware.qemu(accelerator, &self.file("vars.fd"), &socket);
        for disk in DISKS {
            let file = self.file(&format!("{disk}.img"));
            let log = self.file(&format!("{disk}.log"));
            match (file.exists(), log.exists()) {
                (true, true) => add_logged_disk(&mut qemu, disk, &file, &log),
                (true, false) => add_disk(&mut qemu, disk, &file, "", ""),
                (false, _) => {}
            }
        }
        // What its host has approved, where that is so.
        let policy = self.file("policy.json");
        if policy.exists() {
            let file = text(&policy);
            qemu.arg("-fw_cfg").arg(format!("name=opt/org.vmseal/policy,file={file}"));
        }
        let policy = self.file("policy.img");
        if policy.exists() {
            add_disk(&mut qemu, "policy", &policy, ",readonly=on", "");
        }
        add_disk(&mut qemu, "input", &self.file("input.tar"), ",readonly=on", "");
        add_disk(&mut qemu, "output", &self.file("output.tar"), "", "");
        Console::watch(self, qemu.spawn().unwrap(), tpm, limit)
    }

    /// A file that the last boot put into its folder /out.
    pub fn output(&self, name: &str) -> Vec<u8> {
        let mut tar = Command::new("tar");
        tar.arg("-xOf").arg(self.file("output.tar")).arg(format!("./{name}"));
        let output = tar.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// A file of the machine's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The machine's TPM, powered by whoever connects to the socket until they hang up.
    fn start_tpm(&self, socket: &Path) -> (Child, Valve) {
        let control = self.file("swtpm.sock");
        for old in [socket, &control] {
            let _ = fs::remove_file(old);
        }
        let mut swtpm = Command::new("setpriv");
        swtpm.args(["--pdeathsig", "KILL", "swtpm", "socket", "--tpm2", "--terminate"]);
        swtpm.arg("--tpmstate").arg(format!("dir={}", text(&self.file("tpm"))));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", text(&control)));
        let child = swtpm.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while !control.exists() {
            assert!(start.elapsed() < Duration::from_secs(20), "{swtpm:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        (child, Valve::between(socket, &control))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
