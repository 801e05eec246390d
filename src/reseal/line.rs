//! One line of the journal: what was done, tied to the line before it by that one's digest.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::error::StoreError;
use super::time::is_rfc3339;
use crate::measurement::{Digest, PcrBank};

/// Longest signature in bytes: that of an RSA key of 4096 bits.
const MAX_SIGNATURE: usize = 512;
/// What a signature covers begins with this, so that it is none of anything else.
const SIGNED: &[u8] = b"vmseal-journal:";

/// What a line tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A keyslot is about to be sealed to a boot.
    Enroll,
    /// A plan was made and shown.
    Plan,
    /// Somebody, or the configuration, approved a plan.
    Approval,
    /// What was announced is done.
    Apply,
    /// A boot was as predicted.
    Confirm,
    /// What was announced was not done.
    Refusal,
    /// A passphrase opened a volume at boot.
    PassphraseBoot,
    /// A recovery key did.
    RecoveryKeyBoot,
    /// Keyslots are about to be removed.
    Revoke,
    /// The authority's key is about to be replaced.
    Rotate,
    /// A volume that systemd enrolled is about to be taken over.
    Adopt,
    /// The journal was not whole when this was written.
    Break,
    /// A word of a later version.
    Later(String),
}

const KINDS: [(&str, Kind); 12] = [
    ("enroll", Kind::Enroll),
    ("plan", Kind::Plan),
    ("approval", Kind::Approval),
    ("apply", Kind::Apply),
    ("confirm", Kind::Confirm),
    ("refusal", Kind::Refusal),
    ("passphrase-boot", Kind::PassphraseBoot),
    ("recovery-key-boot", Kind::RecoveryKeyBoot),
    ("revoke", Kind::Revoke),
    ("rotate", Kind::Rotate),
    ("adopt", Kind::Adopt),
    ("break", Kind::Break),
];

impl Kind {
    fn parse(word: &str) -> Option<Self> {
        const LONGEST: usize = 32;
        if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == word) {
            return Some(kind.clone());
        }
        let is_word = (1..=LONGEST).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
        is_word.then(|| Self::Later(word.to_owned()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = KINDS.iter().find(|(_, kind)| kind == self).map(|(word, _)| *word);
        f.write_str(match self {
            Self::Later(word) => word,
            _ => known.unwrap_or_default(),
        })
    }
}

/// An authority's signature of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Fingerprint of the key: 64 hexadecimal digits.
    pub pkfp: String,
    /// The signature of [`message`].
    pub bytes: Vec<u8>,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    /// What it tells of.
    pub kind: Kind,
    /// When: RFC 3339, UTC, whole seconds.
    pub time: String,
    /// The rest.
    pub body: Map<String, Value>,
}

/// Signs what [`message`] gives; `None` leaves the line unsigned.
pub type Sign<'a> = &'a dyn Fn(&[u8]) -> Option<Signature>;

/// A line that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its number, from 1.
    pub seq: u32,
    /// When it was written, as the clock was then.
    pub time: String,
    /// SHA-256 of the line before it; zeros for the first.
    pub prev: Digest,
    /// What it tells of.
    pub kind: Kind,
    /// The rest.
    pub body: Map<String, Value>,
    /// The authority's signature.
    pub signature: Option<Signature>,
    /// SHA-256 of the line itself, without its end.
    pub hash: Digest,
}

impl Draft {
    /// The line as it goes into the journal, without its end.
    ///
    /// # Errors
    /// [`StoreError::LineTooLong`].
    pub fn encode(
        &self,
        seq: u32,
        prev: &Digest,
        sign: Option<Sign<'_>>,
    ) -> Result<String, StoreError> {
        let mut json = unsigned(seq, &self.time, prev, &self.kind, &self.body);
        let signature = sign.and_then(|sign| sign(&message(&json.to_string())));
        if let (Some(Signature { pkfp, bytes }), Some(json)) = (signature, json.as_object_mut()) {
            let signature = json!({ "pkfp": pkfp, "sig": STANDARD.encode(bytes) });
            json.insert("signature".into(), signature);
        }
        let text = json.to_string();
        match Line::parse(text.as_bytes()) {
            // What could not be read again is not written.
            Some(_) => Ok(text),
            None => Err(StoreError::LineTooLong { found: text.len() }),
        }
    }
}

fn unsigned(seq: u32, time: &str, prev: &Digest, kind: &Kind, body: &Map<String, Value>) -> Value {
    json!({
        "seq": seq, "time": time, "prev": prev.to_string(), "kind": kind.to_string(), "body": body,
    })
}

/// What a signature covers: the line's JSON without the signature.
pub fn message(unsigned: &str) -> Vec<u8> {
    [SIGNED, unsigned.as_bytes()].concat()
}

impl Line {
    /// Most bytes of a line.
    pub const MAX_LEN: usize = 1 << 16;

