//! What to do next, for each error: the library says what is wrong, this says the way out.

use vmseal::Error;
use vmseal::authority::AuthorityError;
use vmseal::boot::Lacking;
use vmseal::luks::{LuksError, PinsError};
use vmseal::reference::ReferenceError;
use vmseal::reseal::StoreError;
use vmseal::template::import::ImportError;
use vmseal::template::{TemplateError, Unread};
use vmseal::tpm::TpmError;

/// One line of advice.
pub fn hint(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::Tpm(TpmError::Absent { .. }) => {
            "give the VM a TPM 2.0, or name another with --tcti device:PATH or swtpm:host=HOST,port=PORT"
        }
        Error::Tpm(TpmError::Timeout { .. }) => {
            "restart the VM's TPM, or allow it more time with --timeout SECONDS"
        }
        Error::Tpm(TpmError::NotPermitted { .. }) | Error::Luks(LuksError::NotPermitted { .. }) => {
            "run as root"
        }
        Error::Tpm(TpmError::BadTcti { .. }) => {
            "write device:/dev/tpmrm0 or swtpm:host=127.0.0.1,port=2321"
        }
        Error::Tpm(TpmError::NoSrk | TpmError::Foreign) => {
            "If you did not replace or clear the TPM, do not type the passphrase here. If you did, run: vmseal enroll DEVICE"
        }
        Error::Tpm(TpmError::Lockout) => {
            "wait until the lockout ends, or run: tpm2_dictionarylockout --clear-lockout"
        }
        Error::Tpm(TpmError::AuthRequired) => {
            "clear the TPM's owner password, which vmseal cannot give"
        }
        Error::Tpm(TpmError::BankInactive { .. }) => "choose a bank that the TPM keeps with --bank",
        Error::Tpm(TpmError::BadObject) => {
            "remove the token with: vmseal revoke DEVICE --tpm, then run: vmseal enroll DEVICE"
        }
        Error::Tpm(TpmError::WrongPin) => "try again with the right PIN: each wrong try counts",
        Error::Tpm(TpmError::BadSignature) => {
            "name a file with a valid signature of this boot's PCRs: --signature FILE"
        }
        Error::Tpm(TpmError::IndexGone { .. } | TpmError::IndexDiffers { .. }) => {
            "run systemd-pcrlock make-policy, or seal the volume anew: vmseal enroll DEVICE"
        }
        Error::Tpm(_) => "look for TPM errors in the kernel log: dmesg | grep -i tpm",
        Error::Luks(LuksError::DeviceMissing { .. }) => "check the path: lsblk lists block devices",
        Error::Luks(LuksError::NotLuks2 { .. }) => {
            "name the partition that holds the LUKS2 header: lsblk -f lists crypto_LUKS volumes"
        }
        Error::Luks(LuksError::HeaderDamaged { .. } | LuksError::HeaderTooLarge { .. }) => {
            "restore a header backup with: cryptsetup luksHeaderRestore"
        }
        Error::Luks(LuksError::Busy { .. }) => "wait for the other program to end, then try again",
        Error::Luks(LuksError::WrongPassphrase { .. }) => {
            "try again with a passphrase of this volume"
        }
        Error::Luks(
            LuksError::JsonAreaFull { .. } | LuksError::NoFreeKeyslot | LuksError::NoFreeToken,
        ) => {
            "remove a keyslot that is no longer needed: vmseal status DEVICE, vmseal revoke DEVICE --keyslot N"
        }
        Error::Luks(LuksError::NameInUse { .. }) => {
            "choose another name, or close the open device first"
        }
        Error::Luks(LuksError::NoSuchKeyslot { .. }) => "vmseal status DEVICE lists the keyslots",
        Error::Luks(_) => "look for errors of the disk in the kernel log: dmesg",
        Error::Pins(PinsError::Io { kind: std::io::ErrorKind::PermissionDenied, .. }) => {
            "run as root, or name another file with --pins FILE"
        }
        Error::Pins(_) => "repair or remove the pins file, then run: vmseal enroll DEVICE",
        Error::Store(StoreError::Io { kind: std::io::ErrorKind::PermissionDenied, .. }) => {
            "run as root"
        }
        Error::Store(StoreError::Io { .. }) => {
            "make room, or repair the file system: what is not in the journal is not done"
        }
        Error::Store(StoreError::Busy { .. }) => {
            "wait for the other program to end, then try again"
        }
        Error::Store(StoreError::Newer { .. }) => "use the vmseal that wrote it",
        Error::Store(StoreError::Malformed { .. }) => {
            "if you did not edit it, find out who did: vmseal journal --verify. Restore it, or move it away"
        }
        Error::Store(StoreError::TooLarge { .. } | StoreError::LineTooLong { .. }) => {
            "move it to where it is kept: the next journal begins by saying that this one is gone"
        }
        Error::Store(StoreError::NotWhole { .. }) => {
            "find out who changed it; the system journal has a copy of each line: journalctl -t vmseal"
        }
        Error::NotPinned(_) => {
            "this is not the volume that was enrolled: do not type its passphrase; compare with a header backup. If you reencrypted it yourself, remove its entry from the pins file, then run: vmseal enroll DEVICE"
        }
        Error::NotComparable { .. } => "compare the device with a header backup",
        Error::StillOpen { .. } => "power the machine off: the TPM would release the key once more",
        Error::NoPin { .. } => {
            "a volume is pinned when it is enrolled or adopted: vmseal enroll DEVICE, or vmseal adopt DEVICE"
        }
        Error::Unpinnable(_) => {
            "only a finished LUKS2 volume with one encrypted segment can be sealed"
        }
        Error::NoToken => "seal the volume to this TPM: vmseal enroll DEVICE",
        Error::BadToken { .. } => {
            "remove it with: vmseal revoke DEVICE --tpm, then run: vmseal enroll DEVICE"
        }
        Error::PcrMismatch { mismatch, .. } if mismatch.is_only_latched() => {
            "to prove that the next boot opens, compare with: vmseal status DEVICE"
        }
        Error::PcrMismatch { .. } => {
            "If you did not make this change, do not type the passphrase here. If you did, and checked it, run: vmseal enroll DEVICE"
        }
        Error::Unapproved { unapproved, .. } => match unapproved.lacking {
            Lacking::Signature { .. } => {
                "If you did not make this change, do not type the passphrase here. Else have this boot's PCRs signed, and name the file with --signature FILE; by this machine's own key: vmseal enroll DEVICE --policy authority"
            }
            Lacking::PcrlockPolicy => {
                "run systemd-pcrlock make-policy, or seal the volume anew: vmseal enroll DEVICE"
            }
        },
        Error::SignatureFile { .. } => {
            "name a tpm2-pcr-signature.json as systemd-measure writes it"
        }
        Error::SrkPublic { .. } => {
            "write it in the VM, or on its vTPM: systemd-analyze srk >FILE, or tpm2_readpublic -c 0x81000001 -o FILE"
        }
        Error::NoAuthorityPublic => {
            "name its public half with --authority-public FILE, or seal to the log's values with --policy pcr"
        }
        Error::AuthorityKey { .. } => {
            "give the public half of an RSA key in PEM: openssl pkey -in KEY -pubout"
        }
        Error::Authority(error) => authority_hint(error),
        Error::Reference(error) => reference_hint(error),
        Error::Template(error) => template_hint(error),
        Error::NotCoveredVms { .. } => {
            "the other machines open. Correct the template, or give it a reference boot of such a machine; vmseal reseal --template NAME --dry-run names each"
        }
        Error::PinNeeded { .. } => "give the PIN at the terminal, or in a file: --pin-file FILE",
        Error::WrongPin { .. } => "try again with the right PIN: each wrong try counts",
        Error::KeyslotRefused { .. } | Error::KeyslotTooCostly { .. } => {
            "the keyslot was changed after enrolling: run vmseal enroll DEVICE"
        }
        Error::LogMissing { .. } => {
            "boot by UEFI with a TPM and securityfs mounted, or name a log with --eventlog FILE"
        }
        Error::LogMalformed { .. } => "name a whole log with --eventlog FILE",
        Error::UserspaceLogMalformed { .. } => "name another log with --userspace-log FILE",
        Error::LogDisagrees { .. } => {
            "something was measured that the log does not tell: reboot, and compare with: vmseal eventlog --verify"
        }
        Error::LogLacksBank { .. } => "choose a bank of the log with --bank",
        Error::NotCovered { .. } => {
            "boot by a path that measures it (a UKI, or UEFI GRUB 2.12), or accept the risk with --allow-uncovered WHAT"
        }
        Error::Pcrs(_) => "write PCRs as 0+4+7, or auto",
        Error::EmptySeal { .. } => {
            "choose PCRs that this boot has measured something into: vmseal eventlog"
        }
        Error::LastKeyslot { .. } => {
            "first add another: vmseal enroll DEVICE --recovery-key, or cryptsetup luksAddKey DEVICE"
        }
        Error::NotSealed { .. } => {
            "somebody edited the header: vmseal status DEVICE; remove the token alone with: cryptsetup token remove"
        }
        Error::NotShown { .. } => {
            "the sealed keyslot stays; run vmseal enroll DEVICE --recovery-key where its output can be read"
        }
        Error::RecordNewer { .. } => {
            "use the vmseal that wrote it, or give its record up with: cryptsetup token remove"
        }
        Error::NothingToRevoke => "vmseal status DEVICE lists keyslots and tokens",
        Error::NoPassphrase { .. } => "give the passphrase in a file: --unlock-key-file FILE",
        Error::RecordFull => {
            "withdraw those that are no longer booted: vmseal reseal --narrow; or vmseal status DEVICE, vmseal revoke DEVICE --keyslot N"
        }
        Error::NothingApproved { .. } => {
            "boots are approved from when a volume is enrolled on: vmseal enroll DEVICE"
        }
        Error::NotApproved { .. } => {
            "the boots approved before still open, others ask for the passphrase. Look at what changed, and approve it at a terminal: vmseal reseal"
        }
        Error::ChangedSince { .. } => "run it again, and look at what changed",
        Error::Narrow { .. } => {
            "boot it once: vmseal confirm, which runs at boot, notes that it opened"
        }
        Error::KeyslotGone { .. } => "seal the volume anew: vmseal enroll DEVICE",
        Error::Artifact { .. } => {
            "name a file or folder that can be read, in the form that vmseal(8) tells"
        }
        Error::BadSet { .. } => {
            "write --set PATH=FILE, --set PATH=@DIGESTS.json or --set @DIGESTS.json"
        }
        Error::BadVariable { .. } => {
            "files are approved as they lie on the disk, and what shim's MokManager will do is not told in advance: reboot, then run vmseal reseal"
        }
        Error::BadQemu { .. } => "write the version as QEMU does: --qemu 10.0",
        Error::NoSuchEntry { .. } => {
            "vmseal predict without --entry and --kernel-release tells every entry"
        }
        Error::Unforeseen(_) => "reboot once, then run vmseal enroll DEVICE again",
        Error::RootNotEncrypted { .. } => {
            "encrypt the root first, or accept that whoever has its disk has the key: --allow-unencrypted-root"
        }
        Error::KeyFile { .. } => "look at the file, or move it away: a new key is made then",
        Error::Crypttab { .. } => "repair the file, or choose another name with --name NAME",
        Error::RebuildFailed { .. } => {
            "repair it, then run vmseal enroll DEVICE again: until then the disk opens as before"
        }
        Error::BaseNotReproduced(_) => {
            "give the files of the boot that the log is of with --base-esp and --base-boot, or leave these out"
        }
        _ => return None,
    })
}

