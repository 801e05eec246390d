//! The text of a key file: lines that say whose the key is, then the key in PEM. Programs that read
//! PEM pass over the lines before it.

use super::owner::{Holder, Owner, is_template_name};
use crate::policy::{SigningError, SigningKey};
use crate::secret::SecretBuffer;

const TITLE: &str = "vmseal authority key: approves boots of one machine, never to be copied";
const HOST_TITLE: &str = "vmseal host authority key: approves boots of one template's machines, never to be in one of them";
const TEMPLATE: &str = "template: ";
const MACHINE_ID: &str = "machine-id: ";
const SRK_NAME: &str = "srk-name: ";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

/// A key and whose it is.
pub struct KeyFile {
    /// Whose.
    pub holder: Holder,
    /// The key.
    pub key: SigningKey,
}

impl KeyFile {
    /// Most bytes that are read: a file has about 2000.
    pub const MAX: usize = 8192;

    /// Reads a file's text, which must be what [`KeyFile::to_text`] writes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        if text.len() > Self::MAX {
            return Err("it is too long");
        }
        let text = std::str::from_utf8(text).map_err(|_| "it is not text")?;
        let mut rest = text;
        let mut line = |start: &'static str| {
            let (line, after) = rest.split_once('\n')?;
            rest = after;
            line.strip_prefix(start)
        };
        let title = line("").ok_or("its first line is another")?;
        let holder = match title {
            TITLE => {
                let machine_id = line(MACHINE_ID).ok_or("it has no machine ID")?;
                let name = line(SRK_NAME).ok_or("it has no Name of a storage root key")?;
                let name =
                    hex::decode(name).map_err(|_| "its Name of a storage root key is none")?;
                Holder::Machine(Owner::new(machine_id, &name).ok_or("it names no machine")?)
            }
            HOST_TITLE => {
                let name = line(TEMPLATE).filter(|name| is_template_name(name));
                Holder::Template(name.ok_or("it names no template")?.to_owned())
            }
            _ => return Err("its first line is another"),
        };
        let base64 = rest
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_prefix('\n')?.strip_suffix('\n')?.strip_suffix(END))
            .ok_or("it has no private key, or more than one thing after the names")?;
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=\n".contains(&byte);
        if !base64.bytes().all(is_base64) {
            return Err("its private key is not base64");
        }
        let key = SigningKey::from_pem(rest.as_bytes())
            .map_err(|_| "its private key is not RSA of 2048 bits")?;
        Ok(Self { holder, key })
    }

    /// The file's text.
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn to_text(holder: &Holder, key: &SigningKey) -> Result<SecretBuffer, SigningError> {
        let pem = key.to_pem()?;
        let names = match holder {
            Holder::Machine(owner) => {
                let (id, name) = (owner.machine_id(), owner.srk_name());
                format!("{TITLE}\n{MACHINE_ID}{id}\n{SRK_NAME}{name}\n")
            }
            Holder::Template(name) => format!("{HOST_TITLE}\n{TEMPLATE}{name}\n"),
        };
        // Room for all of it at once: a buffer that grows leaves copies behind.
        let mut text = SecretBuffer::new(Vec::with_capacity(names.len() + pem.len()));
        text.extend_from_slice(names.as_bytes());
        text.extend_from_slice(&pem);
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_file_is_read_as_it_was_written_and_no_other_way() {
        let key = SigningKey::generate().unwrap();
        let holder = Holder::Machine(Owner::new(ID, &[0, 11, 1, 2, 3]).unwrap());
        let text = KeyFile::to_text(&holder, &key).unwrap();
        let read = KeyFile::parse(&text).unwrap();
        assert_eq!((read.holder, read.key.public()), (holder, key.public()));

        for end in 0..text.len() {
            assert!(KeyFile::parse(&text[..end]).is_err(), "cut at {end}");
        }
        let text = String::from_utf8(text.to_vec()).unwrap();
        for changed in [
            format!("{text}\n"),
            format!("\n{text}"),
            format!("{text}{text}"),
            text.replace('\n', "\r\n"),
            text.replace(ID, "uninitialized"),
            text.replace(ID, &"0".repeat(32)),
            text.replace(ID, &ID.to_uppercase()),
            text.replace("000b010203", ""),
            text.replace("000b010203", &"00".repeat(67)),
            text.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
            text.replace("KEY-----\n", "KEY-----\nProc-Type: 4,ENCRYPTED\n"),
            format!("{text}{}", " ".repeat(KeyFile::MAX)),
        ] {
            assert!(KeyFile::parse(changed.as_bytes()).is_err(), "{}", &changed[..300]);
        }
    }

    #[test]
    fn a_key_of_a_template_names_it() {
        let key = SigningKey::generate().unwrap();
        let holder = Holder::Template("debian-13".into());
        let text = KeyFile::to_text(&holder, &key).unwrap();
        let read = KeyFile::parse(&text).unwrap();
        assert_eq!((read.holder, read.key.public()), (holder, key.public()));
        for end in 0..text.len() {
            assert!(KeyFile::parse(&text[..end]).is_err(), "cut at {end}");
        }
        let text = String::from_utf8(text.to_vec()).unwrap();
        for name in ["", "../x", ".x", "-x", "a b", &"x".repeat(65)] {
            let changed = text.replace("debian-13", name);
            assert!(KeyFile::parse(changed.as_bytes()).is_err(), "{name}");
        }
    }
}
