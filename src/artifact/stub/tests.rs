use super::*;
use crate::artifact::Measured;
use crate::artifact::sample::{Memory, image};
use crate::measurement::{Digest, PcrBank};

const BANK: PcrBank = PcrBank::Sha256;

fn magic(release: u32) -> Vec<u8> {
    format!("#### LoaderInfo: systemd-stub {release} ####\0").into_bytes()
}

/// An image made with a stub of that release, its kernel, and these sections.
fn uki(release: u32, more: &[(&str, &[u8])]) -> Memory {
    let kernel = image(&[(".text", b"vmlinuz")], 0);
    let magic = magic(release);
    let mut sections = vec![(".sdmagic", magic.as_slice()), (".linux", kernel.as_slice())];
    sections.extend(more);
    Memory(image(&sections, 0))
}

fn boot<'a>(image: &'a Uki<'a>, load_options: &str) -> StubBoot<'a> {
    StubBoot {
        image,
        load_options: load_options.encode_utf16().collect(),
        secure_boot: false,
        smbios_cmdline: None,
        own: vec![],
        addons: vec![],
        credentials: vec![],
        extensions: vec![],
    }
}

fn measure(boot: &StubBoot<'_>) -> Vec<Measured> {
    Pending::measure(&boot.events().unwrap(), &[BANK]).unwrap()
}

fn of_pcr(measured: &[Measured], pcr: u64) -> Vec<Digest> {
    let pcr = PcrIndex::new(pcr).unwrap();
    measured.iter().filter(|event| event.pcr == pcr).map(|event| event.digests[0]).collect()
}

fn wide(text: &str) -> Digest {
    let units: Vec<u16> = text.encode_utf16().collect();
    BANK.hash(&ucs2::with_nul(&units))
}

fn files<'a>(files: &'a [(&str, Memory)]) -> Vec<Sidecar<'a>> {
    let sidecar = |(name, source): &'a (&str, Memory)| Sidecar { name: (*name).into(), source };
    files.iter().map(sidecar).collect()
}

/// One entry of an archive: what the format's description says, field by field.
fn entry(inode: u32, mode: u32, path: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "070701{inode:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:032x}{:08x}{:08x}{path}\0",
        0,
        0,
        1,
        0,
        content.len(),
        0,
        path.len() + 1,
        0
    )
    .into_bytes();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let end = entry(0, 0, "TRAILER!!!", b"");
    let end = String::from_utf8(end).unwrap().replace("0000000b", "0000000B");
    [entries.concat(), end.into_bytes()].concat()
}

fn text_archive(name: &str, content: &[u8]) -> Vec<u8> {
    archive(&[
        entry(1, 0o40555, ".extra", b""),
        entry(2, 0o100_444, &format!(".extra/{name}"), content),
    ])
}

#[test]
fn a_plain_boot_has_all_events_in_order() {
    let file = uki(257, &[(".cmdline", b" quiet\n"), (".osrel", b"ID=x"), (".initrd", b"cpio!")]);
    let image = Uki::open(&file).unwrap();
    let measured = measure(&boot(&image, ""));
    let pcrs: Vec<u8> = measured.iter().map(|event| event.pcr.get()).collect();
    assert_eq!(pcrs, [11, 11, 11, 11, 11, 11, 11, 11, 4, 9, 9]);
    let kernel = Memory(crate::artifact::sample::image(&[(".text", b"vmlinuz")], 0));
    let alone = Uki::open(&kernel).unwrap().image();
    assert_eq!(of_pcr(&measured, 4), Pending::measure(&[alone], &[BANK]).unwrap()[0].digests);
    let initrd = [b"cpio!\0\0\0".to_vec(), text_archive("os-release", b"ID=x")].concat();
    assert_eq!(of_pcr(&measured, 9), [wide("quiet"), BANK.hash(&initrd)]);

    let vouched = measure(&StubBoot { secure_boot: true, ..boot(&image, "") });
    assert_eq!(of_pcr(&vouched, 4), []);
    assert_eq!(of_pcr(&vouched, 9), of_pcr(&measured, 9));
}

