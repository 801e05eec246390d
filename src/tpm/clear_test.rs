//! That the recording proxy would see a secret: without encryption, it does.

use std::time::Duration;

use testkit::{Proxy, Swtpm};

use super::{StorageKey, Tpm};
use crate::measurement::{PcrBank, PcrIndex, PcrSelection};
use crate::policy::{Policy, literal_digest};

#[test]
fn without_session_encryption_the_secret_is_seen_on_the_way() {
    let swtpm = Swtpm::start();
    for (clear, seen) in [(false, false), (true, true)] {
        let proxy = Proxy::before(&swtpm);
        let mut tpm =
            Tpm::connect(&proxy.tcti().parse().unwrap(), Duration::from_secs(10)).unwrap();
        tpm.clear_sessions = clear;
        let srk = tpm.srk(true).unwrap().unwrap();
        let parent = StorageKey::Persistent { handle: srk.handle, name: Some(srk.name) };
        let selection = PcrSelection::new(PcrBank::Sha256, [PcrIndex::LATCH]);
        let values = tpm.read_pcrs(std::slice::from_ref(&selection)).unwrap();
        let (secret, object) = tpm.seal(&parent, literal_digest(&values[0]), None).unwrap();
        assert_eq!(proxy.carried(secret.expose()), seen, "sealing, in clear: {clear}");
        proxy.reset();
        tpm.unseal(&parent, &object, &Policy::literal(selection), None).unwrap();
        assert_eq!(proxy.carried(secret.expose()), seen, "unsealing, in clear: {clear}");
    }
}
