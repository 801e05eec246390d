//! Which entry of `db` vouches for an image: an `EV_EFI_VARIABLE_AUTHORITY` event in PCR 7.

use std::collections::HashSet;

use super::Measured;
use super::der::{Certificate, SignedData};
use super::efivar::{PolicyVariable, measured_in_7, variable_data};
use super::signature_list::SignatureLists;
use crate::measurement::variable::{CERT_SHA256, CERT_X509};
use crate::measurement::{Digest, EventType, PcrBank};

/// Who vouches for an image under Secure Boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voucher {
    /// This entry of `db` (`EFI_SIGNATURE_DATA`), if the image starts at all: its signature is the
    /// firmware's to verify.
    Entry(Vec<u8>),
    /// No entry: the firmware will not start the image.
    Nobody,
    /// Several certificates bear the name of an issuer of the signature. Which of them has the key
    /// is not told by names.
    Unclear,
}

/// The entry of `db` that a firmware finds for an image: for the first signature that one vouches
/// for, the first certificate in its chain or above it; for an unsigned image its SHA-256 digest
/// (`DxeImageVerificationHandler` of EDK II).
///
/// `signatures` are the PKCS #7 structures of the image in order, `authenticode` its SHA-256 digest.
pub fn voucher(
    db: &SignatureLists,
    signatures: &[&[u8]],
    authenticode: Option<&Digest>,
) -> Voucher {
    for signature in signatures {
        match voucher_of_signature(db, signature) {
            Voucher::Nobody => {}
            found => return found,
        }
    }
    let wanted = authenticode.filter(|digest| digest.bank() == PcrBank::Sha256);
    let mut hashes = db.entries().filter(|(kind, _)| *kind == CERT_SHA256);
    let found = hashes
        .find(|(_, entry)| wanted.is_some_and(|digest| entry.get(16..) == Some(digest.as_bytes())));
    found.map_or(Voucher::Nobody, |(_, entry)| Voucher::Entry(entry.to_vec()))
}

fn voucher_of_signature(db: &SignatureLists, signature: &[u8]) -> Voucher {
    let Some(signed) = SignedData::parse(signature) else { return Voucher::Nobody };
    let chain = signed.chain();
    let is_signer = |found: &[u8]| chain.first().is_some_and(|signer| signer.bytes == found);
    let vouches = |found: &[u8]| {
        Certificate::parse(found).is_some_and(|certificate| {
            let issues = |below: &Certificate<'_>| below.issuer == certificate.subject;
            chain.iter().any(|below| below.bytes == found || issues(below))
        })
    };
    let certificates = db.entries().filter(|(kind, _)| *kind == CERT_X509);
    let mut candidates = certificates
        .filter(|(_, entry)| entry.get(16..).is_some_and(vouches))
        .map(|(_, entry)| entry);
    let Some(first) = candidates.next() else { return Voucher::Nobody };
    let is_certain = first.get(16..).is_some_and(is_signer);
    // The same certificate under another owner would vouch too, but the first is asked first.
    let other = candidates.any(|entry| entry.get(16..) != first.get(16..));
    if is_certain || !other { Voucher::Entry(first.to_vec()) } else { Voucher::Unclear }
}

/// The authority events for the images that a boot starts, in order, from the entries that vouch
/// for them: each entry is measured once (`IsDataMeasured` of EDK II).
pub fn authority_events<'a>(
    entries: impl IntoIterator<Item = &'a [u8]>,
    banks: &[PcrBank],
) -> Vec<Measured> {
    let mut measured = HashSet::new();
    let fresh = entries.into_iter().filter(|entry| measured.insert(entry.to_vec()));
    fresh
        .filter_map(|entry| {
            let db = PolicyVariable::Db;
            let raw = variable_data(db.guid(), db.name(), entry);
            measured_in_7(EventType::EfiVariableAuthority, raw, banks)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::der::test_support::{certificate, signed_by};
    use super::super::signature_list::SignatureList;
    use super::*;

    fn entry(data: &[u8]) -> Vec<u8> {
        [vec![7; 16], data.to_vec()].concat()
    }

    fn db(certificates: &[&[u8]]) -> SignatureLists {
        let list = |data: &&[u8]| SignatureList::new(CERT_X509, &[&entry(data)]).unwrap();
        SignatureLists::from(certificates.iter().map(list).collect::<Vec<_>>())
    }

    fn found(data: &[u8]) -> Voucher {
        Voucher::Entry(entry(data))
    }

    #[test]
    fn a_certificate_in_the_chain_or_above_it_vouches() {
        let (root, ca) = (certificate(1, "root", "root"), certificate(2, "root", "ca"));
        let (signer, other) = (certificate(3, "ca", "signer"), certificate(4, "x", "x"));
        let signature = signed_by(&[&signer, &ca], "ca", 3);
        let ask = |certificates: &[&[u8]]| voucher(&db(certificates), &[&signature], None);
        assert_eq!(ask(&[&other, &signer]), found(&signer));
        assert_eq!(ask(&[&other, &ca]), found(&ca));
        assert_eq!(ask(&[&root]), found(&root));
        assert_eq!(ask(&[&other]), Voucher::Nobody);
        assert_eq!(ask(&[&signer, &root]), found(&signer), "the signer's own is certain");
        assert_eq!(ask(&[&root, &signer]), Voucher::Unclear);
        let namesake = certificate(9, "root", "root");
        assert_eq!(ask(&[&namesake, &root]), Voucher::Unclear);
        assert_eq!(ask(&[&root, &root]), found(&root));
    }

    #[test]
    fn the_first_signature_counts_and_then_the_hash() {
        let (a, b) = (certificate(1, "a", "a"), certificate(1, "b", "b"));
        let (by_a, by_b) = (signed_by(&[&a], "a", 1), signed_by(&[&b], "b", 1));
        let both = db(&[&a, &b]);
        assert_eq!(voucher(&both, &[&by_b, &by_a], None), found(&b));
        assert_eq!(voucher(&db(&[&a]), &[&by_b, &by_a], None), found(&a));
        let digest = PcrBank::Sha256.hash(b"image");
        let hash = entry(digest.as_bytes());
        let hashes = SignatureLists::from(vec![SignatureList::new(CERT_SHA256, &[&hash]).unwrap()]);
        assert_eq!(voucher(&hashes, &[], Some(&digest)), Voucher::Entry(hash));
        assert_eq!(voucher(&hashes, &[], Some(&PcrBank::Sha256.hash(b"x"))), Voucher::Nobody);
        assert_eq!(voucher(&both, &[b"0\x82", &[]], None), Voucher::Nobody);
    }

    #[test]
    fn each_entry_is_measured_once() {
        let (a, b) = (entry(b"a"), entry(b"b"));
        let events = authority_events([a.as_slice(), &b, &a], &[PcrBank::Sha256]);
        assert_eq!(events.len(), 2);
        assert!(events[0].words.starts_with("vouched for by db, owner 07070707-"));
        let raw = variable_data(PolicyVariable::Db.guid(), "db", &b);
        assert_eq!(events[1].digest(PcrBank::Sha256), Some(&PcrBank::Sha256.hash(&raw)));
    }
}
