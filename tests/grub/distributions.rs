//! What grub-mkconfig writes on Ubuntu and on Red Hat's systems, without a log: what is started,
//! and what the boot leaves in grubenv.

use vmseal::artifact::Volume;
use vmseal::artifact::grub::{
    BootFiles, Choice, EnvironmentBlock, Facts, Hashed, Walk, entries, walk,
};
use vmseal::measurement::PcrBank;

use crate::fixture::MemoryFiles;

const BANKS: &[PcrBank] = &[PcrBank::Sha256];

fn environment(lines: &str) -> Vec<u8> {
    let mut bytes = format!("# GRUB Environment Block\n{lines}").into_bytes();
    bytes.resize(1024, b'#');
    bytes
}

fn config(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/grub/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn with<T>(files: &MemoryFiles, run: impl FnOnce(&BootFiles, &Facts) -> T) -> T {
    let digests = Hashed::new(files, BANKS);
    let boot = BootFiles { files, digests: &digests, banks: BANKS };
    run(&boot, &Facts::without_tpm(&boot).unwrap())
}

fn boots(files: &MemoryFiles, choice: &Choice) -> Walk {
    let walk = with(files, |boot, facts| walk(boot, facts, choice));
    assert_eq!((walk.events.len(), walk.gaps.len()), (0, 0));
    walk
}

fn variables(walk: &Walk) -> Vec<(String, String)> {
    EnvironmentBlock::parse(&walk.written[0].bytes).unwrap().variables()
}

fn pairs<const N: usize>(expected: [(&str, &str); N]) -> Vec<(String, String)> {
    expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn ubuntu(grubenv: &str) -> MemoryFiles {
    let mut files = MemoryFiles::default();
    files.put(Volume::Boot, "/boot/grub/grub.cfg", config("ubuntu.cfg"));
    files.put(Volume::Boot, "/boot/grub/grubenv", environment(grubenv));
    files.put(Volume::Boot, "/boot/grub/gfxblacklist.txt", "");
    files.put(Volume::Boot, "/boot/vmlinuz-5.19.0-32-generic", "kernel");
    files.put(Volume::Boot, "/boot/initrd.img-5.19.0-32-generic", "initrd");
    files
}

#[test]
fn ubuntu_boots_its_first_entry_and_records_a_failure_in_advance() {
    let walk = boots(&ubuntu(""), &Choice::Default);
    let boot = walk.boot.as_ref().unwrap();
    assert_eq!(
        boot.kernel_sees(),
        "BOOT_IMAGE=/boot/vmlinuz-5.19.0-32-generic \
         root=UUID=761584f6-29e7-446a-8a8f-ea421eeacc28 ro quiet splash vt.handoff=7"
    );
    assert_eq!(boot.initrds[0].path, "/boot/initrd.img-5.19.0-32-generic");
    assert_eq!(variables(&walk), pairs([("recordfail", "1")]));
    // After a boot that did not end well, the text mode.
    let walk = boots(&ubuntu("recordfail=1\n"), &Choice::Default);
    assert!(walk.boot.unwrap().kernel_sees().ends_with("ro quiet splash"));
}

#[test]
fn ubuntu_names_its_entries_and_boots_the_next_one_once() {
    let files = ubuntu("next_entry=1>1\n");
    let names = with(&files, entries).unwrap();
    let titles: Vec<String> = names.iter().map(|name| name.title_path()).collect();
    assert_eq!(
        titles,
        [
            "Ubuntu",
            "Advanced options for Ubuntu>Ubuntu, with Linux 5.19.0-32-generic",
            "Advanced options for Ubuntu>Ubuntu, with Linux 5.19.0-32-generic (recovery mode)",
        ]
    );
    let walk = boots(&files, &Choice::Default);
    let boot = walk.boot.as_ref().unwrap();
    assert!(boot.command_line.ends_with("recovery nomodeset dis_ucode_ldr"));
    assert_eq!(boot.entry.as_ref(), Some(&names[2]));
    assert_eq!(variables(&walk), pairs([("next_entry", "")]));
    let by_hand = boots(&files, &Choice::Entry(names[1].positions.clone()));
    assert_eq!(by_hand.boot.unwrap().entry.as_ref(), Some(&names[1]));
}

fn rocky(grubenv: &str) -> MemoryFiles {
    let mut files = MemoryFiles::default();
    files.put(Volume::Boot, "/grub2/grub.cfg", config("rocky8.cfg"));
    files.put(Volume::Boot, "/grub2/grubenv", environment(grubenv));
    for version in ["4.18.0-553.8.1.el8_10.x86_64", "4.18.0-553.22.1.el8_10.x86_64", "0-rescue"] {
        let entry = format!(
            "title Rocky Linux ({version}) 8.10\nversion {version}\nlinux /vmlinuz-{version}\n\
             initrd /initramfs-{version}.img $tuned_initrd\noptions $kernelopts $tuned_params\n\
             id rocky-{version}\ngrub_users $grub_users\ngrub_arg --unrestricted\n\
             grub_class kernel\n"
        );
        files.put(Volume::Boot, &format!("/loader/entries/f3a5-{version}.conf"), entry);
        files.put(Volume::Boot, &format!("/vmlinuz-{version}"), "kernel");
        files.put(Volume::Boot, &format!("/initramfs-{version}.img"), "initrd");
    }
    files
}

#[test]
fn boot_loader_entries_come_newest_first() {
    let files = rocky("kernelopts=root=UUID=1 ro crashkernel=auto \nboot_success=0\n");
    let names = with(&files, entries).unwrap();
    let ids: Vec<String> = names.iter().map(|name| name.id_path()).collect();
    assert_eq!(
        ids,
        [
            "f3a5-4.18.0-553.22.1.el8_10.x86_64",
            "f3a5-4.18.0-553.8.1.el8_10.x86_64",
            "f3a5-0-rescue",
        ]
    );
    let walk = boots(&files, &Choice::Default);
    let boot = walk.boot.as_ref().unwrap();
    assert_eq!(boot.kernel.path, "/vmlinuz-4.18.0-553.22.1.el8_10.x86_64");
    assert!(
        boot.command_line.ends_with(" root=UUID=1 ro crashkernel=auto"),
        "{}",
        boot.command_line
    );
    assert_eq!(boot.initrds.len(), 1);
    // A variable that is not set is not saved.
    let expected =
        pairs([("kernelopts", "root=UUID=1 ro crashkernel=auto "), ("boot_success", "0")]);
    assert_eq!(variables(&walk), expected);
}

#[test]
fn a_saved_entry_and_a_good_last_boot_are_honoured() {
    let files = rocky("saved_entry=f3a5-4.18.0-553.8.1.el8_10.x86_64\nboot_success=1\n");
    let walk = boots(&files, &Choice::Default);
    let boot = walk.boot.as_ref().unwrap();
    assert_eq!(boot.kernel.path, "/vmlinuz-4.18.0-553.8.1.el8_10.x86_64");
    assert!(boot.command_line.contains(" root=UUID=2f64394d-a847-4c1a-bda9-e658edc017ad ro"));
    let expected = pairs([
        ("saved_entry", "f3a5-4.18.0-553.8.1.el8_10.x86_64"),
        ("boot_success", "0"),
        ("boot_indeterminate", "0"),
    ]);
    assert_eq!(variables(&walk), expected);
}
