//! What systemd-stub measures when it starts a kernel, from its image's sections to the kernel's own
//! events (its `run`). Releases 252 to 257; of 258 and later all but the initrd.

mod addons;
mod cmdline;

use super::cpio::Target;
use super::efi_stub;
use super::hashing::Recipe;
use super::measured::{Content, Pending};
use super::uki::{Sections, Uki, UkiError};
use super::{Source, ucs2};
use crate::measurement::PcrIndex;
use addons::Addons;
use cmdline::Cmdline;

/// A file of a folder that the stub reads.
#[derive(Clone)]
pub struct Sidecar<'a> {
    /// Its name, as the folder has it.
    pub name: String,
    /// Its bytes.
    pub source: &'a dyn Source,
}

/// What the stub finds when it starts.
#[derive(Clone)]
pub struct StubBoot<'a> {
    /// The image.
    pub image: &'a Uki<'a>,
    /// What the loader passes, without a NUL at its end: a command line, perhaps after `@N `, the
    /// number of a profile. Empty when it passes nothing.
    pub load_options: Vec<u16>,
    /// Whether Secure Boot is on.
    pub secure_boot: bool,
    /// `io.systemd.stub.kernel-cmdline-extra` of the SMBIOS tables.
    pub smbios_cmdline: Option<Vec<u8>>,
    /// The files of the image's own folder, [`extra_folder`].
    pub own: Vec<Sidecar<'a>>,
    /// The files of `/loader/addons`.
    pub addons: Vec<Sidecar<'a>>,
    /// The files of `/loader/credentials`.
    pub credentials: Vec<Sidecar<'a>>,
    /// The files of `/loader/extensions`.
    pub extensions: Vec<Sidecar<'a>>,
}

/// The folder of an image's sidecars: its path without a boot counter, and `.extra.d`
/// (`get_extra_dir`; before 254 the counter stayed).
pub fn extra_folder(path: &str, release: u32) -> String {
    let plain = if release < 254 { None } else { without_counter(path) };
    format!("{}.extra.d", plain.as_deref().unwrap_or(path))
}

fn without_counter(path: &str) -> Option<String> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (start, counter) = path.split_once('+')?;
    let left = digits(counter);
    let mut rest = counter.get(left..)?;
    if left == 0 {
        return None;
    }
    if let Some(done) = rest.strip_prefix('-') {
        let done_digits = digits(done);
        rest = done.get(done_digits..).filter(|_| done_digits > 0)?;
    }
    (rest.is_empty() || rest.starts_with('.')).then(|| format!("{start}{rest}"))
}

