use super::*;
use crate::artifact::sample::{Memory, image};
use crate::measurement::PcrBank;

const MAGIC: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0";

fn texts(bytes: Vec<u8>, release: u32, profile: u32) -> Result<Vec<String>, UkiError> {
    let file = Memory(bytes);
    let uki = Uki::open(&file)?;
    let sections = uki.sections(release, profile)?;
    let shown = |(name, section): (&str, &Section)| {
        format!("{name}={}", String::from_utf8(uki.text(section).unwrap()).unwrap())
    };
    let names = MEASURED.iter().map(|(name, _)| *name).chain([SIGNATURES]);
    Ok(names.filter_map(|name| Some((name, sections.get(name)?))).map(shown).collect())
}

#[test]
fn the_release_is_that_of_the_stub() {
    let release =
        |sections: &[(&str, &[u8])]| Uki::open(&Memory(image(sections, 0))).unwrap().release();
    assert_eq!(release(&[(".sdmagic", MAGIC)]), Ok(257));
    assert_eq!(
        release(&[(".sdmagic", b"#### LoaderInfo: systemd-stub 254-3.fc39 ####\0")]),
        Ok(254)
    );
    assert_eq!(release(&[(".text", b"")]), Err(UkiError::Stub { found: None }));
    for other in ["systemd-stub 263 ####\0", "systemd-stub 251 ####\0", "systemd-boot 257 ####\0"] {
        let magic = format!("#### LoaderInfo: {other}");
        assert!(matches!(release(&[(".sdmagic", magic.as_bytes())]), Err(UkiError::Stub { .. })));
    }
}

#[test]
fn sections_are_measured_in_the_stub_s_order_by_release() {
    let sections: &[(&str, &[u8])] = &[
        (".sbat", b"sbat,1"),
        (".uname", b"6.1"),
        (".pcrsig", b"{}"),
        (".ucode", b"micro"),
        (".initrd", b"cpio"),
        (".linux", b"kernel"),
        (".osrel", b""),
        (".cmdline", b"quiet"),
    ];
    let file = Memory(image(sections, 0));
    let uki = Uki::open(&file).unwrap();
    let names = |release| {
        let pending = uki.measured(&uki.sections(release, 0).unwrap()).unwrap();
        let measured = Pending::measure(&pending, &[PcrBank::Sha256]).unwrap();
        for pair in measured.chunks(2) {
            let name = pair[0].words.strip_prefix("section ").unwrap();
            let content = sections.iter().find(|(other, _)| *other == name).unwrap().1;
            let expected =
                [format!("{name}\0").as_bytes(), content].map(|part| PcrBank::Sha256.hash(part));
            assert_eq!([pair[0].digests[0], pair[1].digests[0]], expected);
            assert_eq!(pair[0].pcr, PcrIndex::KERNEL_BOOT);
        }
        let names: Vec<_> = measured.chunks(2).map(|pair| pair[1].words.split_at(8).1).collect();
        names.join(" ")
    };
    assert_eq!(names(252), ".linux .cmdline: quiet .initrd");
    assert_eq!(names(254), ".linux .cmdline: quiet .initrd .uname .sbat");
    assert_eq!(names(257), ".linux .cmdline: quiet .initrd .ucode .uname .sbat");
}

#[test]
fn a_profile_adds_to_the_base_and_replaces_it() {
    let bytes = image(
        &[
            (".linux", b"kernel"),
            (".cmdline", b"base"),
            (".profile", b"ID=main"),
            (".profile", b"ID=rescue"),
            (".cmdline", b"single"),
            (".cmdline", b"ignored"),
            (".initrd", b"cpio"),
        ],
        0,
    );
    let main = [".linux=kernel", ".cmdline=base", ".profile=ID=main"];
    let rescue = [".linux=kernel", ".cmdline=single", ".initrd=cpio", ".profile=ID=rescue"];
    assert_eq!(texts(bytes.clone(), 257, 0).unwrap(), main);
    assert_eq!(texts(bytes.clone(), 257, 1).unwrap(), rescue);
    assert_eq!(texts(bytes.clone(), 257, 2), Err(UkiError::Profile { found: 2 }));
    assert_eq!(texts(bytes, 256, 0), Err(UkiError::Ambiguous { section: ".cmdline" }));
    let single = image(&[(".linux", b"kernel")], 0);
    assert_eq!(texts(single, 257, 0).unwrap(), [".linux=kernel"]);
    let only = image(&[(".profile", b"x"), (".linux", b"kernel")], 0);
    assert_eq!(texts(only, 257, 0).unwrap(), [".linux=kernel", ".profile=x"]);
}

#[test]
fn what_hardware_decides_is_not_guessed() {
    let choice: &[(&str, &[u8])] = &[(".linux", b"k"), (".dtbauto", b"dtb"), (".hwids", b"ids")];
    let error = texts(image(choice, 0), 257, 0);
    assert_eq!(error, Err(UkiError::Hardware { section: ".dtbauto" }));
    assert_eq!(texts(image(&choice[..2], 0), 257, 0).unwrap(), [".linux=k"]);
    // Before 257 a devicetree was whatever began with that name.
    let older = texts(image(choice, 0), 254, 0);
    assert_eq!(older, Err(UkiError::Ambiguous { section: ".dtb" }));
}

#[test]
fn absurd_sizes_are_refused() {
    let mut bytes = image(&[(".linux", b"kernel"), (".osrel", b"text")], 0);
    let size = crate::artifact::sample::TABLE + 40 + 8;
    bytes[size..size + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let file = Memory(bytes);
    let uki = Uki::open(&file).unwrap();
    let sections = uki.sections(257, 0).unwrap();
    assert!(matches!(uki.measured(&sections), Err(UkiError::Size { .. })));
    assert!(matches!(uki.text(sections.get(".osrel").unwrap()), Err(UkiError::Size { .. })));
}

/// What cannot be told whole is not told in part.
#[test]
fn the_command_line_of_an_image_is_told_in_words() {
    let words = |cmdline: &[u8]| {
        let sections: &[(&str, &[u8])] = &[(".linux", b"kernel"), (".cmdline", cmdline)];
        let file = Memory(image(sections, 0));
        let uki = Uki::open(&file).unwrap();
        let pending = uki.measured(&uki.sections(257, 0).unwrap()).unwrap();
        pending.last().unwrap().words.clone()
    };
    assert_eq!(words(b"root=x ro\n\0 init=/bin/sh"), "section .cmdline: root=x ro");
    assert_eq!(words(b"a\x1bb"), r"section .cmdline: a\u{1b}b");
    assert_eq!(words(&b"x".repeat(CMDLINE_MAX)).len(), CMDLINE_WORDS.len() + CMDLINE_MAX);
    for bad in [&b"x".repeat(CMDLINE_MAX + 1)[..], &b"\x1b".repeat(1000), b"\xff"] {
        assert_eq!(words(bad), "section .cmdline");
    }
}
