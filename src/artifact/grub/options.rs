//! Options of extended commands (`grub-core/lib/arg.c`).

/// An option: its long and short name and whether it takes a value.
pub(super) struct Spec {
    pub(super) long: &'static str,
    pub(super) short: Option<char>,
    pub(super) value: Takes,
}

/// Whether an option takes a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Value,
    /// Only where one is given.
    Maybe,
}

/// The arguments of one command, sorted out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    set: Vec<(&'static str, Option<String>)>,
    pub(super) rest: Vec<String>,
}

impl Options {
    /// Sorts out `arguments`; `None` where GRUB refuses them. `accept_dash` passes on what is no
    /// option (`GRUB_COMMAND_ACCEPT_DASH`).
    pub(super) fn parse(specs: &[Spec], arguments: &[String], accept_dash: bool) -> Option<Self> {
        let mut found = Self::default();
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                found.rest.extend(rest.cloned());
                break;
            }
            let (spec, mut value) = if let Some(long) = argument.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (long, None),
                };
                (specs.iter().find(|spec| spec.long == name), value)
            } else if argument.len() > 1 && argument.starts_with('-') {
                let mut letters = argument.chars().skip(1);
                let (first, more) = (letters.next(), letters.next());
                let known = specs.iter().find(|spec| spec.short == first && more.is_none());
                (known, None)
            } else {
                found.rest.push(argument.clone());
                continue;
            };
            let Some(spec) = spec else {
                if !accept_dash {
                    return None;
                }
                found.rest.push(argument.clone());
                continue;
            };
            if spec.value != Takes::Nothing && value.is_none() {
                value = rest.next_if(|next| !next.starts_with('-')).cloned();
            }
            if spec.value == Takes::Value && value.is_none() {
                return None;
            }
            found.set.push((spec.long, value));
        }
        Some(found)
    }

    pub(super) fn has(&self, long: &str) -> bool {
        self.set.iter().any(|(name, _)| *name == long)
    }

    /// The last value of an option.
    pub(super) fn value(&self, long: &str) -> Option<&str> {
        let mut matching = self.set.iter().rev().filter(|(name, _)| *name == long);
        matching.find_map(|(_, value)| value.as_deref())
    }
}
