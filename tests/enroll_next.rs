//! `vmseal enroll` in a guest whose initramfs has vmseal in it: it is rebuilt, the boot with it is
//! predicted, and that is what opens.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod guest;

use std::fs;

use guest::*;
use serde_json::{Value, json};
use testkit::image::UUID;
use testkit::{Recording, Systemd, run};
use vmseal::measurement::{Digest, PcrBank};

#[test]
fn the_own_key_signs_the_boot_with_the_rebuilt_initramfs_and_not_this_one() {
    let mut guest = Guest::with_hook(SDBOOT).with_identity();
    let ran = guest.enroll(&["--policy", "authority", "--json"]).ok();
    let said = ran.says("differs from this one: PCR 9").json();
    assert_eq!((&said["boot"], &said["proven"]), (&"next".into(), &false.into()));
    let file = fs::read(guest.path("var/lib/vmseal/tpm2-pcr-signature.json")).unwrap();
    let file: Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(file["sha256"][0]["pol"], said["plan"]["to_be_signed"]["pol"]);
    assert_eq!(file["sha256"].as_array().unwrap().len(), 1);
    let initrd = fs::read(guest.path(guest.initrd)).unwrap();
    assert!(!initrd.windows(11).any(|window| window == b"PRIVATE KEY"));
    guest.machine.unlock(&[]).refused(19).says("PCR 9");
    guest.reboot();
    guest.machine.unlock(&[]).ok();
}

#[test]
fn the_boot_with_the_rebuilt_initramfs_opens_and_this_one_does_not() {
    for case in [SDBOOT, GRUB] {
        let mut guest = Guest::with_hook(case);
        let ran = guest.enroll(&["--json"]).ok();
        assert_eq!(guest.ran(), ["update-initramfs -u -k all"], "{case:?}");
        let said = ran.json();
        assert_eq!((&said["boot"], &said["proven"]), (&"next".into(), &false.into()));
        assert_eq!(said["rebuilt"], "update-initramfs -u -k all");
        assert!(said["entry"].is_string(), "{said}");
        let changes = said["changes"].as_array().unwrap();
        assert!(!changes.is_empty() && changes.iter().all(|change| change["pcr"] == 9), "{said}");
        // What the generator prints is talk.
        ran.says("generating")
            .says("running: update-initramfs")
            .says("differs from this one: PCR 9");

        guest.machine.unlock(&[]).refused(12);
        guest.reboot();
        guest.machine.unlock(&[]).ok();
        let expected: Value =
            serde_json::from_slice(&fs::read(guest.path("boot/vmseal/expected-1.json")).unwrap())
                .unwrap();
        let roles: Vec<_> =
            expected["events"].as_array().unwrap().iter().map(|event| &event["role"]).collect();
        assert!(roles.contains(&&"initrd".into()), "{case:?}: {expected}");
        let mut explain = guest.command(&["explain"]);
        run(explain.arg(guest.machine.image.path())).ok();
        guest.reboot_to_base();
        guest.machine.unlock(&[]).refused(12).says("PCR 9");
    }
}

#[test]
fn where_grub_measures_nothing_the_kernel_s_own_measurements_are_predicted() {
    let mut guest = Guest::with_hook(PLAIN_GRUB);
    fs::copy(kernel(), guest.path(KERNEL)).unwrap();
    let said = guest.enroll(&["--json"]).ok().json();
    let changes = said["changes"].as_array().unwrap();
    let pcrs: Vec<_> = changes.iter().map(|change| change["pcr"].as_u64().unwrap()).collect();
    assert_eq!(pcrs, [4, 9], "another kernel, and the initrd: {said}");
    guest.reboot();
    guest.machine.unlock(&[]).ok();
    let said = guest.enroll(&["--json"]).ok().json();
    assert_eq!((&said["proven"], &said["changes"]), (&true.into(), &json!([])));
}

#[test]
fn a_boot_that_carries_the_pin_is_sealed_to_without_a_rebuild_and_proven() {
    let mut guest = Guest::with_hook(SDBOOT);
    guest.enroll(&[]).ok();
    guest.reboot();
    let said = guest.enroll(&["--json"]).ok().json();
    assert_eq!(guest.ran().len(), 1);
    assert_eq!((&said["boot"], &said["rebuilt"]), (&"next".into(), &Value::Null));
    assert_eq!((&said["proven"], &said["changes"]), (&true.into(), &json!([])));
    assert_eq!(said["superseded"], json!([1]));
    guest.machine.unlock(&[]).ok();
    // Another file of pins than this boot has: once more.
    let mut pins: Value = serde_json::from_slice(&guest.machine.pins_bytes().unwrap()).unwrap();
    pins["another"] = json!({});
    fs::write(guest.machine.pins(), pins.to_string()).unwrap();
    guest.enroll(&[]).ok().says("must be enrolled again: another");
    assert_eq!(guest.ran().len(), 2);
    guest.reboot();
    guest.machine.unlock(&[]).ok();
}

