//! Which packages have their files unpacked, and of which version: `status` of dpkg's database, and
//! `updates/`, which has what dpkg has not written there yet.

use std::collections::BTreeMap;

use crate::vouch::bounded::lines;

/// Most bytes of a field that counts here.
const MAX_FIELD: usize = 256;

/// The packages whose files are there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Packages {
    /// Version by name and architecture.
    versions: BTreeMap<String, BTreeMap<String, String>>,
}

/// The fields of one package that count here.
#[derive(Debug, Default)]
struct Stanza<'a> {
    package: Option<&'a str>,
    status: Option<&'a str>,
    architecture: Option<&'a str>,
    version: Option<&'a str>,
    is_malformed: bool,
}

impl Packages {
    /// Enters what a file says of packages, in place of what was said of them before.
    pub fn add(&mut self, text: &[u8]) {
        let mut stanza = Stanza::default();
        for line in lines(text) {
            if line.is_empty() {
                self.enter(&std::mem::take(&mut stanza));
            } else {
                stanza.read(line);
            }
        }
        self.enter(&stanza);
    }

    /// The version of a package, where its files are there. Without an architecture, of the one that
    /// they are there for: dpkg names it where there can be several.
    pub fn version(&self, package: &str, architecture: Option<&str>) -> Option<&str> {
        let versions = self.versions.get(package)?;
        let version = match architecture {
            Some(architecture) => versions.get(architecture),
            None => versions.values().next(),
        };
        version.map(String::as_str)
    }

    fn enter(&mut self, stanza: &Stanza<'_>) {
        let Some(package) = stanza.package.filter(|name| is_name(name)) else { return };
        let versions = self.versions.entry(package.to_owned()).or_default();
        match stanza.architecture {
            Some(architecture) => drop(versions.remove(architecture)),
            // It is about the package whatever it was for.
            None => versions.clear(),
        }
        let is_unpacked = !stanza.is_malformed && stanza.status.is_some_and(is_unpacked);
        if let Some(version) = stanza.version.filter(|_| is_unpacked) {
            let architecture = stanza.architecture.unwrap_or_default().to_owned();
            versions.insert(architecture, version.to_owned());
        }
    }
}

impl<'a> Stanza<'a> {
    fn read(&mut self, line: &'a [u8]) {
        // What begins with white space goes on with the field before, none of which has such lines.
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = line.split_at(colon);
        let field = match name.to_ascii_lowercase().as_slice() {
            b"package" => &mut self.package,
            b"status" => &mut self.status,
            b"architecture" => &mut self.architecture,
            b"version" => &mut self.version,
            _ => return,
        };
        let value = value.get(1..).and_then(|value| std::str::from_utf8(value).ok());
        let value = value.map(str::trim).filter(|value| value.len() <= MAX_FIELD);
        self.is_malformed |= value.is_none_or(str::is_empty) || field.is_some();
        *field = value.or(*field);
    }
}

/// Whether files of the version that is told are there, all of them. A kernel's hooks run while its
/// package is `unpacked` or `half-configured`; `half-installed` has files of any version or none.
fn is_unpacked(status: &str) -> bool {
    let words: Vec<&str> = status.split_ascii_whitespace().collect();
    let [want, error, state] = words.as_slice() else { return false };
    // One that is to go vouches for nothing to come, and one to be reinstalled not for itself.
    matches!(*want, "install" | "hold")
        && *error == "ok"
        && matches!(
            *state,
            "installed" | "triggers-pending" | "triggers-awaited" | "unpacked" | "half-configured"
        )
}

