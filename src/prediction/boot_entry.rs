//! Type 1 entries of the Boot Loader Specification, as systemd-boot reads them.

/// What a type 1 entry starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Starts {
    /// `linux`: a kernel, with initrds by systemd-boot.
    Linux(String),
    /// `efi` or `uki`: any EFI program.
    Efi(String),
}

/// One `loader/entries/*.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct EntryFile {
    pub(super) title: Option<String>,
    pub(super) version: Option<String>,
    pub(super) machine_id: Option<String>,
    pub(super) sort_key: Option<String>,
    pub(super) starts: Option<Starts>,
    pub(super) initrds: Vec<String>,
    pub(super) options: Option<String>,
    pub(super) devicetree: Option<String>,
}

/// Most lines of an entry that are read.
const MAX_LINES: usize = 4096;

/// The keys and values of a configuration file (systemd's `line_get_key_value` with white space
/// as the separator).
pub(super) fn key_values<'a>(
    text: &'a str,
    separators: &'a [char],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let lines = text.split(['\n', '\r']).take(MAX_LINES);
    lines.filter_map(move |line| {
        let line = line.trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (key, value) = line.split_once(separators)?;
        let value = value.trim_start_matches(separators).trim_start_matches([' ', '\t']);
        let quoted = ['"', '\''].into_iter().find_map(|quote| {
            value.strip_prefix(quote)?.strip_suffix(quote)
        });
        let value = quoted.unwrap_or(value);
        (!value.is_empty()).then_some((key, value))
    })
}

impl EntryFile {
    /// Parses an entry; `None` where systemd-boot would not show it (`boot_entry_add_type1`).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut entry = Self::default();
        for (key, value) in key_values(text, &[' ', '\t']) {
            let owned = || value.to_owned();
            match key {
                "title" => entry.title = Some(owned()),
                "version" => entry.version = Some(owned()),
                "machine-id" => entry.machine_id = Some(owned()),
                "sort-key" => entry.sort_key = Some(owned()),
                "linux" => match entry.starts {
                    None | Some(Starts::Linux(_)) => entry.starts = Some(Starts::Linux(path(value))),
                    Some(_) => return None,
                },
                "efi" | "uki" => match entry.starts {
                    None | Some(Starts::Efi(_)) => entry.starts = Some(Starts::Efi(path(value))),
                    Some(_) => return None,
                },
                "architecture" if !value.eq_ignore_ascii_case("x64") => return None,
                "initrd" => entry.initrds.push(path(value)),
                "devicetree" => entry.devicetree = Some(path(value)),
                "options" => {
                    entry.options = Some(match entry.options.take() {
                        Some(before) => format!("{before} {value}"),
                        None => owned(),
                    });
                }
                _ => {}
            }
        }
        entry.starts.is_some().then_some(entry)
    }

    /// The command line that systemd-boot gives the kernel: `initrd=` for every initrd, then the
    /// options (`initrd_prepare`). `None` where there is neither.
    pub(super) fn load_options(&self) -> Option<String> {
        let is_linux = matches!(self.starts, Some(Starts::Linux(_)));
        let initrds = self.initrds.iter().filter(|_| is_linux);
        let words: Vec<String> = initrds
            .map(|initrd| format!("initrd={}", initrd.replace('/', "\\")))
            .chain(self.options.clone())
            .collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}

/// A path as the files of a boot are found by: absolute, with `/` (`xstr8_to_path`).
fn path(value: &str) -> String {
    let parts: Vec<&str> = value.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_systemd_boot_reads() {
        let text = "# comment\n title  Debian\r\nlinux /deb//vmlinuz\ninitrd \\deb\\ucode\n\
                    initrd deb/initrd\noptions a=1 \noptions  b\nunknown x\nversion\nsort-key k\n";
        let entry = EntryFile::parse(text).unwrap();
        assert_eq!(entry.title.as_deref(), Some("Debian"));
        assert_eq!(entry.starts, Some(Starts::Linux("/deb/vmlinuz".into())));
        assert_eq!(entry.version, None);
        assert_eq!(entry.sort_key.as_deref(), Some("k"));
        assert_eq!(
            entry.load_options().as_deref(),
            Some("initrd=\\deb\\ucode initrd=\\deb\\initrd a=1 b")
        );
        assert_eq!(EntryFile::parse("title x\n"), None);
        assert_eq!(EntryFile::parse("linux /a\nefi /b\n"), None);
        assert_eq!(EntryFile::parse("architecture aa64\nlinux /a\n"), None);
        let efi = EntryFile::parse("efi /a.efi\ninitrd /i\n").unwrap();
        assert_eq!(efi.load_options(), None);
    }
}
