//! `vmseal predict` against recorded boots: from the log of one, the PCRs of another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use vmseal::artifact::efivar::LoggedVariable;
use vmseal::measurement::EventLog;

/// What is compared: all that an approved boot may be sealed to, PCR 1 apart.
const COMPARED: [u8; 13] = [0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14];

fn fixture(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eventlogs").join(case)
}

/// Runs `vmseal predict` on the log of `base`; in `args`, `BASE` and `NEW` are the two cases' folders.
fn predict(base: &str, new: &str, args: &[&str]) -> Output {
    let (base, new) = (fixture(base), fixture(new));
    let named = |arg: &&str| {
        arg.replace("BASE", base.to_str().unwrap()).replace("NEW", new.to_str().unwrap())
    };
    Command::new(env!("CARGO_BIN_EXE_vmseal"))
        .args(["predict", "--json", "--base-log"])
        .arg(base.join("log.bin"))
        .args(args.iter().map(named))
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn default_entry(prediction: &Value) -> &Value {
    let entries = prediction["entries"].as_array().unwrap();
    let mut defaults = entries.iter().filter(|entry| entry["default"] == true);
    let default = defaults.next().expect("a default entry");
    assert!(defaults.next().is_none(), "more than one default");
    default
}

/// For each PCR that is compared: whether it is as measured, another, or not told.
fn compare(entry: &Value, measured: &Value) -> Vec<(u8, &'static str)> {
    COMPARED
        .iter()
        .map(|pcr| {
            let index = pcr.to_string();
            let told = &entry["pcrs"]["sha256"][&index];
            let open = entry["unpredictable"].as_array().unwrap();
            let is_open = open.iter().any(|found| found["pcr"] == *pcr);
            assert_eq!(
                told.is_null(),
                is_open,
                "PCR {pcr}: a value, or a reason why there is none"
            );
            (
                *pcr,
                match told {
                    Value::Null => "?",
                    told if *told == measured["sha256"][&index] => "=",
                    _ => "X",
                },
            )
        })
        .collect()
}

fn measured(case: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(case).join("pcrs.json")).unwrap()).unwrap()
}

/// Base, other case, and how the other is told.
type Case = (&'static str, &'static str, &'static [&'static str]);

const TREES: &[&str] = &[
    "--base-boot",
    "BASE/inputs/boot",
    "--boot",
    "NEW/inputs/boot",
    "--set",
    "@NEW/artifacts.json",
];
const SHIM_TREES: &[&str] = &[
    "--base-boot",
    "BASE/inputs/boot",
    "--boot",
    "NEW/inputs/boot",
    "--base-esp",
    "BASE/inputs/esp",
    "--esp",
    "NEW/inputs/esp",
    "--set",
    "@NEW/artifacts.json",
];
const HAND_WRITTEN: &[&str] = &[
    "--base-esp",
    "BASE/esp",
    "--esp",
    "NEW/esp",
    "--set",
    "deb/vmlinuz=@NEW/artifacts.json",
    "--set",
    "deb/initrd=@NEW/artifacts.json",
];
const ENTRY: &[&str] = &[
    "--esp",
    "NEW/esp",
    "--set",
    "deb/vmlinuz=@NEW/artifacts.json",
    "--set",
    "deb/initrd=@NEW/artifacts.json",
];
const ENTRY_BY_DIGESTS: &[&str] =
    &["--set", "deb/vmlinuz=@NEW/artifacts.json", "--set", "deb/initrd=@NEW/artifacts.json"];
const UKI: &[&str] =
    &["--set", "EFI/BOOT/BOOTX64.EFI=@NEW/artifacts.json", "--cmdline", "@NEW/cmdline"];
const SDBOOT_UKI: &[&str] = &[
    "--esp",
    "NEW/esp",
    "--set",
    "EFI/Linux/deb.efi=@NEW/artifacts.json",
    "--cmdline",
    "@NEW/cmdline",
];
const ADDON: &[&str] =
    &["--esp", "NEW/inputs/esp", "--set", "@NEW/artifacts.json", "--cmdline", "@NEW/cmdline"];
const DIRECT: &[&str] = &[
    "--set",
    "kernel=@NEW/artifacts.json",
    "--set",
    "initrd=@NEW/artifacts.json",
    "--cmdline",
    "@NEW/inputs/append",
];
/// The trees to come alone: the script that ran is gone.
const NEW_TREES: &[&str] =
    &["--boot", "NEW/inputs/boot", "--esp", "NEW/inputs/esp", "--set", "@NEW/artifacts.json"];
