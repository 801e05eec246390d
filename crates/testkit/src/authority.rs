//! Whoever approves PCR values: an RSA key in a folder, and the `openssl` command.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::run::run_with_input;
use crate::swtpm::Swtpm;
use crate::wire::alg_id;

/// A key pair.
pub struct Authority {
    private: PathBuf,
    public: PathBuf,
}

impl Authority {
    /// A new key of 2048 bits, its files in `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        let private = folder.join(format!("{name}.pem"));
        let public = folder.join(format!("{name}.pub"));
        let mut make = openssl(&["genpkey", "-algorithm", "RSA"]);
        make.args(["-pkeyopt", "rsa_keygen_bits:2048", "-out"]).arg(&private);
        run_with_input(&mut make, b"").ok();
        let mut publish = openssl(&["pkey", "-pubout", "-in"]);
        run_with_input(publish.arg(&private).arg("-out").arg(&public), b"").ok();
        Self { private, public }
    }

    /// The public half, in PEM.
    pub fn public(&self) -> &Path {
        &self.public
    }

    /// The private half, in PEM.
    pub fn private(&self) -> &Path {
        &self.private
    }

    /// A signature file for PCRs as `tpm` holds them now.
    pub fn sign(&self, tpm: &Swtpm, bank: &str, pcrs: &[u8]) -> Value {
        self.sign_for(tpm, bank, pcrs, None)
    }

    /// The same, with a policyRef (systemd 262).
    pub fn sign_for(&self, tpm: &Swtpm, bank: &str, pcrs: &[u8], reference: Option<&str>) -> Value {
        let mut mask = [0; 3];
        let mut values = Sha256::new();
        for pcr in pcrs {
            mask[usize::from(pcr / 8)] |= 1 << (pcr % 8);
            values.update(hex::decode(tpm.pcr(bank, *pcr)).unwrap());
        }
        let mut policy = Sha256::new();
        policy.update([0; 32]);
        policy.update(0x17f_u32.to_be_bytes());
        policy.update([0, 0, 0, 1]);
        policy.update(alg_id(bank).to_be_bytes());
        policy.update([3]);
        policy.update(mask);
        policy.update(values.finalize());
        let policy = policy.finalize();
        let mut sign = openssl(&["dgst", "-sha256", "-sign"]);
        let mut message = policy.to_vec();
        if let Some(reference) = reference {
            message.extend(Sha256::digest(reference));
        }
        let mut entry = json!({
            "pcrs": pcrs,
            "pkfp": self.fingerprint(),
            "pol": hex::encode(policy),
            "sig": STANDARD.encode(run_bytes(sign.arg(&self.private), &message)),
        });
        if let Some(reference) = reference {
            entry["ref"] = reference.into();
        }
        json!({ bank: [entry] })
    }

    fn fingerprint(&self) -> String {
        let mut convert =
            openssl(&["rsa", "-pubin", "-RSAPublicKey_out", "-outform", "DER", "-in"]);
        hex::encode(Sha256::digest(run_bytes(convert.arg(&self.public), b"")))
    }
}

fn openssl(arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments);
    command
}

fn run_bytes(command: &mut Command, input: &[u8]) -> Vec<u8> {
    use std::io::Write;
    use std::process::Stdio;
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("openssl (package openssl)");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl failed");
    output.stdout
}
