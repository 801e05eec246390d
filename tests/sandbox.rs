//! What a confined process can still do, and what it cannot. Each is tried in a process of its own:
//! this program again, told by the environment what to try.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::run;
use vmseal::sandbox::{Limits, confine_to};

const TRY: &str = "VMSEAL_TEST_TRY";
const FOLDER: &str = "VMSEAL_TEST_FOLDER";

/// Whether it could be done.
fn attempt(what: &str, folder: &str) -> bool {
    let file = format!("{folder}/file");
    match what {
        "read" => fs::read_to_string(&file).is_ok_and(|text| text == "content"),
        "list" => fs::read_dir(folder).unwrap().count() > 0,
        "thread" => std::thread::spawn(|| fs::read(file).is_ok()).join().unwrap(),
        "read another" => fs::read(format!("{folder}/another")).is_ok(),
        "read of the system" => fs::read("/etc/passwd").is_ok(),
        "read of itself" => fs::read("/proc/self/maps").is_ok(),
        "be root" => rustix::process::geteuid().is_root() || rustix::process::getgid().is_root(),
        "compute" => {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(40) {}
            true
        }
        "allocate much" => vec![1_u8; 600 << 20].iter().all(|byte| *byte == 1),
        "allocate" => vec![1_u8; 64 << 20].iter().all(|byte| *byte == 1),
        "write" => fs::write(&file, "other").is_ok(),
        "append" => fs::OpenOptions::new().append(true).open(&file).is_ok(),
        "make" => fs::write(format!("{folder}/new"), "x").is_ok(),
        "remove" => fs::remove_file(&file).is_ok(),
        "rename" => fs::rename(&file, format!("{folder}/other")).is_ok(),
        "link" => std::os::unix::fs::symlink(&file, format!("{folder}/link")).is_ok(),
        "chmod" => {
            let open = fs::Permissions::from_mode(0o777);
            fs::set_permissions(&file, open).is_ok()
        }
        "mount" => {
            rustix::mount::mount("none", folder, "tmpfs", rustix::mount::MountFlags::empty(), None)
                .is_ok()
        }
        "run" => Command::new("/bin/true").status().is_ok_and(|status| status.success()),
        "run in a thread" => {
            let run = || Command::new("/bin/true").status().is_ok();
            std::thread::spawn(run).join().unwrap()
        }
        "listen" => TcpListener::bind("127.0.0.1:0").is_ok(),
        "connect" => {
            TcpStream::connect("127.0.0.1:22").is_ok() || UdpSocket::bind("127.0.0.1:0").is_ok()
        }
        "local socket" => UnixDatagram::unbound().is_ok(),
        "signal" => {
            let parent = rustix::process::getppid().unwrap();
            rustix::process::test_kill_process(parent).is_ok()
        }
        _ => panic!("{what}"),
    }
}

/// Not a test of its own: what [`a_confined_process_reads_and_computes_and_no_more`] starts.
#[test]
#[ignore = "run by another test"]
fn try_one() {
    let what = std::env::var(TRY).unwrap();
    let folder = std::env::var(FOLDER).unwrap();
    if let Some(what) = what.strip_prefix("free ") {
        assert!(attempt(what, &folder));
    } else if let Some(what) = what.strip_prefix("alone ") {
        let (file, absent) = (format!("{folder}/file"), "/no/such/file");
        let limits = Limits { memory: 512 << 20, seconds: 1 };
        confine_to([Path::new(&file), Path::new(absent)], limits).unwrap();
        assert!(attempt(what, &folder));
    } else {
        let lacking = vmseal::sandbox::confine().unwrap();
        assert!(lacking.is_empty(), "this kernel lacks {lacking:?}");
        assert!(attempt(&what, &folder));
    }
}

fn can(what: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "content").unwrap();
    fs::write(folder.path().join("another"), "content").unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["try_one", "--exact", "--ignored", "--test-threads", "1"]);
    again.env(TRY, what).env(FOLDER, folder.path());
    let ran = run(&mut again);
    assert!(!ran.stdout.contains("this kernel lacks"), "{ran:#?}");
    assert!(ran.stdout.contains("running 1 test"), "{ran:#?}");
    ran.code == Some(0)
}

#[test]
fn a_confined_process_reads_and_computes_and_no_more() {
    for what in ["read", "list", "thread", "allocate"] {
        assert!(can(what), "{what}");
    }
    for what in [
        "write",
        "append",
        "make",
        "remove",
        "rename",
        "link",
        "chmod",
        "run",
        "run in a thread",
        "listen",
        "local socket",
        "signal",
    ] {
        assert!(can(&format!("free {what}")), "{what}: could not be done before either");
        assert!(!can(what), "{what}");
    }
    for what in ["connect", "mount"] {
        assert!(!can(what), "{what}");
    }
}

/// What reads the disk of a template, beside a process that holds keys.
#[test]
fn a_process_confined_to_a_file_reads_that_one_and_no_more() {
    for what in ["read", "thread", "allocate"] {
        assert!(can(&format!("alone {what}")), "{what}");
    }
    for what in ["read another", "list", "read of the system", "allocate much"] {
        assert!(can(&format!("free {what}")), "{what}: could not be done before either");
        assert!(!can(&format!("alone {what}")), "{what}");
    }
    for what in ["write", "append", "make", "remove", "chmod", "run", "local socket", "signal"] {
        assert!(!can(&format!("alone {what}")), "{what}");
    }
    assert!(!can("alone be root") && !can("alone read of itself"));
    // More than a second.
    assert!(!can("alone compute"));
}
