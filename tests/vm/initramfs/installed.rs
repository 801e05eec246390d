//! An installed machine: its disks, TPM and variables, from boot to boot.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use serde_json::Value;
use testkit::image::PASSPHRASE;
use testkit::run::run;
use testkit::tool;
use vmseal::measurement::PcrBank;

use super::kind::{Kind, Shape, VOLUME_UUID};
use crate::console::Console;
use crate::guest::{Boot, Guest};
use crate::hardware::{Hardware, Start};
use crate::machine::Machine;
use crate::rig;
use crate::workshop::text;

/// Where `tests/vm/disk` puts the partitions.
pub const ESP_OFFSET: u64 = 2048 * 512;
const BOOT_OFFSET: u64 = (2048 + 131_072) * 512;
/// What guest-init prints where a login prompt would come.
pub const LOGIN: &str = "rig: login:";
/// What vmseal-boot asks with.
pub const PROMPT: &str = "Please unlock disk root";
/// The password of root in a whole Debian.
const PASSWORD: &str = "root";

/// A machine that is off, packed once.
type Archive = &'static OnceLock<Vec<u8>>;

/// A machine with an encrypted root. Its parts can be changed between boots.
pub struct Installed {
    /// The files that it was installed with, and its firmware.
    pub machine: Machine,
    /// Its TPM, variables and disks.
    pub guest: Guest,
}

impl Installed {
    /// A machine that never booted. Its initramfs knows the pin of its root; nothing is sealed.
    pub fn new(kind: Kind) -> Self {
        let machine = kind.machine();
        let guest = Guest::bare(&machine.path("variables"), machine.banks);
        for disk in ["volume.img", "data.img"] {
            let image = kind.part(disk);
            if image.exists() {
                tool("cp", &["--sparse=always", text(&image), text(&guest.file(disk))]);
            }
        }
        if machine.command_line.is_none() {
            fs::rename(machine.disk(), guest.file("disk.img")).unwrap();
        }
        Self { machine, guest }
    }

    /// A machine that booted once, by passphrase, and was enrolled in that boot: made once for each
    /// kind, then copied.
    pub fn enrolled(kind: Kind) -> Self {
        // Packed, for a folder in a static would never be removed.
        static ENROLLED: OnceLock<Mutex<HashMap<Kind, Archive>>> = OnceLock::new();
        let archive = {
            let mut kinds = ENROLLED.get_or_init(Mutex::default).lock().unwrap();
            *kinds.entry(kind).or_insert_with(|| Box::leak(Box::default()))
        };
        let archive = archive.get_or_init(|| {
            let installed = Self::new(kind);
            installed.enroll(kind);
            installed.guest.pack()
        });
        Self { machine: kind.machine(), guest: Guest::unpack(archive) }
    }

    /// A machine that never booted, with these words more on its command line.
    pub fn with_words(kind: Kind, words: &str) -> Self {
        let mut installed = Self::new(kind);
        let line = installed.machine.command_line.as_mut().expect("a kernel given by the host");
        line.push_str(words);
        installed
    }

    /// Boots it by passphrase and enrolls it in that boot.
    #[track_caller]
    pub fn enroll(&self, kind: Kind) {
        let device = format!("/dev/disk/by-uuid/{VOLUME_UUID}");
        let enroll = format!("vmseal enroll {device} --unlock-key-file /passphrase");
        let boot = Boot::new().file("passphrase", PASSPHRASE.into()).run(&enroll);
        let mut console = self.boot(&boot);
        console.await_passphrase_prompt();
        console.enter(PASSPHRASE);
        if kind.shape == Shape::Two {
            console.await_text("Please unlock disk data");
            console.enter(PASSPHRASE);
        }
        console.await_text(kind.login());
        if kind.shape == Shape::Full {
            console.log_in();
            console.run(&format!("printf %s '{PASSPHRASE}' >/passphrase"));
            console.exits(0);
            console.run(&enroll);
            console.exits(0);
            console.power_off();
        } else {
            console.exits(0);
            console.await_off();
        }
    }

