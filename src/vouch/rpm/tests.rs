// rpm itself reads a database that it made; where it fails or lies, scripts stand in for it.

use std::fs;
use std::thread::sleep;
use std::time::Instant;

use proptest::prelude::*;
use rustix::process::Pid;
use tempfile::TempDir;

use super::*;

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// A program of this text, which no process has open for writing when it is started.
fn program(text: &str) -> (TempDir, Rpm) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rpm");
    let script = format!("#!/bin/sh\n{text}\n");
    let write = ["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\""];
    assert!(Command::new("sh").args(write).arg(&path).arg(script).status().unwrap().success());
    (folder, Rpm { program: path, patience: Duration::from_secs(60), most: MAX_LIST })
}

fn search() -> Search<Digest> {
    let mut search = Search::new();
    search.add(Digest::from_hex(PcrBank::Sha256, ABC).unwrap(), 7, "/boot/vmlinuz".into());
    search
}

fn kernel(file: &str) -> Vec<(usize, Voucher)> {
    let (name, version) = ("kernel-core".into(), "6.12.5-200.fc41".into());
    vec![(7, Voucher::Package { name, version, file: file.into() })]
}

#[test]
fn a_file_is_found_by_its_sha256() {
    let other = "0".repeat(64);
    let (_folder, rpm) = program(&format!(
        r"cat <<'EOF'
gpg-pubkey	1-2	(none)	(none)	(none)
(none)
basesystem	11-21.fc41	8		/etc
kernel-core	6.12.5-200.fc41	8	{other}	/lib/modules/6.12.5/config
kernel-core	6.12.5-200.fc41	8	{ABC}	/lib/modules/6.12.5/vmlinuz	tab
EOF"
    ));
    assert_eq!(rpm.look(search()), kernel("/lib/modules/6.12.5/vmlinuz\ttab"));
}

#[test]
fn the_program_is_asked_for_all_files_in_an_environment_of_its_own() {
    let (_folder, rpm) = program(&format!(
        r#"[ "$#" = 3 ] && [ "$1" = -qa ] && [ "$2" = --qf ] && [ -z "$CARGO_MANIFEST_DIR$USER" ] || exit 1
[ "$3" = '[%{{=NAME}}\t%{{=VERSION}}-%{{=RELEASE}}\t%{{=FILEDIGESTALGO}}\t%{{FILEDIGESTS}}\t%{{FILENAMES}}\n]' ] || exit 1
printf 'kernel-core\t6.12.5-200.fc41\t8\t{ABC}\t/a\n'"#
    ));
    assert_eq!(rpm.look(search()), kernel("/a"));
}

#[test]
fn other_algorithms_and_malformed_lines_do_not_count() {
    let md5 = "900150983cd24fb0d6963f7d28e17f72";
    let long = "a".repeat(20_000);
    let (_folder, rpm) = program(&format!(
        r"cat <<'EOF'
a	1-1	1	{md5}	/a
a	1-1	10	{ABC}	/a
a	1-1	(none)	{ABC}	/a
a	1-1	8	{ABC}
	1-1	8	{ABC}	/a
a	1-1	8	{ABC}x	/a
{long}	1-1	8	{ABC}	/a
kernel-core	6.12.5-200.fc41	8	{ABC}	/b
a	1-1	8	{ABC}	/c
EOF
printf 'a\t1-1\t8\t{ABC}\t/boot/vmlinuz'"
    ));
    assert_eq!(rpm.look(search()), kernel("/b"));
}

#[test]
fn a_program_that_fails_vouches_for_nothing() {
    let list = format!("printf 'a\\t1-1\\t8\\t{ABC}\\t/a\\n'");
    let (_folder, rpm) = program(&list);
    assert_eq!(rpm.look(search()).len(), 1);
    let (_folder, rpm) = program(&format!("{list}; exit 1"));
    assert_eq!(rpm.look(search()), []);
    let (_folder, rpm) = program(&format!("{list}; kill -9 $$"));
    assert_eq!(rpm.look(search()), []);
    let rpm = Rpm { program: "/nonexistent/rpm".into(), ..rpm };
    assert_eq!(rpm.look(search()), []);
}

