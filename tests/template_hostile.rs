//! Disks made by whoever is inside a guest: whatever lies on them, the process that reads them for
//! `vmseal reseal --template` ends soon, within its memory, and with an answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod disk;
mod guest;

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use disk::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;
use testkit::disk::{BOOT, ESP};
use testkit::run::run_with_input;
use testkit::{Disk, tool};
use vmseal::template::Template;
use vmseal::template::wire::{self, Question};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// No disk takes longer, also where nothing is optimized and the machine has other things to do.
const SOON: Duration = Duration::from_secs(30);
/// KiB of memory: the largest file that is read, and what it is digested with.
const MEMORY: u64 = 1200 << 10;

/// A disk on its host.
struct Case {
    folder: TempDir,
}

impl Case {
    fn of(case: &str, disk: &Disk) -> Self {
        let found = Self { folder: TempDir::with_prefix("vmseal-hostile-").unwrap() };
        disk.write(&found.image());
        log(case, disk, found.path("log.bin"));
        found
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn image(&self) -> PathBuf {
        self.path("disk.img")
    }

    /// Whether all machines are covered, by what is answered about the image.
    #[track_caller]
    fn answer(&self, what: &str) -> bool {
        self.answer_of(&format!("image = {:?}", self.image()), what)
    }

    #[track_caller]
    fn answer_of(&self, keys: &str, what: &str) -> bool {
        let log = self.path("log.bin");
        let text = format!("boot = \"disk\"\n{keys}\n[[reference]]\nlog = {log:?}\n");
        let template = Template::parse("debian", &text).unwrap();
        let question = Question {
            name: "debian".to_owned(),
            template: text,
            approved: vec![],
            public: fs::read_to_string(self.public()).unwrap(),
        };
        let account = self.path("account");
        let mut command = Command::new("/usr/bin/time");
        command.args(["--quiet", "--format", "%M", "--output"]).arg(&account);
        command.args([VMSEAL, "forecast"]);
        let ran = run_with_input(&mut command, question.to_text().as_bytes());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{what}");
        assert!(ran.took < SOON, "{what}: {:?}", ran.took);
        let peak: u64 = fs::read_to_string(&account).unwrap().trim().parse().unwrap();
        assert!(peak < MEMORY, "{what}: {peak} KiB");
        let answer = wire::parse(&template, ran.stdout.as_bytes()).expect(what);
        answer.is_ok_and(|told| told.vms.iter().all(|vm| vm.open.is_empty()))
    }

    fn public(&self) -> PathBuf {
        let public = self.path("key.pub");
        if !public.exists() {
            let root = self.folder.path().to_str().unwrap();
            tool(VMSEAL, &["authority", "init", "debian", "--root", root]);
            fs::write(&public, tool(VMSEAL, &["authority", "export", "debian", "--root", root]))
                .unwrap();
        }
        public
    }

    /// The same where these bytes lie there; afterwards they do not.
    #[track_caller]
    fn damaged(&self, at: u64, bytes: &[u8]) -> bool {
        let file = File::options().read(true).write(true).open(self.image()).unwrap();
        let mut before = vec![0; bytes.len()];
        file.read_exact_at(&mut before, at).unwrap();
        file.write_all_at(bytes, at).unwrap();
        let answer = self.answer(&format!("{bytes:02x?} at {at}"));
        file.write_all_at(&before, at).unwrap();
        answer
    }
}

fn sdboot() -> Case {
    let case = Case::of(SDBOOT, &disk(SDBOOT, b"an initrd"));
    assert!(case.answer("whole"));
    case
}

fn plain_grub() -> Disk {
    let mut disk = disk(PLAIN_GRUB, b"an initrd");
    // They are measured nowhere.
    disk.boot.retain(|path, _| !path.ends_with(".mod"));
    disk
}

#[test]
fn partition_tables_of_any_kind_are_read_within_bounds() {
    let case = sdboot();
    let all = |len| vec![0xff; len];
    // The header: its block, the entries' block, their number and size.
    for (at, len) in [(24, 8), (32, 8), (72, 8), (80, 4), (84, 4), (0, 8), (512, 1024)] {
        case.damaged(512 + at, &all(len));
        case.damaged(512 + at, &vec![0; len]);
    }
    // The first entry: its type, first and last block.
    for (at, value) in [(0, 0), (32, u64::MAX), (40, u64::MAX), (40, 1 << 62), (32, 0), (40, 0)] {
        case.damaged(1024 + at, &value.to_le_bytes());
    }
    let image = File::options().write(true).open(case.image()).unwrap();
    for len in [0, 511, 512, 1023, 1024, 1 << 14, ESP.0, ESP.0 + 100, ESP.0 + (1 << 20)] {
        image.set_len(len).unwrap();
        assert!(!case.answer(&format!("cut to {len}")), "{len}");
    }
}

#[test]
fn fat_of_any_kind_is_read_within_bounds() {
    let case = sdboot();
    let boot = ESP.0;
    // Bytes a sector, sectors a cluster, reserved ones, tables, entries of the root, sectors.
    for at in [11, 13, 14, 16, 17, 19, 22, 32, 36, 44] {
        for byte in [0, 1, 0xff] {
            case.damaged(boot + at, &[byte]);
            case.damaged(boot + at, &[byte, byte]);
        }
    }
    let mut sector = [0; 512];
    File::open(case.image()).unwrap().read_exact_at(&mut sector, boot).unwrap();
    let u16_at = |at: usize| u64::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
    let (reserved, tables, per_table) = (u16_at(14), u64::from(sector[16]), u16_at(22));
    let table = boot + reserved * 512;
    // Every cluster is followed by itself, by its neighbour, by one for all, or by what is not there.
    let clusters = per_table * 256;
    let table_of = |next: &dyn Fn(u64) -> u64| -> Vec<u8> {
        let entries = (0..clusters).flat_map(|cluster| (next(cluster) as u16).to_le_bytes());
        entries.collect()
    };
    for next in [
        &|cluster| cluster,
        &|cluster: u64| cluster + 1,
        &|cluster: u64| if cluster.is_multiple_of(2) { cluster + 1 } else { cluster - 1 },
        &|_| 2,
        &|_| 0xffee,
        &|_| 0,
    ] as [&dyn Fn(u64) -> u64; 6]
    {
        case.damaged(table, &table_of(next));
    }
    // The root's entries: lengths of files, first clusters, attributes.
    let root = table + tables * per_table * 512;
    for entry in 0..6 {
        for (at, bytes) in
            [(28, &[0xff; 4][..]), (26, &[0xff; 2]), (26, &[0, 0]), (11, &[0x10]), (11, &[0x0f])]
        {
            case.damaged(root + entry * 32 + at, bytes);
        }
    }
}

#[test]
fn names_without_number_and_depth_are_read_within_bounds() {
    let mut disk = disk(SDBOOT, b"an initrd");
    for number in 0..2000 {
        let text = format!("title {number}\nlinux /deb/vmlinuz\noptions {number}\n");
        disk.esp.insert(format!("loader/entries/{number:04}.conf"), text.into_bytes());
    }
    let many = Case::of(SDBOOT, &disk);
    assert!(!many.answer("two thousand entries"));
    disk.esp.retain(|path, _| !path.contains("entries/") || path.ends_with("deb.conf"));
    let words = format!("title x\nlinux /deb/vmlinuz\n{}", "initrd /deb/initrd\n".repeat(3000));
    disk.esp.insert("loader/entries/deb.conf".to_owned(), words.into_bytes());
    Case::of(SDBOOT, &disk).answer("three thousand initrds");
    let words = format!("title x\nlinux {}deb/vmlinuz\noptions ro\n", "/a/..".repeat(5000));
    disk.esp.insert("loader/entries/deb.conf".to_owned(), words.into_bytes());
    Case::of(SDBOOT, &disk).answer("a long way round");
    disk.esp.insert("loader/entries/deb.conf".to_owned(), vec![b'x'; 4 << 20]);
    Case::of(SDBOOT, &disk).answer("an entry of 4 MiB");
    let deep = "d/".repeat(60);
    disk.esp.insert(format!("{deep}x"), vec![]);
    Case::of(SDBOOT, &disk).answer("deep folders");
}

#[test]
fn ext4_of_any_kind_is_read_within_bounds() {
    let disk = plain_grub();
    let case = Case::of(PLAIN_GRUB, &disk);
    assert!(case.answer("whole"));
    let superblock = BOOT.0 + 1024;
    // Inodes, blocks, size of a block, of groups, of inodes, features, size of descriptors.
    for at in [0, 4, 20, 24, 32, 40, 76, 88, 92, 96, 100, 254] {
        for byte in [0, 0x7f, 0xff] {
            case.damaged(superblock + at, &[byte; 4]);
        }
    }
    // Group descriptors, bitmaps, inodes, folders.
    let file = File::open(case.image()).unwrap();
    let mut part = vec![0; 256 << 10];
    file.read_exact_at(&mut part, BOOT.0).unwrap();
    let used: Vec<u64> = (0..part.len() as u64)
        .step_by(64)
        .filter(|at| part[*at as usize..][..64].iter().any(|byte| *byte != 0))
        .collect();
    for at in used.iter().step_by(used.len().div_ceil(30)) {
        case.damaged(BOOT.0 + at, &[0xff; 16]);
    }
}

/// Where tables, headers and folders lie.
#[test]
fn disks_damaged_anywhere_are_read_within_bounds() {
    let case = Case::of(PLAIN_GRUB, &plain_grub());
    let whole = fs::read(case.image()).unwrap();
    let start = prop::sample::select(vec![512, ESP.0, BOOT.0]);
    let edits = prop::collection::vec((0..(300_u64 << 10), any::<[u8; 4]>()), 1..6);
    let config = ProptestConfig { cases: 40, max_shrink_iters: 20, ..ProptestConfig::default() };
    let tried = TestRunner::new(config).run(&(start, edits), |(start, edits)| {
        let file = File::options().write(true).open(case.image()).unwrap();
        for (at, bytes) in &edits {
            file.write_all_at(bytes, start + at).unwrap();
        }
        case.answer(&format!("{edits:?} from {start}"));
        for (at, bytes) in &edits {
            let at = start + at;
            file.write_all_at(&whole[at as usize..][..bytes.len()], at).unwrap();
        }
        Ok(())
    });
    tried.unwrap();
    assert!(case.answer("whole again"));
}

/// Has debugfs change the file system for `/boot`.
fn debugfs(case: &Case, commands: &str) {
    let image = format!("{}?offset={}", case.image().display(), BOOT.0);
    let mut debugfs = Command::new("debugfs");
    debugfs.args(["-w", "-f", "-", &image]);
    run_with_input(&mut debugfs, commands.as_bytes()).ok();
}

#[test]
fn absurd_files_and_links_in_ext4_are_read_within_bounds() {
    let disk = plain_grub();
    let kernel = "vmlinuz-6.12.107+deb13-cloud-amd64";
    for (what, commands) in [
        ("2^63 bytes", format!("set_inode_field {kernel} size 0x7fffffffffffffff")),
        ("2^62 bytes", "set_inode_field grub/grub.cfg size 0x4000000000000000".to_owned()),
        ("1 GiB of nothing", format!("set_inode_field {kernel} size 0x40000000")),
        ("1 GiB of script", "set_inode_field grub/grub.cfg size 0x40000000".to_owned()),
        ("a link to itself", format!("rm {kernel}\nsymlink {kernel} {kernel}")),
        ("links in a ring", format!("rm {kernel}\nsymlink {kernel} x\nsymlink x {kernel}")),
        ("a link out", format!("rm {kernel}\nsymlink {kernel} /../../../../../etc/passwd")),
        ("a link to a folder above", "symlink grub/again ../grub".to_owned()),
        ("a folder in itself", "link grub grub/again".to_owned()),
        ("a device", format!("rm {kernel}\nmknod {kernel} b 8 0")),
        ("a pipe", format!("rm {kernel}\nmknod {kernel} p")),
        ("a folder", format!("rm {kernel}\nmkdir {kernel}")),
    ] {
        let case = Case::of(PLAIN_GRUB, &disk);
        debugfs(&case, &format!("{commands}\n"));
        // What is long and whole, or beside what is read, is a disk as any other.
        let is_good = ["1 GiB of nothing", "a link to a folder above", "a folder in itself"];
        assert!(!case.answer(what) || is_good.contains(&what), "{what}");
    }
}

#[test]
fn scripts_of_any_kind_are_walked_within_bounds() {
    let mut disk = plain_grub();
    let many = |text: &str, count: usize| text.repeat(count);
    for (what, script) in [
        ("a loop", "while true; do true; done\n".to_owned()),
        ("a loop that grows", "while true; do x=\"$x$x-\"; done\n".to_owned()),
        ("a function in itself", "function f { f; f; }\nf\n".to_owned()),
        ("a script in itself", "source /grub/grub.cfg\nsource /grub/grub.cfg\n".to_owned()),
        ("a menu in itself", "submenu x { configfile /grub/grub.cfg }\n".to_owned()),
        ("braces", many("{ ", 100_000)),
        ("conditions", many("if true; then ", 50_000)),
        ("quotes", many("\"$(", 100_000)),
        ("entries", many("menuentry x { linux /vmlinuz-6.1.0-56-cloud-amd64 ro }\n", 3_000)),
        ("menus in menus", many("submenu x { ", 10_000) + &many("}", 10_000)),
        (
            "words",
            format!(
                "menuentry x {{ linux /vmlinuz-6.1.0-56-cloud-amd64 {} }}\n",
                many("ro ", 300_000)
            ),
        ),
        (
            "noise",
            (0..200_000_u32)
                .map(|at| char::from((at.wrapping_mul(2_654_435_761) >> 24) as u8))
                .collect(),
        ),
    ] {
        disk.boot.insert("grub/grub.cfg".to_owned(), script.into_bytes());
        let case = Case::of(PLAIN_GRUB, &disk);
        assert!(!case.answer(what), "{what}");
    }
}

#[test]
fn programs_of_any_kind_are_digested_within_bounds() {
    let case = Case::of(SDBOOT, &disk(SDBOOT, b"an initrd"));
    let kernel = fs::read(guest::kernel()).unwrap();
    let start = {
        let image = fs::read(case.image()).unwrap();
        let at = image.windows(4096).position(|part| *part == kernel[..4096]);
        at.unwrap() as u64
    };
    let header = u64::from(u32::from_le_bytes(kernel[0x3c..0x40].try_into().unwrap()));
    for (at, bytes) in [
        (0x3c, &[0xff; 4][..]),
        (0x3c, &[0; 4]),
        (header, b"NE\0\0"),
        (header + 6, &[0xff; 2]),
        (header + 6, &[0; 2]),
        (header + 20, &[0xff; 2]),
        (header + 84, &[0xff; 4]),
        (header + 132, &[0xff; 4]),
        (header + 168, &[0xff; 8]),
        (header + 24 + 240 + 16, &[0xff; 8]),
    ] {
        case.damaged(start + at, bytes);
    }
}

#[test]
fn folders_of_any_kind_are_read_within_bounds() {
    let whole = disk(SDBOOT, b"an initrd");
    let case = Case::of(SDBOOT, &whole);
    whole.lay_out(&case.path("tree"));
    let esp = case.path("tree/esp");
    let keys = format!("esp = {esp:?}");
    assert!(case.answer_of(&keys, "whole"));
    let initrd = esp.join("deb/initrd");
    let put = |what: &str, make: &dyn Fn(&Path)| {
        let _ = fs::remove_file(&initrd).or_else(|_| fs::remove_dir_all(&initrd));
        make(&initrd);
        assert!(!case.answer_of(&keys, what), "{what}");
    };
    put("a link to itself", &|path| symlink(path, path).unwrap());
    put("a link to a device", &|path| symlink("/dev/zero", path).unwrap());
    put("a link to the system", &|path| symlink("/proc/self/mem", path).unwrap());
    put("a link out", &|path| symlink("../../../../../../../etc/passwd", path).unwrap());
    put("a pipe", &|path| drop(tool("mkfifo", &[path.to_str().unwrap()])));
    put("a folder", &|path| fs::create_dir(path).unwrap());
    put("8 EiB of nothing", &|path| {
        let mut file = File::create(path).unwrap();
        // As large as the file system allows.
        for bits in (40..=62).rev() {
            if file.set_len(1 << bits).is_ok() {
                break;
            }
        }
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(b"x").unwrap();
    });
}