/// The files that the stub takes from a folder, in its order (`pack_cpio`, `load_addons_from_dir`).
fn chosen<'f, 'a>(
    folder: &'f [Sidecar<'a>],
    suffix: &str,
    except: Option<&str>,
) -> Vec<&'f Sidecar<'a>> {
    let ends = |name: &str, suffix: &str| {
        let start = name.len().checked_sub(suffix.len());
        start.and_then(|at| name.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    let mut files: Vec<&Sidecar<'_>> = folder
        .iter()
        .filter(|file| {
            !file.name.starts_with('.') && file.name.is_ascii() && file.name.len() <= 255
        })
        .filter(|file| ends(&file.name, suffix))
        .filter(|file| except.is_none_or(|except| !ends(&file.name, except)))
        .collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files
}

impl<'a> StubBoot<'a> {
    /// All events from the stub's start to the kernel's, the image's own excepted.
    ///
    /// # Errors
    /// [`UkiError`].
    pub fn events(&self) -> Result<Vec<Pending<'a>>, UkiError> {
        let image = self.image;
        let release = image.release()?;
        let mut events = vec![];
        let (profile, options) = cmdline::profile(release, &self.load_options);
        let sections = image.sections(release, profile)?;
        if sections.get(".linux").is_none() {
            return Err(UkiError::Missing { section: ".linux" });
        }
        if profile > 0 {
            let number = ucs2::widen(profile.to_string().as_bytes());
            let words = String::from("profile of the unified kernel image");
            events.push(config(words, Recipe::bytes(ucs2::with_nul(&number))));
        }
        events.extend(image.measured(&sections)?);

        let mut cmdline = Cmdline::new(release);
        let built_in = sections.get(".cmdline").map(|section| image.text(section)).transpose()?;
        cmdline.settle(options, built_in.as_deref(), self.secure_boot)?;
        let addons = Addons::load(self, &sections, release)?;
        events.extend(addons.images);
        for text in addons.cmdlines {
            cmdline.append(&text)?;
        }
        if release >= 254
            && let Some(extra) = &self.smbios_cmdline
        {
            cmdline.append_smbios(extra)?;
        }
        let (options, measured) = cmdline.finish();
        events.extend(
            measured
                .into_iter()
                .map(|text| config(ucs2::shown(&text), Recipe::bytes(ucs2::with_nul(&text)))),
        );
        events.extend(addons.devicetrees);

        let (sidecars, packed): (Vec<_>, Vec<_>) = self.sidecars(release)?.into_iter().unzip();
        let (ucode_events, ucode): (Vec<_>, Vec<_>) = addons.ucode.into_iter().unzip();
        let (initrd_events, added): (Vec<_>, Vec<_>) = addons.initrds.into_iter().unzip();
        events.extend(sidecars);
        events.extend(ucode_events);
        events.extend(initrd_events);

        let in_image = |name| sections.get(name).map(|section| image.content(section)).transpose();
        let mut initrds = ucode;
        initrds.extend(in_image(".ucode")?);
        initrds.extend(in_image(".initrd")?);
        initrds.extend(packed);
        initrds.extend(self.texts(release, &sections)?);
        initrds.extend(added);

        if !self.secure_boot {
            events.push(image.kernel(&sections)?);
        }
        let options = options.map(|options| ucs2::with_nul(&options));
        events.extend(options.and_then(|options| efi_stub::load_options(&options)));
        // What 258 and later hand over besides, an initrd of the loader's and a secret, is not told.
        let initrd = match release {
            ..258 => Content::Recipe(combined(initrds)),
            _ => Content::Digests(vec![]),
        };
        events.extend(efi_stub::initrd(initrd));
        Ok(events)
    }

    /// Credentials and extensions, each kind measured as the archive that it is packed into
    /// (`generate_sidecar_initrds`).
    fn sidecars(&self, release: u32) -> Result<Vec<(Pending<'a>, Recipe<'a>)>, UkiError> {
        let (config, sysexts) = (PcrIndex::KERNEL_CONFIG, PcrIndex::SYSEXTS);
        let all = if release < 258 { &[] } else { self.extensions.as_slice() };
        let (own, except) = match release {
            ..256 => (&[] as &[_], None),
            _ => (self.own.as_slice(), Some(".confext.raw")),
        };
        let kinds = [
            (".cred", &*self.own, Target::CREDENTIALS, config, "Credentials initrd"),
            (
                ".cred",
                &self.credentials,
                Target::GLOBAL_CREDENTIALS,
                config,
                "Global credentials initrd",
            ),
            (".raw", &self.own, Target::SYSEXT, sysexts, "System extension initrd"),
            (".raw", all, Target::GLOBAL_SYSEXT, sysexts, "Global system extension initrd"),
            (".confext.raw", own, Target::CONFEXT, config, "Configuration extension initrd"),
            (
                ".confext.raw",
                all,
                Target::GLOBAL_CONFEXT,
                config,
                "Global configuration extension initrd",
            ),
        ];
        let mut packed = vec![];
        for (suffix, folder, target, pcr, words) in kinds {
            let files = chosen(folder, suffix, except.filter(|except| *except != suffix));
            if files.is_empty() {
                continue;
            }
            let entry = |file: &&'_ Sidecar<'a>| Recipe::whole(file.source);
            let entries = files.iter().map(|file| (file.name.as_str(), entry(file))).collect();
            let archive = target.pack(entries).ok_or_else(|| UkiError::Release {
                found: release,
                what: format!("pack a file of 4 GiB into {}", target.folder),
            })?;
            let (words, content) = (words.to_owned(), Content::Recipe(archive.clone()));
            packed.push((Pending { pcr, words, content }, archive));
        }
        Ok(packed)
    }

    /// Texts of the image that are packed for the initrd (`generate_embedded_initrds`).
    fn texts(&self, release: u32, sections: &Sections) -> Result<Vec<Recipe<'a>>, UkiError> {
        const TEXTS: [(&str, &str, u32); 4] = [
            (".pcrsig", "tpm2-pcr-signature.json", 252),
            (".pcrpkey", "tpm2-pcr-public-key.pem", 252),
            (".osrel", "os-release", 257),
            (".profile", "profile", 257),
        ];
        let mut archives = vec![];
        for (section, file, since) in TEXTS {
            if let Some(section) = sections.get(section)
                && release >= since
            {
                let text = Recipe::bytes(self.image.text(section)?);
                archives.extend(Target::EXTRA.pack(vec![(file, text)]));
            }
        }
        Ok(archives)
    }
}

fn config<'a>(words: String, recipe: Recipe<'a>) -> Pending<'a> {
    Pending { pcr: PcrIndex::KERNEL_CONFIG, words, content: Content::Recipe(recipe) }
}

/// The initrds as one: each padded to four bytes, but a single one left as it is
/// (`combine_initrds`).
fn combined(mut initrds: Vec<Recipe<'_>>) -> Recipe<'_> {
    initrds.retain(|initrd| !initrd.is_empty());
    if let [only] = initrds.as_slice() {
        return only.clone();
    }
    let mut all = Recipe::default();
    for mut initrd in initrds {
        initrd.pad4();
        all.append(initrd);
    }
    all
}

#[cfg(test)]
mod tests;
