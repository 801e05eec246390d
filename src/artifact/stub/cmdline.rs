//! The command line that systemd-stub hands to the kernel, and what of it is measured.

use crate::artifact::ucs2;
use crate::artifact::uki::UkiError;

/// A command line on its way. Texts are without a NUL.
pub(super) struct Cmdline {
    release: u32,
    text: Option<Vec<u16>>,
    measured: Vec<Vec<u16>>,
}

/// Splits `@N` and one space off the load options (`parse_profile_from_cmdline`, since 257).
pub(super) fn profile(release: u32, options: &[u16]) -> (u32, &[u16]) {
    let whole = (0, options);
    let Some((&at, rest)) = options.split_first() else { return whole };
    let digits = rest.iter().take_while(|unit| (0x30..0x3a).contains(*unit)).count();
    let (Some(number), Some(tail)) = (rest.get(..digits), rest.get(digits..)) else { return whole };
    let tail = match tail.split_first() {
        None | Some((0, _)) => &[],
        Some((0x20, tail)) => tail,
        Some(_) => return whole,
    };
    let number = String::from_utf16_lossy(number).parse();
    match number {
        Ok(number) if release >= 257 && at == u16::from(b'@') => (number, tail),
        _ => whole,
    }
}

impl Cmdline {
    pub(super) fn new(release: u32) -> Self {
        Self { release, text: None, measured: vec![] }
    }

    /// Chooses between load options, which are measured, and the image's own (`use_load_options`,
    /// `settle_command_line`). With Secure Boot on, the image's own wins where it has one.
    pub(super) fn settle(
        &mut self,
        options: &[u16],
        built_in: Option<&[u8]>,
        secure_boot: bool,
    ) -> Result<(), UkiError> {
        let printable = |units: &[u16]| match self.release {
            ..258 => units.first().is_some_and(|unit| *unit > 0x1f),
            _ => !units.is_empty() && units.iter().all(|unit| *unit > 0x1f),
        };
        let end = options.iter().position(|unit| *unit == 0).unwrap_or(options.len());
        let options = options.get(..end).unwrap_or_default();
        if printable(options) && !(secure_boot && built_in.is_some()) {
            let options = self.mangled(options.to_vec())?;
            if !(options.is_empty() && self.release >= 257) {
                self.measured.push(options.clone());
                self.text = Some(options);
                return Ok(());
            }
        }
        self.text = built_in.map(|text| self.mangled(ucs2::widen(text))).transpose()?;
        Ok(())
    }

    /// Appends the text of addons, measured by itself.
    pub(super) fn append(&mut self, addon: &[u16]) -> Result<(), UkiError> {
        let addon = self.mangled(addon.to_vec())?;
        if !addon.is_empty() {
            self.join(&addon);
            self.measured.push(addon);
        }
        Ok(())
    }

    /// Appends a text of the host's (`cmdline_append_and_measure_smbios`).
    pub(super) fn append_smbios(&mut self, extra: &[u8]) -> Result<(), UkiError> {
        let wide = ucs2::widen(extra);
        let tidy = self.mangled(wide.clone())?;
        match self.release {
            257.. if tidy.is_empty() => return Ok(()),
            257.. => self.join(&tidy),
            // 254 took the text as it is, and put a space before it whatever came first.
            _ if tidy == wide && self.text.as_ref().is_some_and(|text| !text.is_empty()) => {
                self.join(&tidy);
            }
            found => {
                let what = String::from("tidy a command line of the SMBIOS tables");
                return Err(UkiError::Release { found, what });
            }
        }
        self.measured.push(tidy);
        Ok(())
    }

    /// What the kernel gets, and what is measured into PCR 12, in order.
    pub(super) fn finish(self) -> (Option<Vec<u16>>, Vec<Vec<u16>>) {
        (self.text, self.measured)
    }

    fn join(&mut self, more: &[u16]) {
        match &mut self.text {
            Some(text) if !text.is_empty() => {
                text.push(0x20);
                text.extend(more);
            }
            text => *text = Some(more.to_vec()),
        }
    }

    fn mangled(&self, text: Vec<u16>) -> Result<Vec<u16>, UkiError> {
        mangled(self.release, text)
    }
}

/// `mangle_stub_cmdline`. What 255 and 256 do is told only where the releases around them agree.
pub(super) fn mangled(release: u32, text: Vec<u16>) -> Result<Vec<u16>, UkiError> {
    let (old, new) = (spaced(&text, |unit| unit <= 0x1f), tidy(text));
    match release {
        ..=254 => Ok(trimmed(&old)),
        257.. => Ok(new),
        _ if trimmed(&old) == new => Ok(new),
        found => {
            let what = String::from("drop spaces before a command line");
            Err(UkiError::Release { found, what })
        }
    }
}

/// Control characters become spaces, and outer spaces go. Before 255 spaces at the start and DEL
/// stayed.
pub(super) fn tidy(text: Vec<u16>) -> Vec<u16> {
    let spaced = spaced(&text, |unit| unit <= 0x20 || unit == 0x7f);
    let start = spaced.iter().take_while(|unit| **unit == 0x20).count();
    trimmed(spaced.get(start..).unwrap_or_default())
}

fn spaced(text: &[u16], space: impl Fn(u16) -> bool) -> Vec<u16> {
    text.iter().map(|unit| if space(*unit) { 0x20 } else { *unit }).collect()
}

fn trimmed(text: &[u16]) -> Vec<u16> {
    let kept = text.iter().rposition(|unit| *unit != 0x20).map_or(0, |last| last + 1);
    text.iter().take(kept).copied().collect()
}