const NEW_BOOT: &[&str] = &["--boot", "NEW/inputs/boot", "--set", "@NEW/artifacts.json"];
const NEW_HAND_WRITTEN: &[&str] = &[
    "--esp",
    "NEW/esp",
    "--set",
    "deb/vmlinuz=@NEW/artifacts.json",
    "--set",
    "deb/initrd=@NEW/artifacts.json",
];
/// Digests of what is in the trees too: its text is not lost by them.
const TREES_AND_DIGESTS: &[&str] = &[
    "--base-boot",
    "BASE/inputs/boot",
    "--boot",
    "NEW/inputs/boot",
    "--set",
    "boot/grub/grub.cfg=@NEW/artifacts.json",
    "--set",
    "boot/grub/grubenv=@NEW/artifacts.json",
    "--set",
    "boot/grub/x86_64-efi/moddep.lst=@NEW/artifacts.json",
    "--set",
    "@NEW/artifacts.json",
];
const ENTRY_AND_DIGESTS: &[&str] = &[
    "--esp",
    "NEW/esp",
    "--set",
    "loader/entries/deb.conf=@NEW/artifacts.json",
    "--set",
    "loader/loader.conf=@NEW/artifacts.json",
    "--set",
    "@NEW/artifacts.json",
];
const NEW_QEMU: &str = "direct-qemu10.0.13-ovmf2025.02/base";

const CASES: &[Case] = &[
    ("sdboot/base", "sdboot/base", ENTRY),
    ("sdboot/base", "sdboot/kernel", ENTRY),
    ("sdboot/base", "sdboot/initrd", ENTRY),
    ("sdboot/base", "sdboot/cmdline", ENTRY),
    ("sdboot/base", "sdboot/kernel", ENTRY_BY_DIGESTS),
    ("sdboot/base", "sdboot/initrd", ENTRY_BY_DIGESTS),
    ("sdboot/base", "sdboot/cmdline", &["--cmdline", "@NEW/cmdline"]),
    ("sdboot/kernel", "sdboot/base", ENTRY_BY_DIGESTS),
    ("grub/base", "grub/base", HAND_WRITTEN),
    ("grub/base", "grub/initrd", HAND_WRITTEN),
    ("grub/base", "grub/cmdline", HAND_WRITTEN),
    ("grub/base", "grub/initrd", ENTRY_BY_DIGESTS),
    ("uki/base", "uki/base", UKI),
    ("uki/base", "uki/cmdline", UKI),
    ("sdboot-uki/base", "sdboot-uki/cmdline", SDBOOT_UKI),
    ("sdboot-deb13/uki-base", "sdboot-deb13/uki-addon", ADDON),
    ("grub-tpm-deb13/base", "grub-tpm-deb13/base", TREES),
    ("grub-tpm-deb13/base", "grub-tpm-deb13/cmdline", TREES),
    ("grub-tpm-deb13/base", "grub-tpm-deb13/initrd", TREES),
    ("grub-tpm-deb13/base", "grub-tpm-deb13/kernel3", TREES),
    ("grub-tpm-deb13/saved-base", "grub-tpm-deb13/next-older", TREES),
    ("grub-real-deb13/base", "grub-real-deb13/kernel3", TREES),
    ("shim-nosb-deb13/base", "shim-nosb-deb13/cmdline", SHIM_TREES),
    ("sdboot/base", "sdboot/cmdline", ENTRY_AND_DIGESTS),
    ("grub/base", "grub/cmdline", NEW_HAND_WRITTEN),
    ("grub-tpm-deb13/base", "grub-tpm-deb13/kernel3", TREES_AND_DIGESTS),
    ("grub-tpm-deb13/base", "grub-tpm-deb13/cmdline", NEW_BOOT),
    ("grub-tpm-deb13/base", "grub-tpm-deb13/initrd", NEW_BOOT),
    ("grub-tpm-deb13/base", "grub-tpm-deb13/kernel3", NEW_BOOT),
    ("grub-tpm-deb13/saved-base", "grub-tpm-deb13/next-older", NEW_BOOT),
    ("grub-real-deb13/base", "grub-real-deb13/kernel3", NEW_BOOT),
    ("shim-nosb-deb13/base", "shim-nosb-deb13/cmdline", NEW_TREES),
    (NEW_QEMU, "direct-qemu10.0.13-ovmf2025.02/cmdline", DIRECT),
    (NEW_QEMU, "direct-qemu10.0.13-ovmf2025.02/kernel", DIRECT),
    (NEW_QEMU, "direct-qemu10.0.13-ovmf2025.02/m2048", &["--mem", "2048"]),
];

