//! Machines of one template that are each their own: volume key, TPM, words of the command line. They
//! share the kernel and the initrd that their host gives them.

use std::fs;
use std::process::Command;

use tempfile::TempDir;
use testkit::image::PASSPHRASE;
use testkit::{Ran, run};

use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::{INITRAMFS_KERNEL, VOLUME_UUID};
use crate::guest::Boot;
use crate::machine::Machine;
use crate::workshop::NEWER;

/// Three machines of the template, and one with a word that no machine of it may have.
const STRANGE: [&str; 4] = ["", "", "", " audit=0"];

/// One machine, and its own words.
struct Clone {
    installed: Installed,
    words: String,
}

impl Clone {
    fn new(number: usize, strange: &str) -> Self {
        let mut installed = Installed::new(INITRAMFS_KERNEL);
        let pin = installed.give_own_key();
        let words =
            format!("systemd.machine_id={number:032x} vmseal.pin={VOLUME_UUID}:{pin}{strange}");
        let line = installed.machine.command_line.as_mut().unwrap();
        *line = format!("{line} {words}");
        Self { installed, words }
    }

    fn header(&self) -> Vec<u8> {
        fs::read(self.installed.guest.volume()).unwrap()[..16 << 20].to_vec()
    }
}

/// The host with its template.
struct Host {
    folder: TempDir,
    clones: Vec<Clone>,
}

impl Host {
    fn vmseal(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        run(command.args(arguments).arg("--root").arg(self.folder.path()))
    }

    fn write_template(&self, line: &str) {
        let log = self.folder.path().join("reference.log");
        fs::write(&log, Machine::with_kernel(NEWER, "console=ttyS0 panic=-1").record().log)
            .unwrap();
        let [kernel, initrd] =
            ["kernel", "initrd"].map(|file| self.clones[0].installed.machine.path(file));
        let mut template = format!(
            "boot = \"kernel\"\nkernel = {kernel:?}\ninitrd = {initrd:?}\ncmdline = \"{line}\"\n\
             memory = [1024]\n[[reference]]\nlog = {log:?}\nmemory = 512\n\
             [delivery]\nkind = \"fw_cfg\"\nfolder = {:?}\n",
            self.folder.path().join("delivered"),
        );
        for (number, clone) in self.clones.iter().enumerate() {
            template += &format!("[[vm]]\nname = \"vm{number}\"\ncmdline = \"{}\"\n", clone.words);
        }
        let templates = self.folder.path().join("etc/vmseal/templates.d");
        fs::create_dir_all(&templates).unwrap();
        fs::write(templates.join("debian.toml"), template).unwrap();
    }

    /// Approves, and hands over what was signed. The strange machine is named, and gets nothing.
    fn reseal(&self) -> Ran {
        let ran = self.vmseal(&["reseal", "--template", "debian", "--yes"]).code(20);
        let ran = ran.says("not covered: vm3: audit=0 is no word that a machine may have");
        for (number, clone) in self.clones.iter().enumerate() {
            let file = self.folder.path().join(format!("delivered/vm{number}.json"));
            assert_eq!(file.exists(), STRANGE[number].is_empty());
            if file.exists() {
                fs::copy(file, clone.installed.guest.file("policy.json")).unwrap();
            }
        }
        ran
    }

    /// Both are other files then, to the kernel the same.
    fn update(&self) {
        for clone in &self.clones {
            for (name, more) in [("kernel", 16), ("initrd", 4)] {
                let file = clone.installed.machine.path(name);
                let mut bytes = fs::read(&file).unwrap();
                bytes.extend(vec![0; more]);
                fs::write(file, bytes).unwrap();
            }
        }
    }
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn machines_of_a_template_open_after_one_reseal_and_a_strange_one_does_not() {
    let folder = TempDir::with_prefix("vmseal-host-").unwrap();
    let clones = STRANGE.iter().enumerate().map(|(number, strange)| Clone::new(number, strange));
    let host = Host { folder, clones: clones.collect() };
    host.vmseal(&["authority", "init", "debian"]).ok();
    let public = host.vmseal(&["authority", "export", "debian"]).ok().stdout;
    let enroll = format!(
        "vmseal enroll /dev/disk/by-uuid/{VOLUME_UUID} --policy authority \
         --authority-public /key --unlock-key-file /passphrase"
    );
    for clone in &host.clones {
        let boot = Boot::new()
            .file("passphrase", PASSPHRASE.into())
            .file("key", public.clone().into_bytes())
            .run(&enroll);
        let mut console = clone.installed.boot(&boot);
        console.await_passphrase_prompt();
        console.enter(PASSPHRASE);
        console.await_text(LOGIN);
        console.exits(0);
        console.await_off();
    }
    let line = Installed::new(INITRAMFS_KERNEL).machine.command_line.unwrap();
    host.write_template(&line);
    host.reseal();

    // Nobody approved what the host gives them now.
    host.update();
    let stands_at_the_prompt = |clone: &Clone| {
        let refusal = clone.installed.boot(&Boot::new()).await_passphrase_prompt();
        assert!(refusal.contains("no signature covers sha256 PCR 0+4+7+9"), "{refusal}");
    };
    host.clones.iter().take(3).for_each(stands_at_the_prompt);

    let before: Vec<_> = host.clones.iter().map(Clone::header).collect();
    host.reseal().says("PCR 4+9");
    for (clone, before) in host.clones.iter().zip(&before).take(3) {
        let boot = Boot::new().run("cat /run/vmseal/boot.json");
        let mut console = clone.installed.boot(&boot);
        assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
        console.exits_saying(0, "\"by\": \"tpm\"");
        console.await_off();
        assert!(clone.header() == *before, "the header was written");
    }
    // What was signed for another opens nothing here.
    let [first, strange] = [&host.clones[0], &host.clones[3]];
    let [from, to] = [first, strange].map(|clone| clone.installed.guest.file("policy.json"));
    fs::copy(from, to).unwrap();
    stands_at_the_prompt(strange);
}
