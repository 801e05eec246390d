//! `vmseal reference-boot` without a machine: what is refused before one is started, and what a
//! recorded boot is compared with. Whole boots are in `tests/vm`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use testkit::virtual_boot::fixture_folder;
use testkit::{Ran, run};
use vmseal::Error;
use vmseal::artifact::hashing::Memory;
use vmseal::boot::BootLogs;
use vmseal::measurement::{
    Digest, Event, EventLog, EventType, PcrBank, PcrIndex, UserspaceLog, replay,
};
use vmseal::prediction::{DigestTable, Fate, KnownFiles, Spelled};
use vmseal::reference::{
    Accelerator, Extend, Fitted, Recorded, ReferenceError, References, Size, Unfit, compare, fit,
};
use vmseal::template::{Forecaster, MachineKind, Sources, Template};

const BASE: &str = "direct-qemu10.0.13-ovmf2025.02/base";
const KERNEL: &str = "direct-qemu10.0.13-ovmf2025.02/kernel";
const SIZE: Size = Size { memory: 1024, cpus: 1 };

/// A host whose template has all that a boot needs, in files that are none.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(TempDir::with_prefix("vmseal-host-").unwrap());
        for file in ["kernel", "initrd", "code.fd", "vars.fd"] {
            fs::write(host.path(file), file).unwrap();
        }
        host.write(&host.good());
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn good(&self) -> String {
        let folder = self.0.path().display();
        format!(
            "boot = \"kernel\"\nkernel = \"{folder}/kernel\"\ninitrd = \"{folder}/initrd\"\n\
             cmdline = \"quiet\"\nvars = \"{folder}/vars.fd\"\nmemory = [512, 1024]\ncpus = [1, 2]\n\
             [machine]\nfirmware = \"{folder}/code.fd\"\n[delivery]\nkind = \"files\"\n\
             folder = \"{folder}/delivered\"\n"
        )
    }

    fn write(&self, text: &str) {
        let folder = self.path("etc/vmseal/templates.d");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("debian.toml"), text).unwrap();
    }

    fn template(&self) -> Template {
        Template::parse("debian", &self.good()).unwrap()
    }

    fn vmseal(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        run(command.args(arguments).arg("--root").arg(self.0.path()))
    }
}

/// What a reference boot of the fixture's machine would have recorded.
fn recorded(boot: &str) -> Recorded {
    let log = EventLog::parse(&fs::read(fixture_folder(boot).join("log.bin")).unwrap()).unwrap();
    of_log(log)
}

fn of_log(log: EventLog) -> Recorded {
    let values = replay(&log, None).remove(&PcrBank::Sha256).unwrap();
    let extends = log.events().iter().filter(|event| event.extends()).count();
    let logs = Fitted { log, userspace: UserspaceLog::default() };
    Recorded { logs, values, extends, accelerator: Accelerator::Tcg }
}

/// The digests of a boot's files, and a template that names them.
fn files_and_template(boot: &str) -> (DigestTable, Template) {
    let folder = fixture_folder(boot);
    let known = KnownFiles::parse(&fs::read(folder.join("artifacts.json")).unwrap()).unwrap();
    let table = known.files().iter().map(|(path, known)| (Spelled::parse(path), known.clone()));
    let line = fs::read_to_string(folder.join("inputs/append")).unwrap();
    let text = Host::new().good().replace("\"quiet\"", &format!("{:?}", line.trim()));
    let mut template = Template::parse("debian", &text).unwrap();
    template.references = vec![vmseal::template::Reference {
        log: "log".into(),
        userspace: None,
        memory: Some(SIZE.memory),
        cpus: Some(SIZE.cpus),
    }];
    (DigestTable::listed(table), template)
}

fn logs_of(recorded: &Recorded) -> BootLogs {
    BootLogs { firmware: recorded.logs.log.clone(), userspace: None }
}

/// Compares a boot with the files of another one, by their digests.
fn compared(recorded: &Recorded, files: &str) -> Result<(), Error> {
    let ((files, template), memory) = (files_and_template(files), Memory::default());
    let sources = Sources { next: &files, base: None, vars: None, memory: &memory };
    compare(&template, logs_of(recorded), sources, SIZE, recorded)
}

