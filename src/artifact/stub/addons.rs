//! Addons: small images beside a unified kernel image that add to it (`load_addons`, since 254).

use super::cmdline::{mangled, tidy};
use super::{Sidecar, StubBoot, chosen, config};
use crate::artifact::hashing::Recipe;
use crate::artifact::measured::Pending;
use crate::artifact::ucs2;
use crate::artifact::uki::{Sections, Uki, UkiError};

/// What addons add.
#[derive(Default)]
pub(super) struct Addons<'a> {
    /// The firmware's measurements of them.
    pub(super) images: Vec<Pending<'a>>,
    /// Command lines, each of which is measured by itself.
    pub(super) cmdlines: Vec<Vec<u16>>,
    /// Measurements of devicetrees.
    pub(super) devicetrees: Vec<Pending<'a>>,
    /// Microcode in the order of its use, the last addon's first, with its measurement.
    pub(super) ucode: Vec<(Pending<'a>, Recipe<'a>)>,
    /// Initrds, with their measurements.
    pub(super) initrds: Vec<(Pending<'a>, Recipe<'a>)>,
}

impl<'a> Addons<'a> {
    /// Those of all images, then those of this one. With Secure Boot on, firmware or shim decide
    /// whether an addon is loaded: a signed one is taken to be vouched for.
    pub(super) fn load(
        boot: &StubBoot<'a>,
        sections: &Sections,
        release: u32,
    ) -> Result<Self, UkiError> {
        let mut all = Self::default();
        if release < 254 {
            return Ok(all);
        }
        let uname = sections.get(".uname").map(|uname| boot.image.text(uname)).transpose()?;
        let mut texts = Texts::default();
        for folder in [&boot.addons, &boot.own] {
            for addon in chosen(folder, ".addon.efi", None) {
                all.add(addon, boot.secure_boot, uname.as_deref(), release, &mut texts)?;
            }
            // 254 measures the two folders one by one, later releases together.
            if release == 254 {
                all.cmdlines.push(std::mem::take(&mut texts).finish(release)?);
            }
        }
        all.cmdlines.push(texts.finish(release)?);
        Ok(all)
    }

    fn add(
        &mut self,
        addon: &Sidecar<'a>,
        secure_boot: bool,
        uname: Option<&[u8]>,
        release: u32,
        texts: &mut Texts,
    ) -> Result<(), UkiError> {
        let image = Uki::open(addon.source)?;
        if secure_boot && !image.pe().is_signed() {
            let what = format!("load the unsigned addon {} with Secure Boot on", addon.name);
            return Err(UkiError::Release { found: release, what });
        }
        self.images.push(image.image());
        let sections = image.sections_of_addon(release)?;
        let has = |name| sections.get(name).is_some();
        let known: &[&str] = match release {
            254 => &[".cmdline"],
            255 | 256 => &[".cmdline", ".dtb"],
            _ => &[".cmdline", ".dtb", ".dtbauto", ".initrd", ".ucode"],
        };
        if (255..257).contains(&release) && (has(".initrd") || has(".ucode")) {
            let what = format!("take initrd or microcode from the addon {}", addon.name);
            return Err(UkiError::Release { found: release, what });
        }
        if has(".linux") || !known.iter().any(|name| has(name)) {
            return Ok(());
        }
        if let (Some(uname), Some(section)) = (uname, sections.get(".uname"))
            && !same_text(uname, &image.text(section)?)
        {
            return Ok(());
        }
        if let Some(section) = sections.get(".cmdline") {
            texts.add(ucs2::widen(&image.text(section)?));
        }
        if release >= 255
            && let Some(section) = sections.get(".dtbauto").or_else(|| sections.get(".dtb"))
        {
            let words = String::from("device tree addon");
            self.devicetrees.push(config(words, image.content(section)?));
        }
        if release >= 257 {
            if let Some(section) = sections.get(".initrd") {
                let initrd = image.content(section)?;
                self.initrds.push((config("initrd addon".into(), initrd.clone()), initrd));
            }
            if let Some(section) = sections.get(".ucode") {
                let ucode = image.content(section)?;
                self.ucode.insert(0, (config("microcode addon".into(), ucode.clone()), ucode));
            }
        }
        Ok(())
    }
}

/// Command lines of addons, joined by spaces: as they are, and each made tidy before.
#[derive(Default)]
struct Texts {
    raw: Vec<u16>,
    tidy: Vec<u16>,
}

impl Texts {
    fn add(&mut self, text: Vec<u16>) {
        for (all, more) in [(&mut self.tidy, tidy(text.clone())), (&mut self.raw, text)] {
            if !all.is_empty() {
                all.push(0x20);
            }
            all.extend(more);
        }
    }

    /// Before 255 they were joined first, since 257 they are tidied first; the releases between are
    /// told only where that makes no difference.
    fn finish(self, release: u32) -> Result<Vec<u16>, UkiError> {
        let (raw, tidy) = (mangled(release, self.raw)?, mangled(release, self.tidy)?);
        match release {
            ..=254 => Ok(raw),
            257.. => Ok(tidy),
            _ if raw == tidy => Ok(tidy),
            found => {
                let what = String::from("drop spaces around the command lines of addons");
                Err(UkiError::Release { found, what })
            }
        }
    }
}

/// Whether two texts are one up to the first NUL or the end of `limit` (`strneq8`).
fn same_text(text: &[u8], limit: &[u8]) -> bool {
    let end = |bytes: &[u8]| bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (text, limited) = (text.get(..end(text)), limit.get(..end(limit)));
    match (text, limited) {
        (Some(text), Some(limited)) if limited.len() == limit.len() => text.starts_with(limited),
        (text, limited) => text == limited,
    }
}