#[test]
fn a_single_initrd_is_not_padded_and_none_is_no_event() {
    let older = uki(254, &[(".osrel", b"ID=x"), (".initrd", b"cpio!")]);
    let older = Uki::open(&older).unwrap();
    assert_eq!(of_pcr(&measure(&boot(&older, "")), 9), [BANK.hash(b"cpio!")]);
    let bare = uki(257, &[]);
    let bare = Uki::open(&bare).unwrap();
    assert_eq!(of_pcr(&measure(&boot(&bare, "")), 9), []);
    let newer = uki(258, &[(".initrd", b"cpio!")]);
    let newer = Uki::open(&newer).unwrap();
    let events = Pending::measure(&boot(&newer, "").events().unwrap(), &[BANK]).unwrap();
    assert_eq!(events.last().unwrap().digests, []);
}

#[test]
fn a_command_line_from_outside_is_measured_and_secure_boot_drops_it() {
    let file = uki(257, &[(".cmdline", b"built in")]);
    let image = Uki::open(&file).unwrap();
    let outside = measure(&boot(&image, "  init=/bin/sh \u{7f}"));
    assert_eq!(of_pcr(&outside, 12), [wide("init=/bin/sh")]);
    assert_eq!(of_pcr(&outside, 9), [wide("init=/bin/sh")]);
    let secure = measure(&StubBoot { secure_boot: true, ..boot(&image, "init=/bin/sh") });
    assert_eq!((of_pcr(&secure, 12), of_pcr(&secure, 9)), (vec![], vec![wide("built in")]));
    let garbage = measure(&boot(&image, "\u{1}binary"));
    assert_eq!((of_pcr(&garbage, 12), of_pcr(&garbage, 9)), (vec![], vec![wide("built in")]));

    let open = uki(257, &[]);
    let open = Uki::open(&open).unwrap();
    let secure = measure(&StubBoot { secure_boot: true, ..boot(&open, "a b") });
    assert_eq!(of_pcr(&secure, 12), [wide("a b")]);

    let older = uki(252, &[]);
    let older = Uki::open(&older).unwrap();
    assert_eq!(of_pcr(&measure(&boot(&older, " a\tb\u{7f} ")), 12), [wide(" a b\u{7f}")]);
}

#[test]
fn the_profile_is_measured_unless_it_is_the_first() {
    let file = uki(257, &[(".cmdline", b"base"), (".profile", b"A"), (".profile", b"B")]);
    let image = Uki::open(&file).unwrap();
    let second = measure(&boot(&image, "@1"));
    assert_eq!(of_pcr(&second, 12), [wide("1")]);
    assert_eq!(second[0].pcr, PcrIndex::KERNEL_CONFIG);
    assert_eq!(of_pcr(&second, 9), [wide("base"), BANK.hash(&text_archive("profile", b"B"))]);
    assert_eq!(of_pcr(&measure(&boot(&image, "@1 quiet")), 12), [wide("1"), wide("quiet")]);
    assert_eq!(of_pcr(&measure(&boot(&image, "@0")), 12), []);
    assert_eq!(of_pcr(&measure(&boot(&image, "@1x")), 12), [wide("@1x")]);
    let missing = boot(&image, "@2").events().err();
    assert_eq!(missing, Some(UkiError::Profile { found: 2 }));
}

