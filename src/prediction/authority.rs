//! Under Secure Boot: which entry of `db` vouches for what is started (PCR 7).

use super::artifacts::Artifacts;
use super::plan::{Planned, agrees, pcr};
use super::signatures::signatures;
use crate::artifact::authority::{Voucher, authority_events, voucher};
use crate::artifact::efivar::{LoggedVariable, PolicyVariable, PolicyVariables};
use crate::artifact::signature_list::SignatureLists;
use crate::artifact::{Found, Volume};
use crate::measurement::variable::{CERT_SHA256, CERT_X509};
use crate::measurement::{Event, EventType, PcrBank};

/// Whether an event says which entry of `db` vouched for an image.
pub(super) fn is_db_authority(event: &Event) -> bool {
    event.event_type == EventType::EfiVariableAuthority
        && LoggedVariable::parse(&event.raw).is_some_and(|logged| logged.name == "db")
}

/// The authority event for the image at `path`, in the place of `event`. `image` is what the log has
/// of that image.
pub(super) fn planned(
    artifacts: &Artifacts<'_>,
    policy: &PolicyVariables,
    event: &Event,
    path: &str,
    image: &Event,
) -> Planned {
    let carried = Planned::carried(event, pcr(7));
    let changed = |digests| Planned { digests, source: Some(path.to_owned()), ..carried.clone() };
    let db = match SignatureLists::parse(policy.get(PolicyVariable::Db)) {
        Ok(db) => db,
        Err(error) => return changed(Err(error.to_string())),
    };
    let known = artifacts.image(Volume::Esp, path);
    let is_same = known.as_ref().is_ok_and(|known| agrees(image, &known.digests));
    if is_same {
        let logged = LoggedVariable::parse(&event.raw).map(|logged| logged.data);
        let is_there = db.entries().any(|(_, entry)| Some(entry) == logged);
        return match is_there {
            true => carried,
            false => changed(Err(format!("db no longer has the entry that vouched for {path}"))),
        };
    }
    let digest = known.ok().and_then(|known| {
        known.digests.into_iter().find(|digest| digest.bank() == PcrBank::Sha256)
    });
    let found = match artifacts.files().find(Volume::Esp, path) {
        Ok(Some(Found::Bytes(source))) => {
            let signatures = signatures(source.as_ref());
            let signatures: Vec<&[u8]> = signatures.iter().map(Vec::as_slice).collect();
            voucher(&db, &signatures, digest.as_ref())
        }
        _ => the_only_one(&db),
    };
    match found {
        Voucher::Entry(entry) => {
            let measured = authority_events([entry.as_slice()], artifacts.banks());
            changed(Ok(measured.into_iter().flat_map(|measured| measured.digests).collect()))
        }
        Voucher::Nobody => changed(Err(format!("nothing in db vouches for {path}"))),
        Voucher::Unclear => changed(Err(format!("which entry of db vouches for {path} is not clear"))),
    }
}

/// What starts at all has a voucher; where `db` has one entry, that is it.
fn the_only_one(db: &SignatureLists) -> Voucher {
    let mut vouching = db.entries().filter(|(kind, _)| [CERT_X509, CERT_SHA256].contains(kind));
    match (vouching.next(), vouching.next()) {
        (Some((_, entry)), None) => Voucher::Entry(entry.to_vec()),
        _ => Voucher::Unclear,
    }
}