#[test]
fn enrolling_twice_before_the_boot_rebuilds_once() {
    let mut guest = Guest::with_hook(SDBOOT);
    guest.enroll(&[]).ok();
    guest.enroll(&["--recovery-key"]).ok().says("sealed to the next boot, not to this one");
    assert_eq!(guest.ran().len(), 1);
    guest.reboot();
    guest.machine.unlock(&[]).ok();
}

#[test]
fn a_failed_rebuild_seals_nothing_and_keeps_what_there_is() {
    let guest = Guest::with_hook(SDBOOT);
    guest.enroll(&["--this-boot"]).ok();
    let header = guest.machine.image.snapshot();
    guest.put_program(UPDATE_INITRAMFS, "echo no space left >&2; exit 7");
    let ran = guest.enroll(&[]).code(3);
    assert_eq!(ran.stdout, "");
    ran.says("update-initramfs -u -k all: exit status: 7").says("run vmseal enroll device again");
    assert_eq!(guest.machine.image.snapshot(), header);
    assert!(guest.machine.pins_bytes().is_some(), "the pin is true in any case");
    guest.machine.unlock(&[]).ok();
    // Nothing says that it carries the pin now.
    guest.put_program(UPDATE_INITRAMFS, "");
    guest.enroll(&[]).ok();
    assert_eq!(guest.ran().len(), 2);
}

#[test]
fn what_cannot_be_told_is_refused_until_one_reboot_later() {
    let mut guest = Guest::with_hook(SDBOOT);
    // As if the EFI system partition were unmounted afterwards.
    let hide = |guest: &Guest| fs::rename(guest.path("efi"), guest.path("hidden")).unwrap();
    let then = format!(
        "{}\nmv {1}/efi {1}/hidden\nexit 0",
        format_args!(
            "{{ printf '{REBUILT}'; cat {0}; }} > {1}/{2}",
            guest.machine.pins().display(),
            guest.machine.file("root").display(),
            guest.initrd
        ),
        guest.machine.file("root").display(),
    );
    guest.put_program(UPDATE_INITRAMFS, &then);
    let header = guest.machine.image.snapshot();
    let ran = guest.enroll(&[]).code(3);
    assert_eq!(ran.stdout, "");
    ran.says("cannot be told").says("reboot once, then run vmseal enroll DEVICE again");
    assert_eq!(guest.machine.image.snapshot(), header, "nothing was sealed");
    assert!(guest.machine.pins_bytes().is_some());

    fs::rename(guest.path("hidden"), guest.path("efi")).unwrap();
    guest.reboot();
    hide(&guest);
    // It still cannot be told, but this initramfs has the pin, and nothing else was built.
    let said = guest.enroll(&["--json"]).ok().says("sealing to this boot").json();
    assert_eq!((&said["boot"], &said["proven"]), (&"this".into(), &true.into()));
    assert_eq!(guest.ran().len(), 1);
    guest.machine.unlock(&[]).ok();
    // Something was.
    guest.put("boot/initrd.img-new", b"newer than the boot");
    let future = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    let file = fs::File::options().write(true).open(guest.path("boot/initrd.img-new")).unwrap();
    file.set_modified(future).unwrap();
    guest.enroll(&[]).code(3).says("reboot once");
}

#[test]
fn this_boot_is_sealed_to_where_that_is_asked_for() {
    let mut guest = Guest::with_hook(SDBOOT);
    let said = guest.enroll(&["--this-boot", "--json"]).ok().says("must carry").json();
    assert_eq!((&said["boot"], &said["proven"]), (&"this".into(), &true.into()));
    assert_eq!(guest.ran(), [""; 0]);
    guest.machine.unlock(&[]).ok();
    // Files as they are, without a rebuild: here somebody built the initrd by hand.
    guest.put(guest.initrd, &[REBUILT.as_bytes(), &guest.machine.pins_bytes().unwrap()].concat());
    guest.enroll(&["--rebuild", "never"]).ok().says("update-initramfs -u -k all");
    assert_eq!(guest.ran(), [""; 0]);
    guest.reboot();
    guest.machine.unlock(&[]).ok();
}

#[test]
fn without_a_hook_this_boot_is_sealed_to_and_a_new_pin_remarked_on() {
    let guest = Guest::booted(SDBOOT);
    guest.put_program(UPDATE_INITRAMFS, "");
    let said = guest.enroll(&["--json"]).ok().says("the initramfs must carry").json();
    assert_eq!((&said["boot"], &said["entry"]), (&"this".into(), &Value::Null));
    guest.machine.unlock(&[]).ok();
    let again = guest.enroll(&[]).ok();
    assert!(!again.stderr.contains("must carry"), "{again:#?}");
    assert_eq!(guest.ran(), [""; 0]);
}