/// The digests of the boot that a recorded one, with the files of another, foretells.
fn foretold(recorded: &Recorded, files: &str) -> Vec<Digest> {
    let (files, template) = files_and_template(files);
    let (logs, memory) = (vec![logs_of(recorded)], Memory::default());
    let sources = Sources { next: &files, base: None, vars: None, memory: &memory };
    let forecaster = Forecaster::new(&template, None, logs, sources).unwrap();
    let kind = MachineKind { memory: Some(SIZE.memory), cpus: Some(SIZE.cpus) };
    let Ok((_, entry)) = forecaster.told(&template.cmdline(""), kind) else { return vec![] };
    let there = entry.events.into_iter().filter(|account| account.fate != Fate::Gone);
    there.flat_map(|account| account.new.unwrap_or_default()).collect()
}

#[test]
fn a_dry_run_prints_a_line_for_each_size_and_starts_nothing() {
    let host = Host::new();
    let ran = host.vmseal(&["reference-boot", "debian", "--dry-run", "--accel", "tcg"]).ok();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 4);
    for (line, size) in lines.iter().zip(["512 -smp 1", "512 -smp 2", "1024 -smp 1", "1024 -smp 2"])
    {
        for part in [
            &format!(" -m {size} "),
            " -nodefaults ",
            " -nic none ",
            " -sandbox on,",
            " -append quiet",
            "spawn=deny",
            "file=/",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("-netdev") && !line.contains("smm=on"), "{line}");
    }
    assert!(!host.path("var").exists());
    let secure = host.good().replace("[machine]", "[machine]\nsecure_boot = true\ntpm = \"tis\"");
    host.write(&secure.replace("secure_boot", "options = [\"-rtc\", \"base=utc\"]\nsecure_boot"));
    let ran = host.vmseal(&["reference-boot", "--all", "--dry-run", "--accel", "tcg", "--json"]);
    let line = ran.ok().json()["templates"][0]["boots"][0]["qemu"].as_str().unwrap().to_owned();
    assert!(line.contains("smm=on") && line.contains("tpm-tis"), "{line}");
    assert!(line.ends_with("-rtc base=utc"), "{line}");
}

#[test]
fn a_dry_run_shows_the_disk_that_a_boot_starts_from() {
    let host = Host::new();
    let folder = host.0.path().display();
    let start = host.good().find("vars =").map(|at| host.good()[at..].to_owned()).unwrap();
    for (boot, drive) in [
        (format!("\"uki\"\nuki = \"{folder}/kernel\""), "format=raw,file=/proc/self/fd/DISK"),
        (
            format!("\"disk\"\nesp = \"{folder}/kernel\""),
            &*format!("format=raw,snapshot=on,file={folder}/kernel"),
        ),
    ] {
        host.write(&format!("boot = {boot}\n{start}"));
        let ran = host.vmseal(&["reference-boot", "debian", "--accel", "tcg", "--dry-run"]).ok();
        let wanted =
            format!("-drive if=none,id=disk,{drive} -device virtio-blk-pci,drive=disk,bootindex=0");
        assert!(ran.stdout.contains(&wanted) && !ran.stdout.contains("-kernel"), "{ran:#?}");
    }
}

