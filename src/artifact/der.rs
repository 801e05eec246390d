//! As much of DER as it takes to see who signed a PE image: PKCS #7 signed data and the names in
//! X.509 certificates. Nothing is verified here.

/// Most certificates of one signature that are looked at.
const MAX_CERTIFICATES: usize = 64;

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT_0: u8 = 0xa0;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// Text in one byte a character, at least where it is ASCII: UTF8String, PrintableString,
/// TeletexString, IA5String.
const TEXTS: [u8; 4] = [0x0c, 0x13, 0x14, 0x16];
/// `id-at-commonName` and `id-at-organizationName` (RFC 5280, A.1).
const COMMON_NAME: [u8; 3] = [0x55, 4, 3];
const ORGANIZATION: [u8; 3] = [0x55, 4, 10];
/// Most parts of a name that are looked at.
const MAX_PARTS: usize = 64;

/// An X.509 certificate, by the names that tie a chain together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Certificate<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    serial: &'a [u8],
    /// Who signed it.
    pub issuer: &'a [u8],
    /// Whose key it holds.
    pub subject: &'a [u8],
}

/// PKCS #7 signed data (RFC 2315, 9.1), as an Authenticode signature is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SignedData<'a> {
    certificates: Vec<Certificate<'a>>,
    /// Issuer and serial number of the first signer's certificate.
    signer: (&'a [u8], &'a [u8]),
}

/// One element: its tag, its content, all of its bytes, and what follows.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
    rest: &'a [u8],
}

/// The element that `bytes` start with; definite lengths of at most four bytes only.
fn element(bytes: &[u8]) -> Option<Element<'_>> {
    let (tag, after) = bytes.split_first()?;
    let (first, after) = after.split_first()?;
    let (len, after) = match *first {
        short @ 0..=0x7f => (usize::from(short), after),
        long @ 0x81..=0x84 => {
            let (digits, after) = after.split_at_checked(usize::from(long & 0x7f))?;
            let len = digits.iter().fold(0u64, |len, digit| len << 8 | u64::from(*digit));
            (usize::try_from(len).ok()?, after)
        }
        _ => return None,
    };
    let (content, rest) = after.split_at_checked(len)?;
    let whole = bytes.get(..bytes.len().checked_sub(rest.len())?)?;
    Some(Element { tag: *tag, content, whole, rest })
}

/// The next element, which must have `tag`; `bytes` move on.
fn expect<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    let found = element(bytes).filter(|found| found.tag == tag)?;
    *bytes = found.rest;
    Some(found)
}

impl<'a> Certificate<'a> {
    /// The certificate that `bytes` are.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let whole = element(bytes).filter(|found| found.tag == SEQUENCE)?;
        let mut fields = element(whole.content).filter(|found| found.tag == SEQUENCE)?.content;
        if element(fields)?.tag == CONTEXT_0 {
            expect(&mut fields, CONTEXT_0)?;
        }
        let serial = expect(&mut fields, INTEGER)?.content;
        let _algorithm = expect(&mut fields, SEQUENCE)?;
        let issuer = expect(&mut fields, SEQUENCE)?.content;
        let _validity = expect(&mut fields, SEQUENCE)?;
        let subject = expect(&mut fields, SEQUENCE)?.content;
        Some(Self { bytes: whole.whole, serial, issuer, subject })
    }

    /// What its subject is called: its common name, or else its organization. Not to be printed as it
    /// is.
    pub(super) fn called(&self) -> Option<String> {
        part_of_name(self.subject, &COMMON_NAME)
            .or_else(|| part_of_name(self.subject, &ORGANIZATION))
    }
}

/// The first part of this kind in an X.501 name.
fn part_of_name(mut name: &[u8], kind: &[u8]) -> Option<String> {
    for _ in 0..MAX_PARTS {
        let set = expect(&mut name, SET)?;
        let mut part = element(set.content).filter(|part| part.tag == SEQUENCE)?.content;
        if expect(&mut part, OBJECT_IDENTIFIER)?.content == kind {
            let text = element(part).filter(|text| TEXTS.contains(&text.tag))?;
            return Some(String::from_utf8_lossy(text.content).into_owned());
        }
    }
    None
}