fn is_name(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-+._".contains(&byte);
    !text.is_empty() && text.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(texts: &[&str]) -> Packages {
        let mut packages = Packages::default();
        texts.iter().for_each(|text| packages.add(text.as_bytes()));
        packages
    }

    fn stanza(status: &str) -> String {
        format!("Package: linux\nStatus: {status}\nArchitecture: amd64\nVersion: 6.12-1\n")
    }

    #[test]
    fn files_count_from_unpacking_until_removal_is_wanted() {
        for (status, counts) in [
            ("install ok installed", true),
            ("hold ok installed", true),
            ("install ok unpacked", true),
            ("install ok half-configured", true),
            ("install ok triggers-awaited", true),
            ("install ok triggers-pending", true),
            ("install ok half-installed", false),
            ("install reinstreq half-installed", false),
            ("install reinstreq installed", false),
            ("install ok config-files", false),
            ("deinstall ok config-files", false),
            ("deinstall ok installed", false),
            ("deinstall ok half-configured", false),
            ("purge ok installed", false),
            ("purge ok not-installed", false),
            ("unknown ok not-installed", false),
            ("install ok", false),
            ("install ok installed twice", false),
        ] {
            let found = of(&[&stanza(status)]);
            assert_eq!(found.version("linux", None).is_some(), counts, "{status}");
        }
    }

    #[test]
    fn fields_are_found_among_others() {
        let text = "Package: a\nstatus: install ok installed\nDescription: words\n Version: 9\n\
                    \u{20}.\n Package: b\nVersion:1:2-3\nConffiles:\n /etc/a 00\n\n\n\
                    Package: c\nStatus: install ok installed\nVersion: 4\n";
        let found = of(&[text]);
        assert_eq!(found.version("a", None), Some("1:2-3"));
        assert_eq!(found.version("c", None), Some("4"));
        assert_eq!(found.version("b", None), None);
    }

    #[test]
    fn architectures_are_told_apart_where_they_are_named() {
        let other = stanza("install ok installed").replace("amd64", "i386").replace("6.12", "7");
        let found = of(&[&format!("{}\n{other}", stanza("deinstall ok config-files"))]);
        assert_eq!(found.version("linux", Some("amd64")), None);
        assert_eq!(found.version("linux", Some("i386")), Some("7-1"));
        assert_eq!(found.version("linux", None), Some("7-1"));
    }

    #[test]
    fn the_last_word_on_a_package_counts() {
        let installed = stanza("install ok installed");
        let newer = stanza("install ok unpacked").replace("6.12-1", "6.13-1");
        assert_eq!(of(&[&installed, &newer]).version("linux", None), Some("6.13-1"));
        let gone = "Package: linux\nStatus: purge ok not-installed\n";
        assert_eq!(of(&[&installed, &newer, gone]).version("linux", Some("amd64")), None);
        assert_eq!(
            of(&["#padding\n#padding\n", &installed]).version("linux", None),
            Some("6.12-1")
        );
    }

    #[test]
    fn what_is_malformed_does_not_count() {
        let good = stanza("install ok installed");
        for (from, to) in [
            ("Package: linux", "Package: "),
            ("Package: linux", "Package: ../linux"),
            ("Version: 6.12-1", "Version:"),
            ("Version: 6.12-1", "Version: 1\nVersion: 2"),
            ("Version: 6.12-1\n", ""),
            ("Status", "Status: install ok installed\nStatus"),
            ("amd64", &"a".repeat(MAX_FIELD + 1)),
        ] {
            let found = of(&[&good.replace(from, to)]);
            assert_eq!(found.version("linux", None), None, "{from} -> {to}");
        }
        let mut found = Packages::default();
        found.add(b"Package: linux\nStatus: install ok installed\nVersion: \xff\n");
        assert_eq!(found.version("linux", None), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(text in prop::collection::vec(any::<u8>(), 0..512)) {
            Packages::default().add(&text);
        }

        #[test]
        fn any_fields_are_read(
            lines in prop::collection::vec(
                "(Package|Status|Version|Architecture|Other| )?:? ?(linux|install ok installed|1|\\PC{0,9})?",
                0..24,
            ),
        ) {
            let mut packages = Packages::default();
            packages.add(lines.join("\n").as_bytes());
            let versions = packages.versions.values().flat_map(BTreeMap::values);
            prop_assert!(versions.into_iter().all(|version| !version.is_empty()));
        }
    }
}