#[test]
fn a_program_that_does_not_end_is_ended_with_all_that_it_started() {
    for rest in ["sleep 600 & sleep 600", "sleep 600 & exec >&-; sleep 600", "sleep 600 &"] {
        let (folder, mut rpm) = program(&format!(
            "printf 'a\\t1-1\\t8\\t{ABC}\\t/a\\n'; echo $$ > \"${{0%/*}}/pid\"; {rest}"
        ));
        rpm.patience = Duration::from_secs(2);
        let start = Instant::now();
        assert_eq!(rpm.look(search()), [], "{rest}");
        assert!(start.elapsed() < Duration::from_secs(30), "{rest}");
        let group = fs::read_to_string(folder.path().join("pid")).unwrap();
        let group = Pid::from_raw(group.trim().parse().unwrap()).unwrap();
        let give_up = Instant::now() + Duration::from_secs(30);
        while has_living(group) && Instant::now() < give_up {
            sleep(Duration::from_millis(5));
        }
        assert!(!has_living(group), "{rest}");
    }
}

/// Whether a process of the group is not dead yet, waited for or not.
fn has_living(group: Pid) -> bool {
    let stats = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("stat"));
    stats.filter_map(|stat| fs::read_to_string(stat).ok()).any(|stat| {
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        fields[0] != "Z" && fields[2] == group.as_raw_nonzero().to_string()
    })
}

#[test]
fn a_list_without_end_is_not_read_for_ever() {
    let (_folder, mut rpm) = program("while :; do echo yes yes yes yes yes yes yes yes; done");
    rpm.most = 1 << 20;
    let start = Instant::now();
    assert_eq!(rpm.look(search()), []);
    assert!(start.elapsed() < rpm.patience);
}

/// Runs a program of rpm, which finds its database and its folders below the home.
fn of_rpm(home: &Path, program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments).env("HOME", home).current_dir(home);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A package is built, put on record, and taken off it, by rpm: its format of lists is what is read.
#[test]
fn rpms_own_database_is_read() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let spec = "Name: kernel-core\nVersion: 6.12.5\nRelease: 200.fc41\nSummary: a kernel\n\
                License: none\nBuildArch: noarch\n%description\na kernel\n%install\n\
                mkdir -p %{buildroot}/lib/modules/6.12.5 %{buildroot}/boot\n\
                printf abc >%{buildroot}/lib/modules/6.12.5/vmlinuz\n\
                ln -s ../lib/modules/6.12.5/vmlinuz %{buildroot}/boot/vmlinuz\n\
                %files\n%dir /lib/modules/6.12.5\n/lib/modules/6.12.5/vmlinuz\n/boot/vmlinuz\n";
    fs::write(home.join("kernel.spec"), spec).unwrap();
    of_rpm(home, "rpmbuild", &["-bb", "kernel.spec"]);
    let package = "rpmbuild/RPMS/noarch/kernel-core-6.12.5-200.fc41.noarch.rpm";
    of_rpm(home, "rpm", &["--justdb", "--nodeps", "--install", package]);
    // Debian's rpm has its database in the home, which is / here.
    let database = home.join(".rpmdb");
    let (_folder, rpm) = program(&format!("exec rpm --dbpath {} \"$@\"", database.display()));
    assert_eq!(rpm.look(search()), kernel("/lib/modules/6.12.5/vmlinuz"));
    of_rpm(home, "rpm", &["--justdb", "--erase", "kernel-core"]);
    assert_eq!(rpm.look(search()), []);
}

#[test]
fn only_the_running_system_is_asked() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("usr/bin")).unwrap();
    fs::write(root.path().join(PROGRAM), "").unwrap();
    assert!(Rpm::of(root.path()).is_none());
    assert_eq!(Rpm::of(Path::new("/")).is_some(), Path::new("/usr/bin/rpm").is_file());
}

proptest! {
    #[test]
    fn any_line_is_read(line in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = entry(&line);
    }

    #[test]
    fn any_fields_are_read(fields in prop::collection::vec("(8|a|[0-9a-f]{64})?", 0..8)) {
        let found = entry(fields.join("\t").as_bytes()).is_some();
        prop_assert!(!found || fields.len() >= 5 && fields[2] == "8" && fields[3].len() == 64);
    }
}