#[test]
fn every_recorded_change_is_predicted() {
    let mut table = String::new();
    let mut wrong = 0;
    for (base, new, args) in CASES {
        let prediction = json(&predict(base, new, args));
        let row = compare(default_entry(&prediction), &measured(new));
        wrong += row.iter().filter(|(_, found)| *found != "=").count();
        let shown: Vec<String> = row.iter().map(|(pcr, found)| format!("{pcr}{found}")).collect();
        writeln!(table, "{new:40} {}", shown.join(" ")).unwrap();
    }
    std::io::Write::write_all(&mut std::io::stdout(), table.as_bytes()).unwrap();
    assert_eq!(wrong, 0, "\n{table}");
}

/// The value of a variable as the log of a boot holds it.
fn variable(case: &str, name: &str) -> Vec<u8> {
    let log = EventLog::parse(&fs::read(fixture(case).join("log.bin")).unwrap()).unwrap();
    let raws = log.events().iter().filter(|event| event.pcr == 7).map(|event| &event.raw);
    let found = raws.filter_map(|raw| LoggedVariable::parse(raw)).find(|v| v.name == name);
    found.unwrap().data.to_vec()
}

#[test]
fn a_database_update_is_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let (base, new) = ("uki-secureboot-db/base", "uki-secureboot-db/db-append");
    let (old, value) = (variable(base, "db"), variable(new, "db"));
    // The whole new value, and only what is added to it: the firmware merges either.
    let added = value.strip_prefix(old.as_slice()).unwrap();
    for (name, bytes) in [("db", added), ("db", &value), ("db:value", &value)] {
        let file = folder.path().join("update.esl");
        fs::write(&file, bytes).unwrap();
        let set = format!("{name}={}", file.display());
        let prediction = json(&predict(base, new, &["--set", &set]));
        let row = compare(default_entry(&prediction), &measured(new));
        assert!(row.iter().all(|(_, found)| *found == "="), "{name}: {row:?}");
    }
    let file = folder.path().join("no.esl");
    fs::write(&file, b"not a signature list").unwrap();
    let output = predict(base, new, &["--set", &format!("db={}", file.display())]);
    assert_eq!(output.status.code(), Some(3));
}

/// An initrd of dracut measures before the volumes are opened; the PCRs of the running system come
/// later.
#[test]
fn the_seal_point_of_a_full_guest_has_what_its_initrd_measured() {
    for case in ["full-uki/a", "full-uki/b-cmdline"] {
        let bare = json(&predict(case, case, &[]));
        let with = json(&predict(case, case, &["--userspace-log", "BASE/userspace.log"]));
        let pcr_11 = |prediction: &Value| {
            default_entry(prediction)["pcrs"]["sha256"]["11"].as_str().unwrap().to_owned()
        };
        let word = vmseal::measurement::PcrBank::Sha256.hash(b"enter-initrd");
        let before = vmseal::measurement::Digest::from_hex(word.bank(), &pcr_11(&bare)).unwrap();
        assert_eq!(pcr_11(&with), before.extended_with(word.as_bytes()).to_string(), "{case}");
        assert_eq!(default_entry(&with)["pcrs"]["sha256"]["15"], "0".repeat(64), "{case}");
    }
}

#[test]
fn every_bank_of_the_log_is_predicted_and_only_those_asked_for() {
    let case = "banks/all-four";
    let prediction = json(&predict(case, case, &[]));
    let measured = measured(case);
    let banks = default_entry(&prediction)["pcrs"].as_object().unwrap();
    let names: Vec<&String> = banks.keys().collect();
    assert_eq!(names, ["sha1", "sha256", "sha384", "sha512"]);
    for (bank, values) in banks.iter().filter(|(bank, _)| !measured[bank.as_str()].is_null()) {
        for pcr in ["0", "2", "4", "7"] {
            assert_eq!(values[pcr], measured[bank][pcr], "{bank} PCR {pcr}");
        }
    }
    let one = json(&predict(case, case, &["--bank", "sha384"]));
    let names: Vec<&String> = default_entry(&one)["pcrs"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["sha384"]);
}

