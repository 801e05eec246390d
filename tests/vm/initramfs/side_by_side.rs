//! `make vm-bench`: vmseal, systemd-cryptsetup and clevis open the same root in the same guest. How
//! long each initramfs takes, and how much each unlocker adds to it.
//!
//! From the kernel's "Run /init" to the root's init, both on the kernel's clock. Each unlocker boots
//! once a round, so that noise of the machine meets all of them. The peers seal to PCR 4 and 7, as
//! they stood in vmseal's first boot: another initramfs moves neither. vmseal seals as it does.

// A benchmark is a program for the terminal.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::image::PASSPHRASE;
use testkit::run::run;
use testkit::{Recording, Swtpm, Systemd};

use super::installed::{Installed, LOGIN};
use super::kind::{DRACUT_KERNEL, INITRAMFS_KERNEL, Kind, Unlocker};
use crate::guest::Boot;
use crate::rig;
use crate::workshop::text;

/// Rounds, unless this variable says another number.
const ROUNDS: usize = 5;
const ROUNDS_VARIABLE: &str = "VMSEAL_BENCH_ROUNDS";
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const BEGIN: &str = "Run /init as init process";
const END: &str = "rig: root";
const MIB: f64 = 1_048_576.0;

/// An unlocker in a machine of its own, and what was measured.
struct Contender {
    kind: Kind,
    installed: Installed,
    /// Seconds.
    times: Vec<f64>,
    /// Those of vmseal's report, in milliseconds.
    phases: BTreeMap<String, Vec<f64>>,
}

impl Contender {
    /// All that this generator can carry, vmseal first.
    fn all_of(kind: Kind) -> Vec<Self> {
        let vmseal = Installed::new(kind);
        let log = vmseal.guest.file("event-log");
        fs::write(&log, enroll_vmseal(&vmseal)).unwrap();
        let mut all = vec![];
        if kind.generator == "dracut" {
            let systemd = Installed::with_words(
                Kind { unlocker: Unlocker::Systemd, ..kind },
                " rd.luks.options=tpm2-device=auto",
            );
            enroll_systemd(&tpm_after(&log, &systemd), &systemd);
            all.push(Self::new(Kind { unlocker: Unlocker::Systemd, ..kind }, systemd));
        }
        let clevis = Installed::new(Kind { unlocker: Unlocker::Clevis, ..kind });
        enroll_clevis(&tpm_after(&log, &clevis), &clevis);
        all.push(Self::new(Kind { unlocker: Unlocker::Clevis, ..kind }, clevis));
        all.insert(0, Self::new(kind, vmseal));
        all
    }

    fn new(kind: Kind, installed: Installed) -> Self {
        Self { kind, installed, times: vec![], phases: BTreeMap::new() }
    }

    /// One boot that nobody types in.
    fn boot(&mut self) {
        let stamps = format!("dmesg | grep -e '{BEGIN}' -e '{END}'");
        let mut boot = Boot::new().run(&stamps);
        if self.kind.unlocker == Unlocker::Vmseal {
            boot = boot.run("cat /run/vmseal/boot.json");
        }
        let mut console = self.installed.boot(&boot);
        console.await_text(LOGIN);
        let stamps = console.exits(0);
        let begin = stamp(&stamps, BEGIN);
        self.times.push(stamp(&stamps, END) - begin);
        if self.kind.unlocker == Unlocker::Vmseal {
            let report: serde_json::Value = serde_json::from_str(&console.exits(0)).unwrap();
            for (phase, took) in report["phases"].as_object().unwrap() {
                let took = took.as_f64().unwrap();
                // The only one that is a moment.
                let took = if phase == "start" { took - begin * 1e3 } else { took };
                self.phases.entry(phase.clone()).or_default().push(took);
            }
        }
        console.await_off();
    }