    /// Gives the root's volume a key of its own, and tells the digest of its pin. The initramfs has the
    /// pin of the volume that it was copied from.
    pub fn give_own_key(&self) -> String {
        let volume = self.guest.volume();
        let [key_file, pins] = ["key-file", "own-pins.json"].map(|name| self.guest.file(name));
        fs::write(&key_file, PASSPHRASE).unwrap();
        let mut reencrypt = vec!["reencrypt", "--batch-mode", "--force-offline-reencrypt"];
        reencrypt.extend(["--resilience", "none", "--pbkdf", "pbkdf2"]);
        reencrypt.extend(["--pbkdf-force-iterations", "1000"]);
        reencrypt.extend(["--key-file", text(&key_file), text(&volume)]);
        tool("cryptsetup", &reencrypt);
        let mut pin = Command::new(rig::release().join("pin-volume"));
        pin.arg(rig::release().join("vmseal")).args([&volume, &key_file, &pins]);
        run(&mut pin).ok();
        let pins: Value = serde_json::from_slice(&fs::read(pins).unwrap()).unwrap();
        PcrBank::Sha256.hash(pins[VOLUME_UUID].to_string().as_bytes()).to_string()
    }

    /// Switches it on.
    pub fn boot(&self, boot: &Boot) -> Console<'_> {
        self.guest.boot_hardware(&self.hardware(), boot)
    }

    /// What it is made of, to be changed for one boot by `guest.boot_hardware`.
    pub fn hardware(&self) -> Hardware {
        if self.machine.command_line.is_some() {
            return self.machine.hardware();
        }
        Hardware { start: Start::Disk(self.guest.file("disk.img")), ..self.machine.hardware() }
    }

    /// Writes a file of the switched-off machine: `esp/PATH` or `boot/PATH`.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        let file = self.guest.file("to-write");
        fs::write(&file, bytes).unwrap();
        match path.split_once('/').unwrap() {
            ("esp", path) => {
                tool("mcopy", &["-o", "-i", &self.esp(), text(&file), &format!("::/{path}")]);
            }
            ("boot", path) => {
                self.debugfs(true, &format!("rm /{path}"));
                self.debugfs(true, &format!("write {} /{path}", text(&file)));
            }
            _ => panic!("{path} is neither in esp/ nor in boot/"),
        }
    }

    /// Reads a file of the switched-off machine: `esp/PATH` or `boot/PATH`.
    pub fn read(&self, path: &str) -> Vec<u8> {
        let file = self.guest.file("to-read");
        let _ = fs::remove_file(&file);
        match path.split_once('/').unwrap() {
            ("esp", path) => {
                tool("mcopy", &["-i", &self.esp(), &format!("::/{path}"), text(&file)]);
            }
            ("boot", path) => self.debugfs(false, &format!("dump /{path} {}", text(&file))),
            _ => panic!("{path} is neither in esp/ nor in boot/"),
        }
        fs::read(&file).unwrap()
    }

    fn esp(&self) -> String {
        format!("{}@@{ESP_OFFSET}", text(&self.guest.file("disk.img")))
    }

    fn debugfs(&self, write: bool, request: &str) {
        let mut debugfs = Command::new("debugfs");
        if write {
            debugfs.arg("-w");
        }
        let disk = format!("{}?offset={BOOT_OFFSET}", text(&self.guest.file("disk.img")));
        run(debugfs.args(["-R", request, &disk])).ok();
    }
}

impl Console<'_> {
    /// Waits for the prompt of the real initramfs, and returns what was printed before it.
    #[track_caller]
    pub fn await_passphrase_prompt(&mut self) -> String {
        self.await_text(PROMPT)
    }

    /// Logs in as root where a whole Debian shows its login prompt; [`Console::run`] can follow.
    #[track_caller]
    pub fn log_in(&mut self) {
        self.enter("root");
        self.await_text("Password: ");
        self.enter(PASSWORD);
        self.await_text("# ");
        // Else the terminal's echo of a command would pass for its output.
        self.enter("stty -echo; PS1= PS2=; echo rig: in");
        self.await_text("\nrig: in");
    }

    /// Runs a command of who has logged in; [`Console::exits`] tells how it ended.
    pub fn run(&mut self, command: &str) {
        self.enter(&format!("echo 'rig: run'; {{ {command}; }}; echo \"rig: exit $?\""));
    }

    /// Switches off a whole Debian in which somebody has logged in.
    pub fn power_off(mut self) {
        self.enter("poweroff");
        self.await_end();
    }
}
