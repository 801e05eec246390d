//! What stock systemd enrols, by kind and version, and that vmseal opens it: one row each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::Write;

use testkit::machine::BASE;
use testkit::systemd::PIN;
use testkit::{Authority, Image, Machine, Swtpm, Systemd, run, tool};

const VMSEAL: &str = env!("CARGO_BIN_EXE_vmseal");
/// The PCRs that the authority signs in these tests.
const SIGNED: [u8; 2] = [4, 9];

/// A kind of token: its name, who can write it, how, and what a change of PCR 4 or 7 ends with.
struct Kind {
    name: &'static str,
    since: u32,
    until: u32,
    options: &'static [&'static str],
    /// The exit codes after PCR 4, 5 or 7 was extended; `None` where it opens.
    refused: [Option<i32>; 3],
    summary: &'static str,
}

const KINDS: [Kind; 13] = [
    Kind {
        name: "literal PCRs",
        since: 248,
        until: 999,
        options: &["--tpm2-pcrs=4+7"],
        refused: [Some(12), None, Some(12)],
        summary: "PCRs 4+7 (sha256)",
    },
    Kind {
        name: "literal PCRs, sha384 bank",
        since: 255,
        until: 999,
        options: &["--tpm2-pcrs=4:sha384+7:sha384"],
        refused: [Some(12), None, Some(12)],
        summary: "PCRs 4+7 (sha384)",
    },
    Kind {
        name: "no PCRs",
        since: 252,
        until: 999,
        options: &["--tpm2-pcrs="],
        refused: [None, None, None],
        summary: "no PCR",
    },
    Kind {
        name: "PIN, as typed",
        since: 251,
        until: 252,
        options: &["--tpm2-pcrs=7", "--tpm2-with-pin=yes"],
        refused: [None, None, Some(12)],
        summary: "PCRs 7 (sha256), with a PIN",
    },
    Kind {
        name: "PIN, PBKDF2",
        since: 253,
        until: 261,
        options: &["--tpm2-pcrs=7", "--tpm2-with-pin=yes"],
        refused: [None, None, Some(12)],
        summary: "PCRs 7 (sha256), with a PIN",
    },
    Kind {
        name: "PIN, Argon2id",
        since: 262,
        until: 999,
        options: &["--tpm2-pcrs=7", "--tpm2-with-pin=yes"],
        refused: [None, None, Some(12)],
        summary: "PCRs 7 (sha256), with a PIN (Argon2id)",
    },
    Kind {
        name: "signed PCRs",
        since: 252,
        until: 999,
        options: &["--tpm2-pcrs=", "SIGNED"],
        refused: [Some(19), None, None],
        summary: "signed PCRs 4+9 (sha256)",
    },
    Kind {
        name: "signed and literal PCRs, PIN",
        since: 252,
        until: 999,
        options: &["--tpm2-pcrs=7", "SIGNED", "--tpm2-with-pin=yes"],
        refused: [Some(19), None, Some(12)],
        summary: "signed PCRs 4+9 (sha256) and PCRs 7 (sha256), with a PIN",
    },
    Kind {
        name: "signed PCRs with a policyRef",
        since: 262,
        until: 999,
        options: &["--tpm2-pcrs=", "SIGNED", "--tpm2-public-key-policyref=reference"],
        refused: [Some(19), None, None],
        summary: "signed PCRs 4+9 (sha256)",
    },
    Kind {
        name: "pcrlock",
        since: 255,
        until: 999,
        options: &["--tpm2-pcrs=", "PCRLOCK"],
        // The policy has two values for PCR 4.
        refused: [None, Some(12), None],
        summary: "pcrlock's NV index 0x1",
    },
    Kind {
        name: "pcrlock and literal PCRs, PIN",
        since: 255,
        until: 999,
        options: &["--tpm2-pcrs=7", "PCRLOCK", "--tpm2-with-pin=yes"],
        refused: [None, Some(12), Some(12)],
        summary: "pcrlock's NV index 0x1",
    },
    Kind {
        name: "signed PCRs and pcrlock, in two shards",
        since: 257,
        until: 999,
        options: &["--tpm2-pcrs=", "SIGNED", "PCRLOCK"],
        refused: [Some(19), Some(12), None],
        summary: "signed PCRs 4+9 (sha256) and pcrlock's NV index 0x1",
    },
    Kind {
        name: "literal PCRs, sealed outside the TPM",
        since: 255,
        until: 999,
        options: &["OFFLINE"],
        refused: [Some(12), None, Some(12)],
        summary: "PCRs 4+7 (sha256), sealed outside the TPM",
    },
];

struct Bench {
    machine: Machine,
    authority: Authority,
}

