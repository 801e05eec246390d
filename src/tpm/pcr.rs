//! Reading and extending PCRs.

use tss_esapi::Context;
use tss_esapi::constants::{CapabilityType, response_code::Tss2ResponseCodeKind as Kind};
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    CapabilityData, DigestValues, PcrSelectionList, PcrSelectionListBuilder, PcrSlot,
};

use super::Tpm;
use super::error::{TpmError, during, kind};
use crate::measurement::{Digest, PcrBank, PcrIndex, PcrSelection, PcrValues};

/// `TPM2_PCR_Read` returns at most eight digests (TPM 2.0 part 2, `TPML_DIGEST`).
const MAX_READ: usize = 8;

impl Tpm {
    /// Reads PCRs, in one command for up to eight of them. PCRs of a bank that the TPM does not
    /// keep are missing from the answer.
    ///
    /// # Errors
    /// [`TpmError::Response`].
    pub fn read_pcrs(&self, selections: &[PcrSelection]) -> Result<Vec<PcrValues>, TpmError> {
        let selections = selections.to_vec();
        self.run(move |context| {
            let mut found: Vec<_> =
                selections.iter().map(|selection| PcrValues::new(selection.bank)).collect();
            let wanted: Vec<(PcrBank, PcrIndex)> = selections
                .iter()
                .flat_map(|selection| selection.pcrs.iter().map(|pcr| (selection.bank, *pcr)))
                .collect();
            for part in wanted.chunks(MAX_READ) {
                for (bank, pcr, value) in read_part(context, part)? {
                    found
                        .iter_mut()
                        .filter(|values| values.bank() == bank)
                        .for_each(|values| values.set(pcr, value));
                }
            }
            Ok(found)
        })
    }

    /// Extends one PCR, in each bank that `digests` names and the TPM keeps.
    ///
    /// # Errors
    /// [`TpmError::Response`] when the TPM refuses; no bank is extended then.
    pub fn extend_pcr(&self, pcr: PcrIndex, digests: &[Digest]) -> Result<(), TpmError> {
        let digests = digests.to_vec();
        self.run(move |context| match extend(context, pcr, &digests) {
            // A TPM that does not implement one of the algorithms refuses them all: ask for its
            // banks then. Asking first would cost every boot a command.
            Err(error) if kind(&error) == Some(Kind::Hash) => {
                let active = active_banks(context)?;
                let known: Vec<_> =
                    digests.into_iter().filter(|digest| active.contains(&digest.bank())).collect();
                extend(context, pcr, &known).map_err(during("extend a PCR"))
            }
            other => other.map_err(during("extend a PCR")),
        })
    }

    /// The banks that the TPM keeps.
    ///
    /// # Errors
    /// [`TpmError::Response`].
    pub fn active_banks(&self) -> Result<Vec<PcrBank>, TpmError> {
        self.run(active_banks)
    }
}

/// The library's name of a bank's algorithm.
pub(super) fn algorithm(bank: PcrBank) -> HashingAlgorithm {
    match bank {
        PcrBank::Sha1 => HashingAlgorithm::Sha1,
        PcrBank::Sha256 => HashingAlgorithm::Sha256,
        PcrBank::Sha384 => HashingAlgorithm::Sha384,
        PcrBank::Sha512 => HashingAlgorithm::Sha512,
    }
}

fn slot(pcr: PcrIndex) -> Result<PcrSlot, tss_esapi::Error> {
    PcrSlot::try_from(1u32 << pcr.get())
}

/// The library's form of a selection.
pub(super) fn selection_list(
    selections: impl IntoIterator<Item = (PcrBank, Vec<PcrIndex>)>,
) -> Result<PcrSelectionList, tss_esapi::Error> {
    let mut list = PcrSelectionListBuilder::new();
    for (bank, pcrs) in selections {
        let slots = pcrs.into_iter().map(slot).collect::<Result<Vec<_>, _>>()?;
        list = list.with_selection(algorithm(bank), &slots);
    }
    list.build()
}

fn read_part(
    context: &mut Context,
    part: &[(PcrBank, PcrIndex)],
) -> Result<Vec<(PcrBank, PcrIndex, Digest)>, TpmError> {
    let of_bank = |bank| part.iter().filter(move |(b, _)| *b == bank).map(|(_, pcr)| *pcr);
    let banks = PcrBank::ALL.into_iter().filter(|bank| of_bank(*bank).next().is_some());
    let list = selection_list(banks.map(|bank| (bank, of_bank(bank).collect())))
        .map_err(during("select PCRs"))?;
    let (_, read, digests) = context
        .execute_without_session(|context| context.pcr_read(list))
        .map_err(during("read PCRs"))?;
    let mut digests = digests.value().iter();
    let mut out = Vec::new();
    // Digests come in the order of the selection that was read, PCRs ascending.
    for selection in read.get_selections() {
        let Some(bank) =
            PcrBank::ALL.into_iter().find(|bank| algorithm(*bank) == selection.hashing_algorithm())
        else {
            continue;
        };
        let mut slots: Vec<u32> = selection.selected().into_iter().map(u32::from).collect();
        slots.sort_unstable();
        for slot in slots {
            let Some(digest) = digests.next() else { break };
            let pcr = PcrIndex::new(slot.trailing_zeros().into());
            if let (Ok(pcr), Ok(value)) = (pcr, Digest::from_bytes(bank, digest.as_slice())) {
                out.push((bank, pcr, value));
            }
        }
    }
    Ok(out)
}

fn extend(
    context: &mut Context,
    pcr: PcrIndex,
    digests: &[Digest],
) -> Result<(), tss_esapi::Error> {
    let mut values = DigestValues::new();
    for digest in digests {
        values.set(algorithm(digest.bank()), digest.as_bytes().try_into()?);
    }
    let handle = PcrHandle::try_from(u32::from(pcr.get()))?;
    context.execute_with_session(Some(AuthSession::Password), |context| {
        context.pcr_extend(handle, values)
    })
}

fn active_banks(context: &mut Context) -> Result<Vec<PcrBank>, TpmError> {
    let (capability, _) = context
        .execute_without_session(|context| {
            context.get_capability(CapabilityType::AssignedPcr, 0, 16)
        })
        .map_err(during("list its PCR banks"))?;
    let CapabilityData::AssignedPcr(list) = capability else { return Ok(vec![]) };
    let kept = |bank: PcrBank| {
        list.get_selections().iter().any(|selection| {
            selection.hashing_algorithm() == algorithm(bank) && !selection.is_empty()
        })
    };
    Ok(PcrBank::ALL.into_iter().filter(|bank| kept(*bank)).collect())
}
