//! Passes over the volumes of a boot: what is asked, what is noted, what waits.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use support::Boot;
use testkit::image::PASSPHRASE;
use testkit::run::run;
use vmseal::measurement::PcrBank;

const PROMPT: &str = "root: -q Please unlock disk root: ";

/// No device-mapper here: what is released ends as a fault of the system. Guests show the rest.
#[test]
fn what_was_seen_and_done_is_noted() {
    let boot = Boot::new();
    boot.enroll();
    boot.write("proc/uptime", "2.50 3.00\n");
    let ran = boot.pass("", &[]).code(1);
    assert_eq!(ran.stdout, "1 root\n");
    let report = boot.report();
    let volume = &report["volumes"][0];
    assert_eq!(volume["name"], "root");
    assert_eq!(volume["uuid"], boot.uuid());
    assert_eq!(volume["exit"], 1);
    assert_eq!(report["tpm"], "ready");
    assert_eq!(report["latch"], "done");
    let pcr4 = boot.tpm.pcr("sha256", 4).to_lowercase();
    assert_eq!(report["pcrs"]["sha256"]["4"], pcr4);
    assert_eq!(report["phases"]["start"], 2500);
    let pins = std::fs::read(boot.pins()).unwrap();
    assert_eq!(report["pins_sha256"], PcrBank::Sha256.hash(&pins).to_string());
}

/// The kernel shows the host's disk when the volume is looked at already. Without any, the wait ends.
#[test]
fn signatures_on_a_disk_that_comes_late_are_heeded() {
    let boot = Boot::new();
    let signed = boot.enroll_signed();
    let ask = boot.asker("not the passphrase");
    let start = Instant::now();
    boot.pass("tries=1", &["--ask", &ask]).code(16).says("no signature covers");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(boot.asked(), [PROMPT]);

    boot.reset();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            let disk = vmseal::policy::disk::to_disk(&signed.to_string());
            boot.write("dev/vdb", &disk);
            boot.write("sys/block/vdb/device/vendor", "0x1af4\n");
            boot.write("sys/block/vdb/size", &format!("{}\n", disk.len() / 512));
            boot.write("sys/block/vdb/ro", "1\n");
        });
        // It is released; the kernel here makes no device of it.
        boot.pass("", &[]).code(1).says("cannot open the volume");
    });
    assert!(boot.is_latched());
}

#[test]
fn a_refused_boot_asks_as_often_as_crypttab_says() {
    let boot = Boot::new();
    boot.enroll();
    boot.tpm.extend(4, 0x11);
    let ask = boot.asker("not the passphrase");
    let ran = boot.pass("tries=2", &["--ask", &ask]).code(16).says("PCR 4 differs");
    ran.says("do not type the passphrase").says("the passphrase opens no keyslot");
    assert_eq!(boot.asked(), [PROMPT, PROMPT]);
    assert!(boot.is_latched());
    assert_eq!(boot.report()["volumes"][0]["exit"], 12);
    // Whoever comes again is asked again; the TPM is not.
    boot.pass("tries=1", &["--ask", &ask]).code(16);
    assert_eq!(boot.asked().len(), 3);
}

#[test]
fn the_typed_passphrase_opens_the_compared_header() {
    let boot = Boot::new();
    boot.enroll();
    boot.tpm.extend(4, 0x11);
    let ask = boot.asker(PASSPHRASE);
    // It opens the keyslot; the kernel here makes no device of it.
    boot.pass("tries=1", &["--ask", &ask]).code(1).says("the volume");
    assert_eq!(boot.asked(), [PROMPT]);
}

/// Somebody else must ask then: the exit code is none of a refusal.
#[test]
fn where_nobody_can_be_asked_the_exit_code_says_so() {
    let boot = Boot::new();
    boot.enroll();
    boot.tpm.extend(4, 0x11);
    boot.pass("", &["--ask", "/no/such/program"]).code(1).says("/no/such/program");
    let ran = boot.pass("", &["--ask", "false"]).code(1);
    ran.says("exit status: 1");
}

#[test]
fn an_impostor_is_never_asked_for() {
    let boot = Boot::new();
    boot.enroll();
    boot.image.edit_metadata(|json| {
        json["segments"]["0"]["encryption"] = "cipher_null-ecb".into();
    });
    let ask = boot.asker(PASSPHRASE);
    boot.pass("", &["--ask", &ask])
        .code(17)
        .says("cipher_null-ecb")
        .says("nor type its passphrase");
    boot.pass("", &["--ask", &ask]).code(17).says("as before");
    assert!(boot.asked().is_empty());
    assert!(boot.is_latched());
    let check = |name| {
        run(boot.command("check").arg("--crypttab").arg(boot.root().join("crypttab")).arg(name))
    };
    check("root").code(17).says("not the pinned volume");
    check("somebody-elses").ok();
}

