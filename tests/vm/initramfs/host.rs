//! A host that gives its machines their kernel approves their boots from outside, and hands the
//! signatures over by QEMU's firmware configuration or on a disk.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use testkit::image::PASSPHRASE;
use testkit::{Ran, run};

use super::installed::{Installed, LOGIN, PROMPT};
use super::kind::{DRACUT_KERNEL, INITRAMFS_KERNEL, Kind, VOLUME_UUID};
use crate::guest::Boot;
use crate::hardware::Hardware;
use crate::machine::Machine;
use crate::rig;
use crate::workshop::{NEWER, text};

/// In seconds, on a machine that has other things to do.
pub const LIMIT: &str = "600";

/// A host with one template, of an installed machine.
pub struct Host {
    pub folder: TempDir,
    pub installed: Installed,
}

/// What the host starts from.
pub enum Reference {
    /// The log of a machine that it threw away, with another kernel and other words.
    Given,
    /// What it measures by itself.
    Booted,
}

impl Host {
    /// `sizes` are lines of the template, `delivery` how it hands over signatures.
    pub fn new(installed: Installed, sizes: &str, reference: &Reference, delivery: &str) -> Self {
        let machine = &installed.machine;
        let [kernel, initrd] = ["kernel", "initrd"].map(|file| machine.path(file));
        let boot = format!(
            "boot = \"kernel\"\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"{}\"\n{sizes}\n",
            text(&kernel),
            text(&initrd),
            machine.command_line.as_deref().unwrap(),
        );
        Self::booting(installed, |_| boot, reference, delivery)
    }

    /// The same of machines that boot as the lines say that `boot` makes for the host's folder.
    pub fn booting(
        installed: Installed,
        boot: impl FnOnce(&Path) -> String,
        reference: &Reference,
        delivery: &str,
    ) -> Self {
        let folder = TempDir::with_prefix("vmseal-host-").unwrap();
        let host = Self { folder, installed };
        host.vmseal(&["authority", "init", "debian"]).ok();
        let machine = &host.installed.machine;
        let given = match reference {
            Reference::Booted => String::new(),
            Reference::Given => {
                let log = host.folder.path().join("reference.log");
                let machine = Machine::with_kernel(NEWER, "console=ttyS0 panic=-1");
                fs::write(&log, machine.record().log).unwrap();
                format!("[[reference]]\nlog = \"{}\"\nmemory = 512\n", text(&log))
            }
        };
        let template = format!(
            "{}vars = \"{}\"\n{given}[machine]\nfirmware = \"{}\"\n\
             [[vm]]\nname = \"policy\"\n[delivery]\nkind = \"{delivery}\"\nfolder = \"{}\"\n",
            boot(host.folder.path()),
            text(&machine.path("variables")),
            text(&machine.code()),
            text(host.installed.guest.file("policy.json").parent().unwrap()),
        );
        let templates = host.folder.path().join("etc/vmseal/templates.d");
        fs::create_dir_all(&templates).unwrap();
        fs::write(templates.join("debian.toml"), template).unwrap();
        host
    }

    /// `vmseal` on the host.
    pub fn vmseal(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        run(command.args(arguments).arg("--root").arg(self.folder.path()))
    }

    /// Boots of the template's machines. They take longer than other programs may.
    pub fn reference_boot(&self, limit: &str) -> Ran {
        Self::ran(self.to_reference_boot(limit).spawn().unwrap())
    }

    /// The same before it begins.
    pub fn to_reference_boot(&self, limit: &str) -> Command {
        let accelerator = if rig::accelerator().contains(&"kvm") { "kvm" } else { "tcg" };
        let arguments = ["reference-boot", "debian", "--limit", limit, "--accel", accelerator];
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        command.args(arguments).arg("--root").arg(self.folder.path());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What became of it.
    pub fn ran(command: Child) -> Ran {
        let output = command.wait_with_output().unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            took: std::time::Duration::ZERO,
        }
    }

    pub fn reseal(&self) -> Ran {
        self.vmseal(&["reseal", "--template", "debian", "--yes"])
    }

    /// The machine is enrolled by passphrase, and knows the public half of the key only.
    pub fn enroll(&self) {
        let public = self.vmseal(&["authority", "export", "debian"]).ok().stdout;
        let enroll = format!(
            "vmseal enroll /dev/disk/by-uuid/{VOLUME_UUID} --policy authority \
             --authority-public /key --unlock-key-file /passphrase"
        );
        let boot = Boot::new()
            .file("passphrase", PASSPHRASE.into())
            .file("key", public.into_bytes())
            .run(&enroll);
        let mut console = self.installed.boot(&boot);
        console.await_passphrase_prompt();
        console.enter(PASSPHRASE);
        console.await_text(LOGIN);
        console.exits(0);
        console.await_off();
        self.reseal().ok();
    }