fn template_hint(error: &TemplateError) -> &'static str {
    match error {
        TemplateError::Missing { .. } | TemplateError::None { .. } => {
            "a template is a file /etc/vmseal/templates.d/NAME.toml, in the form that vmseal(8) tells"
        }
        TemplateError::Exposed { .. } => {
            "look whether somebody changed it, then: chmod go-w; whoever writes it decides what is signed"
        }
        TemplateError::Foreign { .. } => {
            "look whether he changed it, then: chown root; whoever writes it decides what is signed"
        }
        TemplateError::Import { error, .. } => import_hint(error),
        TemplateError::Exists { .. } => {
            "choose another name, look at what would be written with --dry-run, or overwrite it with --replace"
        }
        TemplateError::NoMachine { .. } => "vmseal template check --all --json names every machine",
        TemplateError::Faulty { .. } => {
            "nothing was changed; vmseal template check --all names every fault. Correct them first: the form of a template is in vmseal(8)"
        }
        TemplateError::Untold { .. } => {
            "name it in its template, or correct what vmseal template check --all tells; or take the signatures out of its XML"
        }
        TemplateError::NotDelivered { .. } => {
            "vmseal template check NAME tells why. Look at what changed, and approve it: vmseal reseal --template NAME"
        }
        TemplateError::Malformed { .. } => "correct it: vmseal(8) tells the form of a template",
        TemplateError::Account { .. } => {
            "restore it, or move it away: then all that the template tells is approved anew"
        }
        TemplateError::TooLarge { keys: 2.., .. } => {
            "name fewer memory sizes and processor counts, drop older boots with --narrow, or deliver otherwise than by QubesDB until the rotation is finished; the files are as they were"
        }
        TemplateError::NotSignedAnew { .. } => {
            "nothing was changed. Run vmseal reseal --template NAME, and enroll every machine with the public half that vmseal authority export NAME prints; then finish the rotation"
        }
        TemplateError::TooLarge { .. } => {
            "name fewer memory sizes and processor counts, or drop older boots: --narrow"
        }
        TemplateError::SameFile { .. } => "give each template a folder of its own in [delivery]",
        TemplateError::Unread { cause: Unread::Refused(_), .. } => {
            "correct what the template names, or give the host a kernel with Landlock; nothing of it was approved, signed or changed"
        }
        TemplateError::Unread { .. } => {
            "its disk is damaged, or made to look so: find out who wrote it. Nothing of this template was approved, signed or changed"
        }
        TemplateError::Io { .. } => "run as root, where the file system has room",
    }
}

