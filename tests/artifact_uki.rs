//! Images built by ukify, beside what systemd's own tools say of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testkit::machine::project;
use testkit::{Systemd, run};
use vmseal::artifact::stub::{Sidecar, StubBoot};
use vmseal::artifact::uki::Uki;
use vmseal::artifact::{Content, Found, Measured, Pending, Source, efi_stub, ucs2};
use vmseal::measurement::{PcrBank, PcrIndex, PcrValues};

struct OnDisk(File);

impl OnDisk {
    fn open(path: &Path) -> Self {
        Self(File::open(path).unwrap())
    }
}

impl Source for OnDisk {
    fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

/// Inputs of an image in a folder of their own.
struct Parts {
    folder: TempDir,
}

impl Parts {
    fn new() -> Self {
        let parts = Self { folder: tempfile::tempdir().unwrap() };
        parts.write("osrel", b"ID=test\nVERSION_ID=1\n");
        parts.write("cmdline", b"root=/dev/vda1 quiet\n");
        parts.write("initrd", &[0x5a; 70_001]);
        parts.write("ucode", &[0xa5; 9_999]);
        run(&mut Systemd::Trixie.command("true")).ok();
        let boot = fs::read_dir(project().join(".cache/trixie/boot")).unwrap();
        let mut files = boot.map(|entry| entry.unwrap().path());
        let kernel = files.find(|path| path.to_str().unwrap().contains("vmlinuz")).unwrap();
        fs::copy(kernel, parts.path("linux")).unwrap();
        parts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn option(&self, option: &str, name: &str) -> String {
        format!("--{option}={}", self.path(name).display())
    }

    fn ukify(&self, output: &str, options: &[String]) {
        let mut command = Systemd::Trixie.command("ukify");
        command.arg("build").arg(self.option("output", output)).args(options);
        run(&mut command).ok();
    }
}

fn pcr(measured: &[Measured], index: PcrIndex, bank: PcrBank) -> String {
    let mut values = PcrValues::after_reset(bank);
    for event in measured.iter().filter(|event| event.pcr == index) {
        values.extend(index, event.digest(bank).unwrap().as_bytes());
    }
    values.get(index).unwrap().to_string()
}

fn boot<'a>(image: &'a Uki<'a>) -> StubBoot<'a> {
    StubBoot {
        image,
        load_options: vec![],
        secure_boot: false,
        smbios_cmdline: None,
        own: vec![],
        addons: vec![],
        credentials: vec![],
        extensions: vec![],
    }
}

#[test]
fn pcr_11_is_what_systemd_measure_says() {
    let parts = Parts::new();
    let inputs = ["linux", "initrd"].map(|name| parts.option(name, name));
    let text = ["cmdline", "osrel"].map(|name| {
        let option = if name == "osrel" { "os-release" } else { name };
        format!("--{option}=@{}", parts.path(name).display())
    });
    let mut options = [inputs.as_slice(), &text].concat();
    options.extend([parts.option("microcode", "ucode"), "--uname=6.12".into()]);
    parts.ukify("uki.efi", &options);

    let file = OnDisk::open(&parts.path("uki.efi"));
    let image = Uki::open(&file).unwrap();
    assert_eq!(image.release(), Ok(257));
    let events = boot(&image).events().unwrap();
    let measured = Pending::measure(&events, &PcrBank::ALL).unwrap();

    // What systemd-measure is to measure: the sections as they are in the image.
    let sections = image.sections(257, 0).unwrap();
    let mut command = Systemd::Trixie.command("/usr/lib/systemd/systemd-measure");
    command.args(["calculate", "--phase=:", "--json=short"]);
    for section in ["linux", "osrel", "cmdline", "initrd", "ucode", "uname", "sbat"] {
        let found = sections.get(&format!(".{section}")).expect(section);
        let mut bytes = vec![0; found.virtual_size as usize];
        file.read_exact_at(found.raw_start.into(), &mut bytes).unwrap();
        parts.write(section, &bytes);
        command.arg(parts.option(section, section));
    }
    let said = run(&mut command).ok().json();
    for bank in PcrBank::ALL {
        let expected = said[bank.name()][0]["hash"].as_str().unwrap();
        assert_eq!(pcr(&measured, PcrIndex::KERNEL_BOOT, bank), expected, "{bank}");
    }

    // The kernel in the image is measured as the same kernel by itself.
    let kernel = run(Command::new("pesign").arg("-h").arg("-i").arg(parts.path("linux"))).ok();
    let inner = measured.iter().find(|event| event.pcr == PcrIndex::BOOT_LOADER_CODE).unwrap();
    let inner = inner.digest(PcrBank::Sha256).unwrap();
    assert_eq!(kernel.stdout.trim(), format!("hash: {inner}"));
}

/// What a `.pcrlock` file expects in a PCR, in order.
fn locked(path: &Path, pcr: PcrIndex, bank: PcrBank) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let records = json["records"].as_array().unwrap().iter();
    let of_pcr = records.filter(|record| record["pcr"] == pcr.get());
    let digest = |record: &serde_json::Value| {
        let digests = record["digests"].as_array().unwrap();
        let of_bank = digests.iter().find(|digest| digest["hashAlg"] == bank.name()).unwrap();
        of_bank["digest"].as_str().unwrap().to_owned()
    };
    of_pcr.map(digest).collect()
}

/// systemd-pcrlock knows an image and its sections; the kernel inside it, and its words, apart.
#[test]
fn pcrlock_expects_the_same() {
    let parts = Parts::new();
    let mut options = ["linux", "initrd"].map(|name| parts.option(name, name)).to_vec();
    options.push(format!("--cmdline=@{}", parts.path("cmdline").display()));
    options.extend([format!("--os-release=@{}", parts.path("osrel").display())]);
    options.push("--uname=6.12".into());
    parts.ukify("uki.efi", &options);
    let lock = |verb: &str, input: &str| {
        let mut command = Systemd::Trixie.command("/usr/lib/systemd/systemd-pcrlock");
        command.arg(verb).arg(parts.path(input)).arg(parts.option("pcrlock", "expected"));
        run(&mut command).ok();
        parts.path("expected")
    };
    let file = OnDisk::open(&parts.path("uki.efi"));
    let image = Uki::open(&file).unwrap();
    let events = boot(&image).events().unwrap();
    let itself = Pending::measure(&[image.image()], &PcrBank::ALL).unwrap();
    let measured = Pending::measure(&events, &PcrBank::ALL).unwrap();
    let of = |measured: &[Measured], pcr: PcrIndex, bank: PcrBank| -> Vec<String> {
        let of_pcr = measured.iter().filter(|event| event.pcr == pcr);
        of_pcr.map(|event| event.digest(bank).unwrap().to_string()).collect()
    };
    let expected = lock("lock-uki", "uki.efi");
    for bank in PcrBank::ALL {
        let (code, kernel) = (PcrIndex::BOOT_LOADER_CODE, PcrIndex::KERNEL_BOOT);
        assert_eq!(locked(&expected, code, bank), of(&itself, code, bank), "{bank}");
        assert_eq!(locked(&expected, kernel, bank), of(&measured, kernel, bank), "{bank}");
    }
    let expected = lock("lock-pe", "linux");
    let inner = of(&measured, PcrIndex::BOOT_LOADER_CODE, PcrBank::Sha384);
    assert_eq!(locked(&expected, PcrIndex::BOOT_LOADER_CODE, PcrBank::Sha384), inner);
    let words = ucs2::with_nul(&ucs2::widen(b"root=/dev/vda1 quiet"));
    let initrd = Found::Bytes(Box::new(OnDisk::open(&parts.path("initrd"))));
    let said = [
        ("lock-kernel-cmdline", "cmdline", efi_stub::load_options(&words)),
        ("lock-kernel-initrd", "initrd", efi_stub::initrd(Content::of_file(&initrd))),
    ];
    for (verb, input, event) in said {
        let measured = Pending::measure(&[event.unwrap()], &PcrBank::ALL).unwrap();
        let (pcr, bank) = (PcrIndex::KERNEL_INITRD, PcrBank::Sha256);
        assert_eq!(locked(&lock(verb, input), pcr, bank), of(&measured, pcr, bank), "{verb}");
    }
}

#[test]
fn profiles_and_addons_of_ukify_are_understood() {
    let parts = Parts::new();
    parts.ukify("profile.efi", &["--profile=ID=rescue".into(), "--cmdline=single".into()]);
    let mut options = ["linux", "initrd"].map(|name| parts.option(name, name)).to_vec();
    options.extend(["--cmdline=quiet".into(), "--profile=ID=main".into()]);
    options.push(parts.option("join-profile", "profile.efi"));
    parts.ukify("uki.efi", &options);
    parts.ukify("a.addon.efi", &["--cmdline=extra=1".into()]);

    let file = OnDisk::open(&parts.path("uki.efi"));
    let addon = OnDisk::open(&parts.path("a.addon.efi"));
    let image = Uki::open(&file).unwrap();
    let own = vec![Sidecar { name: "a.addon.efi".into(), source: &addon }];
    let load_options = "@1".encode_utf16().collect();
    let events = StubBoot { load_options, own, ..boot(&image) }.events().unwrap();
    let measured = Pending::measure(&events, &[PcrBank::Sha256]).unwrap();
    let wide = |text: &str| -> String {
        let bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        PcrBank::Sha256.hash(&bytes).to_string()
    };
    let digests = |pcr: PcrIndex| -> Vec<String> {
        let events = measured.iter().filter(|event| event.pcr == pcr);
        events.map(|event| event.digests[0].to_string()).collect()
    };
    assert_eq!(digests(PcrIndex::KERNEL_CONFIG), [wide("1"), wide("extra=1")]);
    assert_eq!(digests(PcrIndex::KERNEL_INITRD)[0], wide("single extra=1"));
    let by_pesign = run(Command::new("pesign").arg("-h").arg("-i").arg(parts.path("a.addon.efi")));
    let addon = digests(PcrIndex::BOOT_LOADER_CODE).swap_remove(0);
    assert_eq!(by_pesign.ok().stdout.trim(), format!("hash: {addon}"));
}