#[test]
fn a_dry_run_tells_of_the_rebuild_and_changes_nothing() {
    let mut guest = Guest::with_hook(SDBOOT);
    let before = guest.machine.state();
    let said = guest.enroll(&["--dry-run"]).ok().stdout;
    assert!(said.contains("would be rebuilt first: update-initramfs -u -k all"), "{said}");
    let said = guest.enroll(&["--dry-run", "--json"]).ok().json();
    assert_eq!(
        (&said["boot"], &said["rebuild"]),
        (&"next".into(), &"update-initramfs -u -k all".into())
    );
    assert_eq!((guest.machine.state(), guest.ran().len()), (before, 0));
    guest.enroll(&[]).ok();
    guest.reboot();
    let said = guest.enroll(&["--dry-run"]).ok().stdout;
    assert!(said.contains("the next boot: deb.conf"), "{said}");
}

#[test]
fn dracut_and_kernel_install_are_called_in_their_own_way() {
    let mut guest = Guest::booted(SDBOOT);
    guest.put(DRACUT_HOOK, b"");
    guest.put_program("usr/bin/dracut", "");
    guest.enroll(&[]).ok();
    assert_eq!(guest.ran(), ["dracut --force --regenerate-all"]);
    guest.reboot();
    guest.machine.unlock(&[]).ok();

    let guest = Guest::booted(SDBOOT);
    guest.put(DRACUT_HOOK, b"");
    guest.put("etc/kernel/install.conf", b"# ours\nlayout=uki\n");
    guest.put_program("usr/bin/kernel-install", "");
    guest.enroll(&[]).code(3).says("there is no kernel");
    for version in ["6.1.0", "6.12.0", "gone"] {
        fs::create_dir_all(guest.path("lib/modules").join(version)).unwrap();
    }
    guest.put("lib/modules/6.12.0/vmlinuz", b"");
    guest.put("boot/vmlinuz-6.1.0", b"");
    guest.enroll(&[]).ok();
    let root = guest.machine.file("root");
    let add = |version, image| format!("kernel-install add {version} {}/{image}", root.display());
    let expected =
        [add("6.1.0", "boot/vmlinuz-6.1.0"), add("6.12.0", "lib/modules/6.12.0/vmlinuz")];
    assert_eq!(guest.ran(), expected);
}

/// The boot step of a dracut initrd reads PCR 11 once systemd has extended `enter-initrd`.
#[test]
fn a_unified_kernel_image_is_sealed_at_the_point_where_its_initrd_opens_the_volume() {
    let image = self::kernel();
    let guest = Guest::with_hook(("full-uki/a", "efi/readme"));
    let uki = guest.path("efi/EFI/BOOT/BOOTX64.EFI");
    fs::create_dir_all(uki.parent().unwrap()).unwrap();
    let (kernel, initrd) = (guest.machine.file("kernel"), guest.machine.file("initrd"));
    fs::copy(image, &kernel).unwrap();
    fs::write(&initrd, "an initrd").unwrap();
    let mut ukify = Systemd::Trixie.command("ukify");
    ukify.args(["build", "--cmdline=quiet"]).arg(format!("--linux={}", kernel.display()));
    ukify.arg(format!("--initrd={}", initrd.display()));
    run(ukify.arg(format!("--output={}", uki.display()))).ok();
    let told = || {
        let said = guest.enroll(&["--rebuild", "never", "--dry-run", "--json"]).ok().json();
        assert_eq!(said["boot"], "next");
        let pcr = said["plan"]["pcrs"]["11"].as_str().unwrap().to_owned();
        Digest::from_hex(PcrBank::Sha256, &pcr).unwrap()
    };
    let without = told();
    guest.machine.tpm.restart();
    Recording::fixture("full-uki/a").replay_into(&mut guest.machine.tpm.wire());
    let log = fs::read(fixture("full-uki/a").join("userspace.log")).unwrap();
    guest.put("run/log/systemd/tpm2-measure.log", &log);
    let word = PcrBank::Sha256.hash_parts(&[b"enter-initrd"]);
    assert_eq!(told(), without.extended_with(word.as_bytes()));
}

#[test]
fn killed_while_the_initramfs_is_built_the_disk_opens_as_before_and_enrolls_later() {
    for when in ["kill -9 $PPID", "rm -f $INITRD; kill -9 $PPID", "exit 1"] {
        let mut guest = Guest::with_hook(SDBOOT);
        guest.enroll(&["--this-boot"]).ok();
        let initrd = guest.path(guest.initrd);
        let first = when.replace("$INITRD", initrd.to_str().unwrap());
        guest.put_program(UPDATE_INITRAMFS, &first);
        let ran = guest.enroll(&[]);
        assert_ne!(ran.code, Some(0), "{when}");
        guest.machine.tpm.flush();
        assert_eq!(guest.machine.image.keyslots(), [0, 1], "{when}");
        assert_eq!(guest.verdicts(), ["fits"], "{when}");
        guest.machine.unlock(&[]).ok();
        let pins: Value = serde_json::from_slice(&guest.machine.pins_bytes().unwrap()).unwrap();
        assert!(pins[UUID].is_object(), "{when}");

        guest.put_program(UPDATE_INITRAMFS, "");
        guest.enroll(&[]).ok();
        guest.reboot();
        guest.machine.unlock(&[]).ok();
    }
}