    fn row(&mut self) -> String {
        let Kind { generator, unlocker, .. } = self.kind;
        let median = median(&mut self.times);
        let (least, most) = (self.times[0], self.times[self.times.len() - 1]);
        let added = (self.initrd(unlocker) - self.initrd(Unlocker::None)) / MIB;
        let phases: Vec<String> = self
            .phases
            .iter_mut()
            .map(|(name, took)| format!("{name} {}", median_ms(took)))
            .collect();
        format!(
            "| {generator} | {} | {median:.2} s | {least:.2} to {most:.2} s | {added:.2} MiB | {} |",
            unlocker.name(),
            phases.join(", ")
        )
    }

    /// The size of the compressed initramfs with this unlocker.
    fn initrd(&self, unlocker: Unlocker) -> f64 {
        let initrd = Kind { unlocker, ..self.kind }.part("initrd");
        fs::metadata(initrd).unwrap().len() as f64
    }
}

/// The first boot, by passphrase. Returns its event log.
fn enroll_vmseal(installed: &Installed) -> Vec<u8> {
    let boot = Boot::new()
        .file("passphrase", PASSPHRASE.into())
        .run("vmseal enroll /dev/volume --unlock-key-file /passphrase")
        .run(&format!("cat {EVENT_LOG} >/out/event-log"));
    let mut console = installed.boot(&boot);
    console.await_passphrase_prompt();
    console.enter(PASSPHRASE);
    console.await_text(LOGIN);
    console.exits(0);
    console.exits(0);
    console.await_off();
    installed.guest.output("event-log")
}

/// The machine's TPM, as if it had just booted.
fn tpm_after(log: &Path, installed: &Installed) -> Swtpm {
    let tpm = Swtpm::on_state(&installed.guest.file("tpm"));
    Recording::from_event_log(log).replay_into(&mut tpm.wire());
    tpm
}

fn enroll_systemd(tpm: &Swtpm, installed: &Installed) {
    let mut enroll = Systemd::Trixie.command("systemd-cryptenroll");
    enroll.env("PASSWORD", PASSPHRASE).arg(format!("--tpm2-device={}", tpm.tcti()));
    enroll.args(["--tpm2-pcrs=4+7", "--tpm2-public-key=", text(&installed.guest.volume())]);
    run(&mut enroll).ok();
    tpm.flush();
}

fn enroll_clevis(tpm: &Swtpm, installed: &Installed) {
    let key = installed.guest.file("passphrase");
    fs::write(&key, PASSPHRASE).unwrap();
    let mut bind = Command::new("clevis");
    bind.args(["luks", "bind", "-y", "-k", text(&key), "-d", text(&installed.guest.volume())]);
    bind.args(["tpm2", r#"{"pcr_bank":"sha256","pcr_ids":"4,7"}"#]);
    run(bind.env("TPM2TOOLS_TCTI", tpm.tcti())).ok();
    tpm.flush();
}

/// Seconds on the kernel's clock when it logged this line: `[    1.234567] LINE`.
fn stamp(log: &str, line: &str) -> f64 {
    let found = log.lines().find(|candidate| candidate.ends_with(line)).expect("the line");
    found.trim_start_matches('[').split(']').next().unwrap().trim().parse().expect("a time")
}

/// Sorts.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}

fn median_ms(values: &mut [f64]) -> String {
    format!("{:.0} ms", median(values))
}

#[test]
#[ignore = "a benchmark, for an idle machine"]
fn unlockers_side_by_side() {
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let mut contenders: Vec<Contender> =
        [INITRAMFS_KERNEL, DRACUT_KERNEL].into_iter().flat_map(Contender::all_of).collect();
    for _ in 0..rounds {
        contenders.iter_mut().for_each(Contender::boot);
    }
    println!("\n{rounds} boots each, one processor, `{}`\n", rig::accelerator().join(" "));
    println!("| initramfs | unlocker | median | range | added | phases of vmseal-boot |");
    println!("|---|---|---|---|---|---|");
    for contender in &mut contenders {
        println!("{}", contender.row());
    }
}