#[test]
fn a_stock_unlocker_may_open_the_pinned_volume_only() {
    let boot = Boot::new();
    boot.enroll();
    let line = format!("root {} none luks\n", boot.image.path().display());
    boot.write("crypttab", &line);
    let check = || {
        run(boot.command("check").arg("--crypttab").arg(boot.root().join("crypttab")).arg("root"))
    };
    check().ok();
    boot.image.edit_metadata(|json| json["segments"]["0"]["type"] = "linear".into());
    check().code(17);
}

#[test]
fn the_latch_waits_for_a_missing_device() {
    let boot = Boot::new();
    boot.enroll();
    boot.tpm.extend(4, 0x11);
    let crypttab =
        format!("root {} none\ndata /no/such/device none\n", boot.image.path().display());
    let ran = boot.pass_over(&crypttab, &[]).code(3).says("PCR 4 differs");
    assert_eq!(ran.stdout, "3 data\n12 root\n");
    assert!(!boot.is_latched());
    assert_eq!(boot.report()["latch"], "pending");
    run(boot.command("latch").arg("--tcti").arg(boot.tpm.tcti())).ok();
    assert!(boot.is_latched());
    assert_eq!(boot.report()["latch"], "done");
}

#[test]
fn switched_off_by_the_command_line_nothing_is_released_and_all_is_barred() {
    let boot = Boot::new();
    boot.enroll();
    boot.write("proc/cmdline", "quiet vmseal=off\n");
    let ask = boot.asker("wrong");
    boot.pass("tries=1", &["--ask", &ask]).code(16).says("vmseal=off");
    assert_eq!(boot.asked(), [PROMPT]);
    assert!(boot.is_latched());
}

/// One initramfs for many machines: the command line says which volume is meant.
#[test]
fn the_pin_may_come_from_the_command_line() {
    let boot = Boot::new();
    boot.enroll();
    let pins = vmseal::luks::Pins::read(&boot.pins()).unwrap();
    let digest = pins.get(&boot.uuid()).unwrap().unwrap().digest();
    std::fs::remove_file(boot.pins()).unwrap();
    boot.pass("", &[]).code(17).says("has no pin");
    for (digest, code) in [("00".repeat(32), 17), (digest, 1)] {
        boot.reset();
        boot.write("proc/cmdline", &format!("vmseal.pin={}:{digest}\n", boot.uuid()));
        boot.pass("", &[]).code(code);
    }
}

#[test]
fn a_tpm_that_never_answers_costs_what_the_command_line_says() {
    let boot = Boot::new();
    boot.enroll();
    let [commands, control] = listeners();
    let tcti = format!("swtpm:host=127.0.0.1,port={}", commands.local_addr().unwrap().port());
    boot.write("proc/cmdline", "vmseal.timeout=1\n");
    let ask = boot.asker("wrong");
    boot.write("crypttab", &format!("root {} none luks,tries=1\n", boot.image.path().display()));
    let start = Instant::now();
    let mut command = boot.command("unlock");
    command.args(["--tcti", &tcti, "--ask", &ask]);
    command.arg("--crypttab").arg(boot.root().join("crypttab"));
    run(&mut command).code(16).says("did not answer within 1 s");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(boot.asked(), [PROMPT]);
    assert_eq!(boot.report()["tpm"], "failed");
    assert_eq!(boot.report()["latch"], "failed");
    let gate = run(boot.command("gate").args(["--tcti", &tcti]));
    gate.code(11).says("Repair the TPM, or start the VM without its TPM device.");
    drop(control);
}

#[test]
fn the_gate_lets_a_machine_without_a_tpm_pass() {
    let boot = Boot::new();
    run(&mut boot.command("gate")).ok();
    run(&mut boot.command("latch")).ok();
    // One that the firmware shows and nobody drives is no such machine.
    boot.write("sys/firmware/acpi/tables/TPM2", "TPM2");
    run(boot.command("gate").args(["--timeout", "1"]))
        .code(11)
        .says("start the VM without its TPM");
}

#[test]
fn the_gate_latches() {
    let boot = Boot::new();
    run(boot.command("gate").arg("--tcti").arg(boot.tpm.tcti())).ok();
    assert!(boot.is_latched());
}

/// Two ports in a row, as the TCTI wants them, where nobody answers.
fn listeners() -> [TcpListener; 2] {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if let Some(Ok(second)) =
            port.checked_add(1).map(|next| TcpListener::bind(("127.0.0.1", next)))
        {
            return [first, second];
        }
    }
}