#[test]
fn what_is_not_known_is_named_and_not_guessed() {
    // The image is known by its digest, its sections are not.
    let args = ["--set", "EFI/BOOT/BOOTX64.EFI=@NEW/artifacts.json"];
    let prediction = json(&predict("uki/base", "uki/kernel", &args));
    let row = compare(default_entry(&prediction), &measured("uki/kernel"));
    let open: Vec<u8> =
        row.iter().filter(|(_, found)| *found == "?").map(|(pcr, _)| *pcr).collect();
    assert_eq!(open, [4, 9, 11]);
    assert!(row.iter().all(|(_, found)| *found != "X"), "{row:?}");
    // A script changes, and that of the boot that ran is not there; a command is new to both.
    let folder = tempfile::tempdir().unwrap();
    let script = fs::read_to_string(fixture("grub/cmdline/esp/EFI/BOOT/grub.cfg")).unwrap();
    let path = folder.path().join("EFI/BOOT/grub.cfg");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("if cryptomount -a; then set x=1; fi\n{script}")).unwrap();
    let esp = folder.path().to_str().unwrap();
    let prediction = json(&predict("grub/base", "grub/cmdline", &["--esp", esp]));
    let open = default_entry(&prediction)["unpredictable"].as_array().unwrap();
    assert!(open.iter().any(|found| found["pcr"] == 8), "{open:?}");
    // Another GRUB may have other modules in its image than the log of the last one shows.
    let other = fixture("shim-nosb-deb13/base/artifacts.json");
    let other = format!("EFI/BOOT/BOOTX64.EFI=@{}", other.display());
    let args: Vec<&str> = NEW_BOOT.iter().copied().chain(["--set", &other]).collect();
    let base = "grub-tpm-deb13/base";
    for new in ["grub-tpm-deb13/kernel3", "grub-tpm-deb13/initrd"] {
        let row = compare(default_entry(&json(&predict(base, new, &args))), &measured(new));
        assert_eq!(row.iter().find(|(pcr, _)| *pcr == 9), Some(&(9, "?")), "{new}: {row:?}");
    }
    // QEMU writes into the header of a kernel that is not at hand.
    let old = "direct-qemu10.0.2-ovmf2022.11/base";
    let new = "direct-qemu10.0.2-ovmf2022.11/initrd";
    let prediction = json(&predict(old, new, &["--set", "initrd=@NEW/artifacts.json"]));
    let row = compare(default_entry(&prediction), &measured(new));
    for (pcr, found) in row {
        assert_eq!(found, if pcr == 4 { "?" } else { "=" }, "PCR {pcr}");
    }
}

#[test]
fn every_entry_of_the_menu_is_predicted_and_can_be_asked_for() {
    let (base, new) = ("grub-tpm-deb13/saved-base", "grub-tpm-deb13/next-older");
    let all = json(&predict(base, new, TREES));
    let entries = all["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 5, "{:?}", entries.iter().map(|e| &e["id"]).collect::<Vec<_>>());
    // The boot that `next_entry` asks for rewrites grubenv, which the one after it reads.
    let then = default_entry(&all["then"]);
    assert_ne!(then["id"], default_entry(&all)["id"]);
    assert_ne!(then["pcrs"]["sha256"]["9"], default_entry(&all)["pcrs"]["sha256"]["9"]);
    for wanted in [&["--kernel-release", "6.1.0-56-cloud-amd64"], &["--entry", "1>2"]] {
        let args: Vec<&str> = TREES.iter().chain(wanted).copied().collect();
        let some = json(&predict(base, new, &args));
        let some = some["entries"].as_array().unwrap();
        assert!(!some.is_empty() && some.len() < 5, "{wanted:?}: {}", some.len());
        assert!(some.iter().all(|entry| entry["id"].as_str().unwrap().contains("6.1.0-56")));
    }
}

#[test]
fn refusals_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let log = fs::read(fixture("sdboot/base").join("log.bin")).unwrap();
    let cut = file("cut", &log[..log.len() - 7]);
    let empty = file("empty", b"");
    let not_json = file("not.json", b"{");
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_vmseal")).arg("predict").args(args).output().unwrap()
    };
    let whole = fixture("sdboot/base/log.bin");
    let whole = whole.to_str().unwrap();
    let artifacts = fixture("sdboot/base/artifacts.json");
    let unknown = format!("no/such=@{}", artifacts.display());
    let broken = format!("deb/vmlinuz=@{not_json}");
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--base-log", &cut], 3, "truncated in event"),
        (&["--base-log", &empty], 3, "empty"),
        (&["--base-log", "/no/such/log"], 3, "no event log"),
        (&["--base-log", whole, "--set", "deb/vmlinuz"], 2, "expected PATH=FILE"),
        (&["--base-log", whole, "--set", "deb/vmlinuz=/no/such"], 3, "/no/such"),
        (&["--base-log", whole, "--set", &unknown], 3, "it has"),
        (&["--base-log", whole, "--set", &broken], 3, "not.json"),
        (&["--base-log", whole, "--entry", "none"], 2, "there are: deb/vmlinuz"),
        (&["--base-log", whole, "--qemu", "new"], 2, "expected a version"),
        (&["--base-log", whole, "--esp", "/no/such"], 3, "/no/such"),
        (&["--base-log", whole, "--eventlog", whole], 2, "cannot be used with"),
    ];
    for (args, code, words) in cases {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert!(output.stdout.is_empty(), "{args:?}");
        // One line of cause, one of remedy; wrong arguments bring the usage with them.
        assert!(said.starts_with("error: ") || said.lines().count() == 2, "{args:?}: {said}");
    }
}