fn import_hint(error: &ImportError) -> &'static str {
    match error {
        ImportError::NotXml { .. } | ImportError::NotDomain { .. } => {
            "give what libvirt prints of a machine: virsh dumpxml MACHINE"
        }
        ImportError::NotQemu | ImportError::Shell { .. } => {
            "give the command line of the machine while it runs: /proc/PID/cmdline"
        }
        ImportError::OwnDisk => {
            "where such machines are copies of one disk, write a template with boot = \"disk\": vmseal(8); else each approves its own boots: vmseal enroll in it, then vmseal reseal"
        }
        ImportError::Bios => {
            "start it with OVMF: only UEFI measures the kernel, the initrd and the command line"
        }
        ImportError::NoInitrd => "only an initrd can open a volume: give the machine one",
        ImportError::Differs { .. } => {
            "make one template of each: vmseal template add, with the files of its machines"
        }
        ImportError::Name { .. } => {
            "a name has at most 64 letters, digits, dots, dashes and underscores"
        }
        ImportError::NoName => "start each machine with -name NAME, or name one FILE only",
        ImportError::Nothing
        | ImportError::TooLong { .. }
        | ImportError::Number { .. }
        | ImportError::Untellable { .. } => "write the template by hand: vmseal(8) tells its form",
    }
}

