//! A unified kernel image that is at hand: all that systemd-stub will measure of it.

use super::artifacts::Artifacts;
use super::plan::Planned;
use super::systemd_boot::OsRelease;
use crate::artifact::pe::Section;
use crate::artifact::stub::{Sidecar, StubBoot, extra_folder};
use crate::artifact::uki::Uki;
use crate::artifact::{Found, Pending, Source, Volume};

/// Most profiles of one image that are listed.
const MAX_PROFILES: u32 = 64;

/// How an image is started.
pub(super) struct Start<'a> {
    /// What the loader passes, as text; `None` for nothing.
    pub(super) options: Option<&'a str>,
    /// Whether Secure Boot is on.
    pub(super) secure_boot: bool,
}

/// The measurements of the image at `path` and of what it starts; `None` where its bytes are not at
/// hand.
///
/// # Errors
/// Why they cannot be told, in words.
pub(super) fn plan(
    artifacts: &Artifacts<'_>,
    volume: Volume,
    path: &str,
    start: &Start<'_>,
) -> Result<Option<Vec<Planned>>, String> {
    let Some(source) = bytes_of(artifacts, volume, path)? else { return Ok(None) };
    let failed = |error: crate::artifact::uki::UkiError| format!("{path}: {error}");
    let image = Uki::open(source.as_ref()).map_err(failed)?;
    let release = image.release().map_err(failed)?;
    let own = Sidecars::read(artifacts, volume, &extra_folder(path, release))?;
    let addons = Sidecars::read(artifacts, volume, "/loader/addons")?;
    let credentials = Sidecars::read(artifacts, volume, "/loader/credentials")?;
    let extensions = Sidecars::read(artifacts, volume, "/loader/extensions")?;
    let boot = StubBoot {
        image: &image,
        load_options: start.options.unwrap_or_default().encode_utf16().collect(),
        secure_boot: start.secure_boot,
        smbios_cmdline: None,
        own: own.list(),
        addons: addons.list(),
        credentials: credentials.list(),
        extensions: extensions.list(),
    };
    let mut pending: Vec<Pending<'_>> = vec![image.image()];
    pending.extend(boot.events().map_err(failed)?);
    let measured = artifacts.measure(&pending).map_err(|error| format!("{path}: {error}"))?;
    let planned = measured.into_iter().map(|measured| Planned {
        pcr: measured.pcr,
        what: measured.words,
        digests: Ok(measured.digests),
        source: Some(path.to_owned()),
    });
    Ok(Some(planned.collect()))
}

/// Whether a file is a unified kernel image that is at hand.
pub(super) fn is_uki(artifacts: &Artifacts<'_>, volume: Volume, path: &str) -> bool {
    let source = bytes_of(artifacts, volume, path).ok().flatten();
    source.is_some_and(|source| Uki::open(source.as_ref()).is_ok_and(|image| image.has_kernel()))
}

/// What an image says of itself, and its profiles after the first: their identifiers where they
/// have any.
pub(super) fn about(
    artifacts: &Artifacts<'_>,
    volume: Volume,
    path: &str,
) -> Option<(OsRelease, Vec<Option<String>>)> {
    let source = bytes_of(artifacts, volume, path).ok().flatten()?;
    let image = Uki::open(source.as_ref()).ok()?;
    let release = image.release().ok()?;
    let base = image.sections(release, 0).ok()?;
    let text = |section: &Section| {
        let bytes = image.text(section).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let os_release = base.get(".osrel").and_then(text)?;
    let profiles = (1..MAX_PROFILES).filter(|_| release >= 257).map_while(|profile| {
        let sections = image.sections(release, profile).ok()?;
        let profile = sections.get(".profile").and_then(text).unwrap_or_default();
        Some(OsRelease::parse(&profile).value("ID"))
    });
    let profiles = profiles.collect();
    Some((OsRelease::parse(&os_release), profiles))
}

fn bytes_of(
    artifacts: &Artifacts<'_>,
    volume: Volume,
    path: &str,
) -> Result<Option<Box<dyn Source>>, String> {
    match artifacts.files().find(volume, path).map_err(|error| error.to_string())? {
        Some(Found::Bytes(source)) => Ok(Some(source)),
        Some(Found::Digests(_)) | None => Ok(None),
    }
}

/// The files of a folder, held open.
struct Sidecars(Vec<(String, Box<dyn Source>)>);

/// Most files of one folder that are read.
const MAX_SIDECARS: usize = 1024;

impl Sidecars {
    fn read(artifacts: &Artifacts<'_>, volume: Volume, folder: &str) -> Result<Self, String> {
        let names = artifacts.files().names(volume, folder).map_err(|error| error.to_string())?;
        if names.len() > MAX_SIDECARS {
            return Err(format!("{folder} has more than {MAX_SIDECARS} files"));
        }
        let mut files = Vec::new();
        for name in names {
            let path = format!("{folder}/{name}");
            match artifacts.files().find(volume, &path).map_err(|error| error.to_string())? {
                Some(Found::Bytes(source)) => files.push((name, source)),
                Some(Found::Digests(_)) => {
                    return Err(format!("only the digest of {path} is known"));
                }
                // A folder.
                None => {}
            }
        }
        Ok(Self(files))
    }

    fn list(&self) -> Vec<Sidecar<'_>> {
        self.0
            .iter()
            .map(|(name, source)| Sidecar { name: name.clone(), source: source.as_ref() })
            .collect()
    }
}