    /// Reads a line. It has one form only: compact JSON with sorted names. So whatever is changed in
    /// it changes its digest, and nobody reads two things into it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > Self::MAX_LEN {
            return None;
        }
        let json: Value = serde_json::from_slice(text).ok()?;
        if json.to_string().as_bytes() != text {
            return None;
        }
        let time = json.get("time")?.as_str()?;
        Some(Self {
            seq: u32::try_from(json.get("seq")?.as_u64()?).ok().filter(|seq| *seq > 0)?,
            time: is_rfc3339(time).then(|| time.to_owned())?,
            prev: Digest::from_hex(PcrBank::Sha256, json.get("prev")?.as_str()?).ok()?,
            kind: Kind::parse(json.get("kind")?.as_str()?)?,
            body: json.get("body")?.as_object()?.clone(),
            signature: match json.get("signature") {
                None => None,
                Some(json) => Some(Signature::parse(json)?),
            },
            hash: PcrBank::Sha256.hash(text),
        })
    }

    /// What its signature covers, as this version would have written the line.
    pub fn message(&self) -> Vec<u8> {
        message(&unsigned(self.seq, &self.time, &self.prev, &self.kind, &self.body).to_string())
    }

    /// What its signature covers, given the line's text.
    pub(super) fn signed(text: &[u8]) -> Option<Vec<u8>> {
        let mut json: Map<String, Value> = serde_json::from_slice(text).ok()?;
        json.remove("signature")?;
        Some(message(&Value::Object(json).to_string()))
    }
}

impl Signature {
    fn parse(json: &Value) -> Option<Self> {
        let pkfp = json.get("pkfp")?.as_str()?;
        Digest::from_hex(PcrBank::Sha256, pkfp).ok()?;
        let bytes = STANDARD.decode(json.get("sig")?.as_str()?).ok()?;
        let is_short = bytes.len() <= MAX_SIGNATURE;
        is_short.then(|| Self { pkfp: pkfp.to_owned(), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(body: Value) -> Draft {
        let body = body.as_object().expect("an object").clone();
        Draft { kind: Kind::Enroll, time: "2026-11-25T13:29:13Z".into(), body }
    }

    #[test]
    fn a_line_has_one_form() {
        let zero = Digest::zero(PcrBank::Sha256);
        let text = draft(json!({ "b": 1, "a": "\u{1b}[2J\n" })).encode(1, &zero, None);
        let text = text.expect("a line");
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        let line = Line::parse(text.as_bytes()).expect("a line");
        assert_eq!((line.seq, line.prev, &line.kind), (1, zero, &Kind::Enroll));
        assert_eq!(line.hash, PcrBank::Sha256.hash(text.as_bytes()));
        for wrong in [
            text.replace(":1,", ": 1,"),
            text.replace("\"seq\":1", "\"seq\":0"),
            text.replace("\"seq\":1", "\"seq\":4294967296"),
            text.replace("\"seq\":1", "\"seq\":1.0"),
            text.replace("\"seq\":1", "\"seq\":1,\"seq\":1"),
            text.replace("enroll", "Enroll"),
            text.replace("enroll", ""),
            text.replace("13Z", "13+"),
            text.replace("\"body\":{", "\"body\":[{").replace('}', "}]"),
            format!("{text} "),
            format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)),
            String::new(),
        ] {
            assert_ne!(wrong, text);
            assert_eq!(Line::parse(wrong.as_bytes()), None, "{wrong:.300}");
        }
        assert_eq!(Line::parse(b"\xff\x00"), None);
        let later = text.replace("enroll", "attest");
        assert_eq!(
            Line::parse(later.as_bytes()).map(|l| l.kind.to_string()),
            Some("attest".into())
        );
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let zero = Digest::zero(PcrBank::Sha256);
        let long = draft(json!({ "text": "x".repeat(Line::MAX_LEN) })).encode(1, &zero, None);
        assert!(matches!(long, Err(StoreError::LineTooLong { found }) if found > Line::MAX_LEN));
    }

    #[test]
    fn a_signature_covers_the_line_without_it() {
        let zero = Digest::zero(PcrBank::Sha256);
        let plain = draft(json!({})).encode(1, &zero, None).expect("a line");
        let sign = |message: &[u8]| {
            Some(Signature { pkfp: "ab".repeat(32), bytes: message.get(..20)?.to_vec() })
        };
        let signed = draft(json!({})).encode(1, &zero, Some(&sign)).expect("a line");
        assert_eq!(Line::signed(signed.as_bytes()), Some(message(&plain)));
        assert_eq!(Line::signed(plain.as_bytes()), None);
        let line = Line::parse(signed.as_bytes()).expect("a line");
        assert_eq!(line.signature, sign(&message(&plain)));
        assert_eq!(line.message(), message(&plain));
        let other = signed.replace(&"ab".repeat(32), "ab");
        assert_eq!(Line::parse(other.as_bytes()), None);
    }
}