fn reference_hint(error: &ReferenceError) -> &'static str {
    match error {
        ReferenceError::Template { .. } => {
            "complete it: vmseal(8) tells the form of a template, and of its [machine]"
        }
        ReferenceError::NoDisk { .. } => {
            "name the whole disk by image, or give the template the log of a boot that the host itself started: [[reference]]"
        }
        ReferenceError::Program { .. } => {
            "install it (packages qemu-system-x86, swtpm, swtpm-tools), or name another in [machine]; vmseal reference-boot --dry-run prints the whole command line"
        }
        ReferenceError::Ended { seen } | ReferenceError::NotLatched { seen, .. }
            if seen.extends == 0 =>
        {
            "look at how it is started: vmseal reference-boot --dry-run. The firmware must be an OVMF that measures, for this type of machine; or allow it more time with --limit SECONDS"
        }
        ReferenceError::Ended { .. } => {
            "the initramfs must have vmseal's hook, which latches before it ends; look at it with the command line of: vmseal reference-boot --dry-run"
        }
        ReferenceError::NotLatched { .. } => {
            "the initramfs must have vmseal's hook, which latches before anything runs from the disk; allow it more time with --limit SECONDS"
        }
        ReferenceError::Stream(_) | ReferenceError::Disagrees { .. } => {
            "something in the template's files meddles with the TPM: find out which of them, and approve nothing of it"
        }
        ReferenceError::Mute => "look whether swtpm works, and keeps the template's bank",
        ReferenceError::Unfit(_) => {
            "the kernel must have a TPM driver and EFI; if something else measures before the latch, leave it out of the initramfs"
        }
        ReferenceError::Foretold { .. } => {
            "look whether the template names the files that its machines boot; else its boots cannot be told in advance"
        }
        ReferenceError::Version { .. } => {
            "name the QEMU of the machines in [machine], or correct qemu"
        }
        ReferenceError::None { .. } => "run: vmseal reference-boot NAME",
        ReferenceError::Stale { .. } => "boot it anew: vmseal reference-boot NAME",
        ReferenceError::Malformed { .. } => "move it away, then run: vmseal reference-boot NAME",
        ReferenceError::Io { .. } => "run as root, where the file system has room; check the path",
    }
}