#[test]
fn credentials_and_extensions_are_measured_as_archives() {
    let file = uki(257, &[(".initrd", b"cpio")]);
    let image = Uki::open(&file).unwrap();
    let own = [
        ("b.CRED", Memory(b"two".to_vec())),
        ("a.cred", Memory(b"one".to_vec())),
        (".hidden.cred", Memory(b"no".to_vec())),
        ("ext.raw", Memory(b"sysext".to_vec())),
        ("c.confext.raw", Memory(b"confext".to_vec())),
    ];
    let global = [("g.cred", Memory(b"all".to_vec()))];
    let credentials = archive(&[
        entry(1, 0o40555, ".extra", b""),
        entry(2, 0o40500, ".extra/credentials", b""),
        entry(3, 0o100_400, ".extra/credentials/a.cred", b"one"),
        entry(4, 0o100_400, ".extra/credentials/b.CRED", b"two"),
    ]);
    let globals = archive(&[
        entry(1, 0o40555, ".extra", b""),
        entry(2, 0o40500, ".extra/global_credentials", b""),
        entry(3, 0o100_400, ".extra/global_credentials/g.cred", b"all"),
    ]);
    let extension = |folder: &str, name: &str, content: &[u8]| {
        archive(&[
            entry(1, 0o40555, ".extra", b""),
            entry(2, 0o40555, &format!(".extra/{folder}"), b""),
            entry(3, 0o100_444, &format!(".extra/{folder}/{name}"), content),
        ])
    };
    let sysext = extension("sysext", "ext.raw", b"sysext");
    let confext = extension("confext", "c.confext.raw", b"confext");
    let measured =
        measure(&StubBoot { own: files(&own), credentials: files(&global), ..boot(&image, "") });
    let hash = |bytes: &Vec<u8>| BANK.hash(bytes);
    assert_eq!(of_pcr(&measured, 12), [&credentials, &globals, &confext].map(hash));
    assert_eq!(of_pcr(&measured, 13), [hash(&sysext)]);
    let initrd = [b"cpio".to_vec(), credentials, globals, sysext, confext].concat();
    assert_eq!(of_pcr(&measured, 9), [hash(&initrd)]);
}

#[test]
fn addons_add_command_lines_initrds_and_microcode() {
    let file = uki(
        257,
        &[(".cmdline", b"quiet"), (".uname", b"6.1"), (".ucode", b"base"), (".initrd", b"cpio")],
    );
    let addon = |sections: &[(&str, &[u8])]| Memory(image(sections, 0));
    let own = [
        ("b.addon.efi", addon(&[(".cmdline", b"two\n"), (".ucode", b"u-b!")])),
        ("a.addon.efi", addon(&[(".initrd", b"added"), (".ucode", b"u-a!")])),
        ("c.addon.efi", addon(&[(".cmdline", b"for another"), (".uname", b"6.2")])),
        ("d.addon.efi", addon(&[(".sbat", b"nothing else")])),
        ("readme.txt", Memory(vec![])),
    ];
    let all = [("z.addon.efi", addon(&[(".cmdline", b"one"), (".uname", b"6.1")]))];
    let image = Uki::open(&file).unwrap();
    let boot = StubBoot { own: files(&own), addons: files(&all), ..boot(&image, "") };
    let measured = measure(&boot);
    // Every addon that the firmware loads, whatever comes of it, then the kernel.
    assert_eq!(of_pcr(&measured, 4).len(), 6);
    let hash = |bytes: &[u8]| BANK.hash(bytes);
    let config = [wide("one two"), hash(b"u-b!"), hash(b"u-a!"), hash(b"added")];
    assert_eq!(of_pcr(&measured, 12), config);
    let initrd = hash(b"u-b!u-a!basecpioadded\0\0\0");
    assert_eq!(of_pcr(&measured, 9), [wide("quiet one two"), initrd]);

    let secure = StubBoot { secure_boot: true, ..boot.clone() };
    assert!(matches!(secure.events(), Err(UkiError::Release { .. })));
    let smbios = StubBoot { smbios_cmdline: Some(b" host=1 ".to_vec()), ..boot };
    let measured = measure(&smbios);
    assert_eq!(of_pcr(&measured, 12)[..2], [wide("one two"), wide("host=1")]);
    assert_eq!(of_pcr(&measured, 9)[0], wide("quiet one two host=1"));
}

#[test]
fn the_folder_of_sidecars_has_no_boot_counter() {
    assert_eq!(extra_folder("/EFI/Linux/a+3-1.efi", 257), "/EFI/Linux/a.efi.extra.d");
    assert_eq!(extra_folder("/EFI/Linux/a+3.efi", 254), "/EFI/Linux/a.efi.extra.d");
    assert_eq!(extra_folder("/EFI/Linux/a+3.efi", 252), "/EFI/Linux/a+3.efi.extra.d");
    assert_eq!(extra_folder("/EFI/Linux/a+b.efi", 257), "/EFI/Linux/a+b.efi.extra.d");
    assert_eq!(extra_folder("/EFI/Linux/a+3-.efi", 257), "/EFI/Linux/a+3-.efi.extra.d");
}