impl Bench {
    fn new() -> Self {
        let machine = Machine::with_tpm(VMSEAL, Swtpm::with_banks(&["sha256", "sha384"]), BASE);
        std::fs::write(machine.file("pin"), format!("{PIN}\n")).unwrap();
        let authority = Authority::new(machine.folder.path(), "authority");
        Self { machine, authority }
    }

    /// A fresh disk, enrolled by `systemd`.
    fn enroll(&mut self, systemd: Systemd, kind: &Kind) {
        self.machine.boot(BASE);
        self.machine.image = Image::create(self.machine.folder.path());
        let key = format!("--tpm2-public-key={}", self.authority.public().display());
        let pcrs = format!("--tpm2-public-key-pcrs={}+{}", SIGNED[0], SIGNED[1]);
        let file = |name: &str| self.machine.file(name);
        let pcrlock_file = file("root/var/lib/systemd/pcrlock.json");
        std::fs::create_dir_all(pcrlock_file.parent().unwrap()).unwrap();
        let _ = std::fs::remove_file(&pcrlock_file);
        let pcrlock = format!("--tpm2-pcrlock={}", pcrlock_file.display());
        let (tpm, image) = (&self.machine.tpm, &self.machine.image);
        let mut options = vec![];
        for option in kind.options {
            match *option {
                "SIGNED" => options.extend([key.as_str(), pcrs.as_str()]),
                "PCRLOCK" => {
                    systemd.make_pcrlock(tpm, self.machine.log(), &pcrlock_file).ok();
                    options.push(pcrlock.as_str());
                }
                other => options.push(other),
            }
        }
        if !kind.options.contains(&"SIGNED") && systemd != Systemd::Host {
            options.push("--tpm2-public-key=");
        }
        if kind.options == ["OFFLINE"] {
            let srk = file("srk.pub");
            let handle = ["-Q", "-T", &tpm.tcti(), "-c", "0x81000001", "-o"];
            tool("tpm2_readpublic", &[&handle[..], &[srk.to_str().unwrap()]].concat());
            let value = |pcr| format!("{pcr}:sha256={}", tpm.pcr("sha256", pcr));
            let pcrs = format!("--tpm2-pcrs={}+{}", value(4), value(7));
            systemd.enroll_offline(&srk, image, &[&pcrs, "--tpm2-public-key="]).ok();
        } else {
            systemd.enroll(tpm, image, &options).ok();
        }
        let reference = kind.name.contains("policyRef").then_some("reference");
        let signatures = self.authority.sign_for(tpm, "sha256", &SIGNED, reference);
        std::fs::write(self.machine.file("signatures.json"), signatures.to_string()).unwrap();
    }

    fn unlock(&self) -> testkit::Ran {
        let mut unlock = self.machine.vmseal(&["unlock", "--test", "--quiet"]);
        unlock.arg("--pin-file").arg(self.machine.file("pin"));
        unlock.arg("--signature").arg(self.machine.file("signatures.json"));
        unlock.arg("--root").arg(self.machine.file("root"));
        run(unlock.arg(self.machine.image.path()))
    }
}

#[test]
fn every_kind_of_every_systemd_opens() {
    let mut bench = Bench::new();
    let mut rows = vec![];
    for systemd in [Systemd::Host, Systemd::Backports, Systemd::Trixie, Systemd::Forky] {
        let version = systemd.version();
        for kind in KINDS.iter().filter(|kind| (kind.since..=kind.until).contains(&version)) {
            bench.enroll(systemd, kind);
            let what = format!("{} of systemd {version}", kind.name);
            let ran = bench.unlock();
            assert_eq!(ran.code, Some(0), "{what}: {ran:#?}");
            let status = bench.machine.status(&["--json"]).ok().json();
            let token = &status["volumes"][0]["tokens"][0];
            assert!(token["needs"].as_str().unwrap().starts_with(kind.summary), "{what}: {token}");
            assert!(token["written_since"].as_u64().unwrap() <= version.into(), "{what}");
            for (pcr, code) in [4, 5, 7].into_iter().zip(kind.refused) {
                bench.machine.boot(BASE);
                bench.machine.tpm.extend(pcr, 1);
                let ran = bench.unlock();
                assert_eq!(ran.code, Some(code.unwrap_or(0)), "{what}, other PCR {pcr}: {ran:#?}");
            }
            assert_eq!(bench.machine.tpm.lockout_counter(), 0, "{what}");
            assert_eq!(bench.machine.tpm.loaded(), 0, "{what}");
            rows.push(what);
        }
    }
    // Shown in every run: unlike println!, this is not captured.
    let _ = writeln!(std::io::stderr(), "opened by vmseal:\n  {}", rows.join("\n  "));
}