fn authority_hint(error: &AuthorityError) -> &'static str {
    match error {
        AuthorityError::Missing { .. } => {
            "make the key: vmseal authority init, for a template: vmseal authority init NAME"
        }
        AuthorityError::Exists { .. } => {
            "vmseal authority show tells of it, vmseal authority rotate replaces it"
        }
        AuthorityError::Malformed { .. } => {
            "name another with --key FILE, or move it away, run vmseal authority init, and enroll every volume again"
        }
        AuthorityError::Exposed { .. } => {
            "if nobody else can have read it: chmod 600; else: vmseal authority rotate"
        }
        AuthorityError::Foreign { .. } => "run: vmseal authority rotate",
        AuthorityError::OfAnother { .. } => {
            "each template has a key of its own: vmseal authority init NAME"
        }
        AuthorityError::Name { .. } => {
            "a name has at most 64 letters, digits, dots, dashes and underscores"
        }
        AuthorityError::NoMachineId { .. } => {
            "a machine gets its ID at its first boot, or by: systemd-machine-id-setup"
        }
        AuthorityError::Template { .. } => {
            "make the key in the machine itself, or take the risk: vmseal authority init --allow-unprotected"
        }
        AuthorityError::Unprotected { .. } => {
            "name a file on an encrypted volume with --key FILE, or take the risk: vmseal authority init --allow-unprotected"
        }
        AuthorityError::Unfinished { template: Some(_), .. } => {
            "machines may still open by it alone: enroll each again with the present key, then run vmseal authority rotate NAME --finish"
        }
        AuthorityError::NotRotated { .. } => {
            "vmseal authority rotate NAME without --finish replaces the key"
        }
        AuthorityError::Unconfirmed { .. } => {
            "nothing was changed. A machine that is enrolled with the key before only would ask for its passphrase. Once each is enrolled again, say so at a terminal or with --yes"
        }
        AuthorityError::Unfinished { template: None, .. } => {
            "vmseal authority show names the volumes to be enrolled again; remove the file by hand where these are gone"
        }
        AuthorityError::Busy { .. } => "wait for the other program to end, then try again",
        AuthorityError::Io { .. } => "run as root, where the file system has room",
        AuthorityError::Signing(_) => "look whether the machine's OpenSSL works: openssl version",
    }
}