#[test]
fn a_path_that_no_entry_reads_is_remarked_upon() {
    let args = ["--set", "deb/vmlinux=@NEW/artifacts.json"];
    let output = predict("sdboot/base", "sdboot/base", &args);
    assert_eq!(output.status.code(), Some(3), "the digests name no such file");
    let file = fixture("sdboot/base/pcrs.json");
    let set = format!("deb/vmlinux={}", file.display());
    let output = predict("sdboot/base", "sdboot/base", &["--set", &set]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no entry reads /deb/vmlinux"), "{said}");
}

#[test]
fn prose_tells_what_changes() {
    let (base, new) = (fixture("sdboot/base"), fixture("sdboot/cmdline"));
    let output = Command::new(env!("CARGO_BIN_EXE_vmseal"))
        .args(["predict", "--base-log"])
        .arg(base.join("log.bin"))
        .args(["--base-esp", base.join("esp").to_str().unwrap()])
        .args(["--esp", new.join("esp").to_str().unwrap()])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("deb.conf (default)\n"), "{text}");
    assert!(text.contains("PCR 12 replaced     command line initrd=\\deb\\initrd"), "{text}");
    assert!(text.contains("cf5303547e4b364a -> "), "{text}");
    assert!(!text.contains("carried over"), "{text}");
}

/// An ESP in an image of its file system, in place of a folder.
#[test]
fn an_image_is_as_good_as_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("esp.img");
    let file = fs::File::options().read(true).write(true).create_new(true).open(&image).unwrap();
    file.set_len(2 << 20).unwrap();
    fatfs::format_volume(&file, fatfs::FormatVolumeOptions::new()).unwrap();
    let esp = fatfs::FileSystem::new(&file, fatfs::FsOptions::new()).unwrap();
    let loader = esp.root_dir().create_dir("loader").unwrap();
    let entries = loader.create_dir("entries").unwrap();
    let of_case = |name: &str| fs::read(fixture("sdboot/cmdline/esp/loader").join(name)).unwrap();
    let put = |dir: &fatfs::Dir<'_, _>, name: &str, bytes: &[u8]| {
        std::io::Write::write_all(&mut dir.create_file(name).unwrap(), bytes).unwrap();
    };
    put(&loader, "loader.conf", &of_case("loader.conf"));
    put(&entries, "deb.conf", &of_case("entries/deb.conf"));
    drop((loader, entries));
    esp.unmount().unwrap();
    let path = image.to_str().unwrap();
    let prediction = json(&predict("sdboot/base", "sdboot/cmdline", &["--esp", path]));
    let row = compare(default_entry(&prediction), &measured("sdboot/cmdline"));
    assert!(row.iter().all(|(_, found)| *found == "="), "{row:?}");
    // Damaged at every place in turn: an answer or a refusal, and soon.
    let whole = fs::read(&image).unwrap();
    for at in (0..512).step_by(7).chain((512..40_000).step_by(997)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        fs::write(&image, &damaged).unwrap();
        let output = predict("sdboot/base", "sdboot/cmdline", &["--esp", path]);
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 3)), "{at}: {code:?}");
    }
    fs::write(&image, vec![0x5a; 1 << 20]).unwrap();
    let output = predict("sdboot/base", "sdboot/cmdline", &["--esp", path]);
    assert_eq!(output.status.code(), Some(3));
}

/// Files that are not those of the base: what does not follow from them is not predicted.
#[test]
fn wrong_base_files_are_noticed() {
    let args = ["--base-esp", "NEW/esp", "--esp", "NEW/esp"];
    let prediction = json(&predict("sdboot/base", "sdboot/cmdline", &args));
    let row = compare(default_entry(&prediction), &measured("sdboot/cmdline"));
    let open: Vec<u8> =
        row.iter().filter(|(_, found)| *found == "?").map(|(pcr, _)| *pcr).collect();
    // loader.conf follows from them, the entry does not.
    assert_eq!(open, [9, 12]);
    let args = ["--base-boot", "NEW/inputs/boot"];
    let output = predict("grub-tpm-deb13/base", "grub-tpm-deb13/cmdline", &args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("nothing of the boot that ran follows from its files"), "{said}");
}