#[test]
fn what_cannot_be_booted_is_refused_with_what_to_do() {
    let host = Host::new();
    let change = |from: &str, to: &str| {
        let good = host.good();
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    let kernel = format!("\"{}\"", host.path("kernel").display());
    let gone = format!("\"{}\"", host.path("gone").display());
    let code = format!("\"{}\"", host.path("code.fd").display());
    let own = "[machine]\nqemu = \"/bin/false\"";
    for (text, cause, remedy) in [
        (change("vars =", "#"), "names no vars", "[machine]"),
        (change("firmware =", "#"), "names no firmware", "[machine]"),
        (change(&kernel, "\"@/srv/digests.json\""), "a list of digests cannot be booted", "form"),
        (change(&kernel, &gone), "gone: No such file", "path"),
        (change(&code, &gone), "gone: No such file", "path"),
        (
            change("[machine]", "[machine]\nqemu = \"/gone\""),
            "/gone: it is not installed",
            "install",
        ),
        (change("[machine]", own), "it tells no version", "install"),
        (change("cmdline", "qemu = \"7.2\"\ncmdline"), "run on QEMU 7.2", "name the QEMU"),
    ] {
        host.write(&text);
        let ran = host.vmseal(&["reference-boot", "debian", "--accel", "tcg"]).refused(3);
        assert!(ran.stderr.contains(cause) && ran.stderr.contains(remedy), "{cause}: {ran:#?}");
        assert!(!host.path("var/lib/vmseal/references").exists());
    }
    let folder = host.0.path().display();
    let start = host.good().find("vars =").map(|at| host.good()[at..].to_owned()).unwrap();
    for (boot, cause) in [
        (format!("\"disk\"\nesp = \"{folder}\""), "is a folder, which no firmware starts from"),
        (
            format!("\"disk\"\nesp = \"{folder}/kernel\"\nboot_volume = \"{folder}/initrd\""),
            "initrd lies in a partition table that is not told",
        ),
        (format!("\"uki\"\nuki = \"{folder}\""), "it is no file"),
    ] {
        host.write(&format!("boot = {boot}\n{start}"));
        let ran = host.vmseal(&["reference-boot", "debian", "--accel", "tcg"]).refused(3);
        assert!(ran.stderr.contains(cause), "{cause}: {ran:#?}");
        let remedy = if boot.contains("uki") { "check the path" } else { "[[reference]]" };
        assert!(ran.stderr.contains(remedy), "{ran:#?}");
        assert!(!host.path("var/lib/vmseal/references").exists());
    }
    host.vmseal(&["reference-boot", "other"]).refused(3).says("no template");
    host.vmseal(&["reference-boot"]).code(2);
    host.vmseal(&["reference-boot", "--dry-run"]).code(2);
}

/// What is killed cannot clean up after itself; the next boot does.
#[test]
fn a_boot_that_was_killed_leaves_nothing_to_the_next_one() {
    let host = Host::new();
    // A firmware that does nothing but jump to where it is.
    fs::write(host.path("code.fd"), [0xeb, 0xfe].repeat(1 << 15)).unwrap();
    fs::write(host.path("vars.fd"), vec![0; 1 << 16]).unwrap();
    let folder = host.0.path().display();
    host.write(&format!(
        "boot = \"disk\"\nimage = \"{folder}/vars.fd\"\nvars = \"{folder}/vars.fd\"\n\
         memory = [64]\n[machine]\nfirmware = \"{folder}/code.fd\"\n"
    ));
    let scratch = host.path("tmp");
    fs::create_dir(&scratch).unwrap();
    // QEMU and swtpm are nobody's, and need a place as /tmp is.
    for folder in [host.0.path(), &scratch] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o1777)).unwrap();
    }
    let command = |limit: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmseal"));
        command.args(["reference-boot", "debian", "--accel", "tcg", "--limit", limit]);
        command.arg("--root").arg(host.0.path()).env("TMPDIR", &scratch);
        command
    };
    let left = || fs::read_dir(&scratch).unwrap().map(|it| it.unwrap().path()).collect::<Vec<_>>();
    let mut killed = command("300").stderr(std::process::Stdio::null()).spawn().unwrap();
    while !left().iter().any(|folder| folder.join("tpm2-00.permall").exists()) {
        assert_eq!(killed.try_wait().unwrap(), None, "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(left().len(), 1);
    run(&mut command("1")).refused(3).says("did not latch within 1 seconds");
    assert_eq!(left(), [""; 0].map(PathBuf::from));
}

#[test]
fn a_reseal_starts_from_what_was_recorded_until_machine_or_firmware_change() {
    let host = Host::new();
    // The variables of this host are none.
    let good = || host.good().replace("vars =", "#");
    host.write(&good());
    host.vmseal(&["authority", "init", "debian"]).ok();
    let reseal = || host.vmseal(&["reseal", "--template", "debian", "--dry-run"]);
    reseal().refused(3).says("no reference boot").says("vmseal reference-boot");
    let mut references = References::of(host.0.path(), "debian").unwrap();
    let boots = [(SIZE, recorded(BASE))];
    let changed = references.keep(&host.template(), (10, 0), &boots).unwrap();
    assert_eq!(changed, [SIZE]);
    reseal().ok();
    let again = References::of(host.0.path(), "debian").unwrap();
    assert_eq!(again, references);
    assert_eq!(references.keep(&host.template(), (10, 0), &boots).unwrap(), []);
    let log = references.path(&references.entries()[0].log);
    assert_eq!(fs::read(&log).unwrap(), boots[0].1.logs.log.to_bytes());
    // Another one takes its place, and its log goes.
    let other = [(SIZE, recorded(KERNEL))];
    assert_eq!(references.keep(&host.template(), (10, 0), &other).unwrap(), [SIZE]);
    assert!(!log.exists());

    host.write(&good().replace("[machine]", "[machine]\ntype = \"pc-q35-9.0\""));
    reseal().refused(3).says("of another machine").says("boot it anew");
    host.write(&good());
    fs::write(host.path("code.fd"), "an update of it").unwrap();
    reseal().refused(3).says("of another firmware");
    fs::write(host.path("code.fd"), "code.fd").unwrap();
    reseal().ok();
    // A log that is given by hand wins.
    let given = format!("[[reference]]\nlog = \"{}\"\n[machine]", host.path("gone.log").display());
    host.write(&good().replace("[machine]", &given));
    reseal().refused(3).says("gone.log");
    host.write(&good());
    let index = host.path("var/lib/vmseal/references/debian/index.json");
    fs::set_permissions(&index, fs::Permissions::from_mode(0o646)).unwrap();
    reseal().refused(3).says("others than its owner");
    fs::set_permissions(&index, fs::Permissions::from_mode(0o644)).unwrap();
    for (from, to) in
        [("\"version\": 1", "\"version\": 2"), ("-1-", "/../"), ("debian", "other"), ("{", "")]
    {
        let good = fs::read_to_string(&index).unwrap();
        fs::write(&index, good.replacen(from, to, 1)).unwrap();
        reseal().refused(3).says("index.json");
        fs::write(&index, good).unwrap();
    }
}

#[test]
fn a_boot_follows_from_its_own_files_and_from_no_others() {
    compared(&recorded(BASE), BASE).unwrap();
    let Err(Error::Reference(ReferenceError::Foretold { pcr, event })) =
        compared(&recorded(BASE), KERNEL)
    else {
        panic!("another kernel")
    };
    assert!(pcr.get() == 4 && event.contains("kernel"), "{event}");
}

/// Whatever extends PCR 15 first ends the boot: what is not measured by then is not covered.
#[test]
fn a_latch_before_the_kernel_covers_nothing() {
    let log = recorded(BASE).logs.log;
    let of_kernel = |event: &Event| event.event_type == EventType::EventTag;
    let end = log.events().iter().position(of_kernel).unwrap();
    let early = EventLog::from_events(log.format().clone(), log.events()[..end].to_vec());
    let refused = compared(&of_log(early), BASE);
    assert!(matches!(refused, Err(Error::NotCovered { .. })), "{refused:?}");
}

/// A log with the digests that were seen, and lies about what they are of: whatever would be signed is
/// made of those digests, or of the files'.
#[test]
fn a_log_that_lies_beside_its_digests_brings_nothing_new() {
    let honest = recorded(BASE);
    let mut known: Vec<Digest> = foretold(&honest, KERNEL);
    known.extend(foretold(&honest, BASE));
    let events = honest.logs.log.events().to_vec();
    let (mut taken, mut refused) = (0, 0);
    for (index, event) in events.iter().enumerate().filter(|(_, event)| event.extends()) {
        for (lie, raw) in [
            (EventType::Separator, event.raw.clone()),
            (EventType::EventTag, event.raw.clone()),
            (event.event_type, b"kernel".to_vec()),
            (EventType::EfiBootServicesApplication, events[14].raw.clone()),
        ] {
            let mut events = events.clone();
            (events[index].event_type, events[index].raw) = (lie, raw);
            let log = EventLog::from_events(honest.logs.log.format().clone(), events);
            let fitted = fit([log], &extends(&honest.logs.log), PcrBank::Sha256).unwrap();
            let lying = Recorded { logs: fitted, ..honest.clone() };
            if compared(&lying, BASE).is_err() {
                refused += 1;
                continue;
            }
            taken += 1;
            let foreign = foretold(&lying, KERNEL).into_iter().find(|it| !known.contains(it));
            assert_eq!(foreign, None, "event {index} as {lie}");
        }
    }
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
}

#[test]
fn a_digest_that_was_not_seen_is_refused_wherever_it_stands() {
    let honest = recorded(BASE);
    let seen = extends(&honest.logs.log);
    for index in 0..seen.len() {
        let mut other = seen.clone();
        other[index].digests[0].bytes[0] ^= 1;
        let unfit = fit([honest.logs.log.clone()], &other, PcrBank::Sha256).unwrap_err();
        assert!(matches!(unfit, Unfit::Differs { told, .. } if told <= index), "{unfit}");
    }
}

fn extends(log: &EventLog) -> Vec<Extend> {
    let events = log.events().iter().filter(|event| event.extends());
    let extend = |event: &Event| Extend {
        pcr: PcrIndex::new(event.pcr.into()).unwrap(),
        digests: event.digests.clone(),
    };
    events.map(extend).collect()
}
