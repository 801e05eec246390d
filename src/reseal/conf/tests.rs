use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SHIPPED: &str = include_str!("../../../packaging/reseal.conf");

const DEFAULTS: [(ChangeKind, Consent); 7] = [
    (ChangeKind::Kernel, Consent::Vouched),
    (ChangeKind::Initrd, Consent::Vouched),
    (ChangeKind::Cmdline, Consent::No),
    (ChangeKind::Menu, Consent::Vouched),
    (ChangeKind::Loader, Consent::No),
    (ChangeKind::Firmware, Consent::No),
    (ChangeKind::SecureBoot, Consent::No),
];

fn root(text: &[u8]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join(FOLDER)).unwrap();
    fs::write(root.path().join(FOLDER).join(FILE), text).unwrap();
    root
}

fn of(text: &str) -> Result<Conf, ConfError> {
    Conf::read(root(text.as_bytes()).path())
}

fn consents(conf: &Conf) -> [(ChangeKind, Consent); 7] {
    ChangeKind::ALL.map(|kind| (kind, conf.consent(kind)))
}

/// The error of a text, without the folder of the test.
fn error(text: &str) -> String {
    let shown = of(text).unwrap_err().to_string();
    shown.split_once("etc/vmseal/").unwrap().1.to_owned()
}

#[test]
fn defaults_hold_where_nothing_is_said() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(consents(&Conf::read(root.path()).unwrap()), DEFAULTS);
    assert_eq!(consents(&of("").unwrap()), DEFAULTS);
    assert_eq!(consents(&of("\n  # kernel = yes\n\t\n#\n").unwrap()), DEFAULTS);
}

#[test]
fn the_shipped_file_says_each_default_in_comments() {
    assert_eq!(of(SHIPPED).unwrap(), Conf::default());
    let told: String = SHIPPED
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' ') && line.contains(" = "))
        .flat_map(|line| [line, "\n"])
        .collect();
    let told = of(&told).unwrap();
    assert_eq!(told.told.len(), ChangeKind::ALL.len());
    assert_eq!(consents(&told), DEFAULTS);
}

#[test]
fn lines_take_the_place_of_defaults() {
    let conf = of("kernel=no\n menu = yes \r\n# words\nsecure-boot\t=\tvouched").unwrap();
    for (kind, expected) in DEFAULTS {
        let expected = match kind {
            ChangeKind::Kernel => Consent::No,
            ChangeKind::Menu => Consent::Yes,
            ChangeKind::SecureBoot => Consent::Vouched,
            _ => expected,
        };
        assert_eq!(conf.consent(kind), expected, "{kind}");
    }
}

#[test]
fn a_change_is_allowed_as_it_is_vouched_for() {
    let conf = of("kernel = no\ninitrd = vouched\nmenu = yes").unwrap();
    let package = Voucher::Package { name: "a".into(), version: "1".into(), file: "/a".into() };
    for (voucher, vouched) in [
        (Some(&package), true),
        (Some(&Voucher::Built), true),
        (Some(&Voucher::Nobody), false),
        (None, false),
    ] {
        assert!(!conf.allows(ChangeKind::Kernel, voucher), "{voucher:?}");
        assert_eq!(conf.allows(ChangeKind::Initrd, voucher), vouched, "{voucher:?}");
        assert!(conf.allows(ChangeKind::Menu, voucher), "{voucher:?}");
        assert!(!conf.allows(ChangeKind::Firmware, voucher), "{voucher:?}");
    }
}

#[test]
fn what_is_unknown_is_an_error() {
    let kinds = "kernel, initrd, cmdline, menu, loader, firmware, secure-boot";
    for (text, line, expected, found) in [
        ("kernel", 1, "KIND = no|vouched|yes", "kernel"),
        ("\n\nKernel = no", 3, &*format!("one of {kinds}"), "Kernel"),
        ("#\n= no", 2, &*format!("one of {kinds}"), ""),
        ("\u{feff}kernel = no", 1, &*format!("one of {kinds}"), "\\u{feff}kernel"),
        ("kernel = maybe", 1, "one of no, vouched, yes", "maybe"),
        ("kernel = ", 1, "one of no, vouched, yes", ""),
        ("kernel = no # never", 1, "one of no, vouched, yes", "no # never"),
        ("kernel = no = no", 1, "one of no, vouched, yes", "no = no"),
        ("kernel = \x1b[2J", 1, "one of no, vouched, yes", "\\u{1b}[2J"),
    ] {
        let expected = format!("reseal.conf:{line}: expected {expected}, found \"{found}\"");
        assert_eq!(error(text), expected, "{text:?}");
    }
    assert!(error(&format!("{} = no", "a".repeat(5000))).len() < 300);
    let latin1 = Conf::read(root(b"# K\xf6nig\nkernel = yes\n").path()).unwrap();
    assert_eq!(latin1.consent(ChangeKind::Kernel), Consent::Yes);
    assert!(Conf::read(root(b"k\xf6nig = yes\n").path()).is_err());
}

#[test]
fn a_kind_stands_in_one_line() {
    let text = "kernel = no\nmenu = no\n\nkernel = no\n";
    assert_eq!(error(text), "reseal.conf:4: expected kernel in line 1 only, found it again");
}

#[test]
fn what_is_too_large_is_an_error() {
    let most = format!("kernel = yes\n{}", "#".repeat(MAX_LEN as usize - 13));
    assert_eq!(of(&most).unwrap().consent(ChangeKind::Kernel), Consent::Yes);
    assert_eq!(error(&format!("{most}#")), "reseal.conf is longer than 65536 bytes");
}

#[test]
fn a_file_that_cannot_be_read_is_not_a_missing_one() {
    let root = root(b"");
    let path = root.path().join(FOLDER).join(FILE);
    fs::remove_file(&path).unwrap();
    for put in [
        &(|| symlink("nowhere", &path)) as &dyn Fn() -> io::Result<()>,
        &|| symlink("/dev/null", &path),
        &|| Ok(rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU)?),
    ] {
        put().unwrap();
        let error = Conf::read(root.path()).unwrap_err();
        assert!(matches!(error, ConfError::Io { .. }), "{error}");
        fs::remove_file(&path).unwrap();
    }
    fs::create_dir(&path).unwrap();
    assert!(Conf::read(root.path()).is_err());
    fs::remove_dir_all(root.path().join(FOLDER)).unwrap();
    assert!(Conf::read(root.path()).is_ok());
    symlink("elsewhere", root.path().join(FOLDER)).unwrap();
    assert!(Conf::read(root.path()).is_err());
    fs::remove_dir_all(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc"), "").unwrap();
    assert!(Conf::read(root.path()).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read(text in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = Conf::parse(Path::new("reseal.conf"), &text);
    }

    #[test]
    fn what_is_read_is_what_was_said(
        lines in prop::collection::vec("(kernel|menu|loader|#| )?(=| = )?(no|yes|vouched|#)?", 0..6),
    ) {
        let text = lines.join("\n");
        if let Ok(conf) = Conf::parse(Path::new("reseal.conf"), text.as_bytes()) {
            for (kind, (line, consent)) in conf.told {
                let words = lines[line - 1].replace(' ', "");
                prop_assert_eq!(words, format!("{kind}={consent}"));
            }
        }
    }
}