impl<'a> SignedData<'a> {
    /// Takes signed data apart; `None` where it is none, or nobody signed it.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut info = element(bytes).filter(|found| found.tag == SEQUENCE)?.content;
        let _content_type = element(info)?;
        info = element(info)?.rest;
        let explicit = expect(&mut info, CONTEXT_0)?.content;
        let mut fields = element(explicit).filter(|found| found.tag == SEQUENCE)?.content;
        expect(&mut fields, INTEGER)?;
        expect(&mut fields, SET)?;
        expect(&mut fields, SEQUENCE)?;
        let mut certificates = vec![];
        let mut embedded = match element(fields)?.tag {
            CONTEXT_0 => expect(&mut fields, CONTEXT_0)?.content,
            _ => &[],
        };
        while !embedded.is_empty() && certificates.len() < MAX_CERTIFICATES {
            let next = element(embedded)?;
            certificates.extend(Certificate::parse(next.whole));
            embedded = next.rest;
        }
        // Revocation lists may come between.
        let mut signers = loop {
            let next = element(fields)?;
            fields = next.rest;
            if next.tag == SET {
                break next.content;
            }
        };
        let mut signer = expect(&mut signers, SEQUENCE)?.content;
        expect(&mut signer, INTEGER)?;
        let mut name = expect(&mut signer, SEQUENCE)?.content;
        let issuer = expect(&mut name, SEQUENCE)?.content;
        let serial = expect(&mut name, INTEGER)?.content;
        Some(Self { certificates, signer: (issuer, serial) })
    }

    /// The signer's certificate, then those that may have issued it, and so on.
    pub(super) fn chain(&self) -> Vec<Certificate<'a>> {
        let is_signer = |found: &&Certificate<'_>| (found.issuer, found.serial) == self.signer;
        let mut chain: Vec<_> =
            self.certificates.iter().find(is_signer).copied().into_iter().collect();
        let mut next = 0;
        while let Some(below) = chain.get(next).copied() {
            next += 1;
            for above in self.certificates.iter().filter(|above| above.subject == below.issuer) {
                if !chain.contains(above) {
                    chain.push(*above);
                }
            }
        }
        chain
    }
}

/// Certificates and signatures made of nothing but names.
#[cfg(test)]
pub(super) mod test_support {
    use super::*;

    fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
        let len = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], len.as_slice(), content].concat()
    }

    fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
        tagged(SEQUENCE, &parts.concat())
    }

    fn name(text: &str) -> Vec<u8> {
        tagged(SEQUENCE, text.as_bytes())
    }

    pub fn certificate(serial: u8, issuer: &str, subject: &str) -> Vec<u8> {
        let version = tagged(CONTEXT_0, &tagged(INTEGER, &[2]));
        let fields = [
            version,
            tagged(INTEGER, &[serial]),
            sequence(&[]),
            name(issuer),
            sequence(&[]),
            name(subject),
        ];
        sequence(&[sequence(&fields)])
    }

    pub fn signed_by(certificates: &[&[u8]], issuer: &str, serial: u8) -> Vec<u8> {
        let signer = sequence(&[
            tagged(INTEGER, &[1]),
            sequence(&[name(issuer), tagged(INTEGER, &[serial])]),
        ]);
        let signed = sequence(&[
            tagged(INTEGER, &[1]),
            tagged(SET, &[]),
            sequence(&[]),
            tagged(CONTEXT_0, &certificates.concat()),
            tagged(SET, &signer),
        ]);
        sequence(&[tagged(6, &[42]), tagged(CONTEXT_0, &signed)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::test_support::{certificate, signed_by};
    use super::*;

    #[test]
    fn a_chain_of_namesakes_ends() {
        let a = certificate(1, "a", "b");
        let b = certificate(2, "b", "a");
        let signature = signed_by(&[&a, &b], "a", 1);
        let chain = SignedData::parse(&signature).unwrap().chain();
        assert_eq!(chain.iter().map(|found| found.bytes).collect::<Vec<_>>(), [a, b]);
    }

    #[test]
    fn every_prefix_is_refused() {
        let signature = signed_by(&[&certificate(1, "a", "a")], "a", 1);
        assert!((0..signature.len()).all(|len| SignedData::parse(&signature[..len]).is_none()));
        // Indefinite and absurd lengths.
        assert!(element(&[SEQUENCE, 0x80, 0, 0]).is_none());
        assert!(element(&[SEQUENCE, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none());
        assert!(element(&[SEQUENCE, 0x88, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }

    proptest! {
        #[test]
        fn hostile_signatures_end(at in 0usize..100, bytes in prop::collection::vec(any::<u8>(), 1..8)) {
            let mut signature = signed_by(&[&certificate(1, "a", "a")], "a", 1);
            let end = (at + bytes.len()).min(signature.len());
            signature.splice(at.min(end)..end, bytes);
            if let Some(signed) = SignedData::parse(&signature) {
                prop_assert!(signed.chain().len() <= MAX_CERTIFICATES);
            }
        }
    }
}