    /// Boots its machine on this hardware, and it opens by itself.
    #[track_caller]
    pub fn opens(&self, hardware: &Hardware) {
        let boot = Boot::new().run("cat /run/vmseal/boot.json");
        let mut console = self.installed.guest.boot_hardware(hardware, &boot);
        assert_eq!(console.either(PROMPT, LOGIN), LOGIN);
        console.exits_saying(0, "\"by\": \"tpm\"");
        console.await_off();
    }
}

#[test]
fn a_host_approves_another_kernel_and_the_machine_opens_its_root() {
    opens_after_one_reseal(INITRAMFS_KERNEL, &Reference::Booted, "fw_cfg");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_host_approves_another_kernel_by_a_log_that_it_was_given() {
    opens_after_one_reseal(INITRAMFS_KERNEL, &Reference::Given, "fw_cfg");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_host_approves_another_kernel_for_dracut_too() {
    opens_after_one_reseal(DRACUT_KERNEL, &Reference::Given, "fw_cfg");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_host_measures_the_boot_of_dracut_itself() {
    opens_after_one_reseal(DRACUT_KERNEL, &Reference::Booted, "fw_cfg");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_host_hands_over_a_disk() {
    opens_after_one_reseal(INITRAMFS_KERNEL, &Reference::Given, "disk");
}

#[test]
#[ignore = "slow: make vm-test-all"]
fn a_host_hands_over_a_disk_for_dracut_too() {
    opens_after_one_reseal(DRACUT_KERNEL, &Reference::Given, "disk");
}

#[track_caller]
fn opens_after_one_reseal(kind: Kind, reference: &Reference, delivery: &str) {
    let host = Host::new(Installed::new(kind), "memory = [1024]", reference, delivery);
    if let Reference::Booted = reference {
        host.reference_boot("1").refused(3).says("did not latch within 1 seconds");
        host.reference_boot(LIMIT).ok().says("reseal --template debian");
    }
    host.enroll();
    let installed = &host.installed;

    // Both are other files now, to the kernel the same.
    for (file, bytes) in [("kernel", 16), ("initrd", 4)] {
        let file = installed.machine.path(file);
        let mut content = fs::read(&file).unwrap();
        content.extend(vec![0; bytes]);
        fs::write(file, content).unwrap();
    }
    let mut console = installed.boot(&Boot::new());
    let refusal = console.await_passphrase_prompt();
    assert!(refusal.contains("no signature covers sha256 PCR 0+4+7+9"), "{refusal}");
    drop(console);

    let header = |file: &Path| fs::read(file).unwrap()[..16 << 20].to_vec();
    let volume = installed.guest.volume();
    let before = header(&volume);
    host.reseal().ok().says("changes: PCR 4+9");
    assert!(header(&volume) == before, "the host wrote to the disk");
    host.opens(&installed.hardware());
    assert!(header(&volume) == before, "the header was written");
}

/// The firmware of Debian 12 measures memory and processors, and the kernel as QEMU changed it.
#[test]
#[ignore = "slow: make vm-test-all"]
fn a_machine_that_is_given_more_memory_and_processors_opens() {
    let Installed { machine, guest } = Installed::new(INITRAMFS_KERNEL);
    let machine = machine.with_old_firmware();
    fs::copy(machine.path("variables"), guest.file("vars.fd")).unwrap();
    let installed = Installed { machine, guest };
    let sizes = "memory = [1024, 2048]\ncpus = [1, 2]";
    let host = Host::new(installed, sizes, &Reference::Booted, "fw_cfg");
    host.reference_boot(LIMIT).ok();
    host.enroll();
    let hardware = host.installed.hardware();
    host.opens(&hardware);
    host.opens(&Hardware { memory: 2048, cpus: 2, ..hardware.clone() });
    // A size that the template does not tell of is not approved.
    let mut console =
        host.installed.guest.boot_hardware(&Hardware { memory: 1536, ..hardware }, &Boot::new());
    console.await_passphrase_prompt();
    drop(console);
    // The same boots measure the same.
    let again = host.reference_boot(LIMIT).ok();
    assert!(again.stdout.contains("4 reference boots, as before"), "{again:#?}");
    let again = host.vmseal(&["reseal", "--template", "debian"]).ok();
    assert!(again.stdout.contains("approved already"), "{again:#?}");
}

/// What comes to no latch tells nothing, and leaves nothing.
#[test]
#[ignore = "slow: make vm-test-all"]
fn a_boot_without_a_latch_is_refused_with_what_was_seen() {
    let installed = Installed::new(INITRAMFS_KERNEL);
    // Its init knows nothing of vmseal, and switches off.
    installed.machine.put("initrd", &NEWER.initrd());
    let host = Host::new(installed, "memory = [512]", &Reference::Booted, "fw_cfg");
    let ran = host.reference_boot(LIMIT).refused(3);
    assert!(ran.stderr.contains("ended before its latch: 2"), "{ran:#?}");
    assert!(ran.stderr.contains("the last of PCR 10"), "{ran:#?}");
    assert!(!host.folder.path().join("var/lib/vmseal/references").exists());
}
