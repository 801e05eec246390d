//! A command line of QEMU: of a script, or of `/proc/PID/cmdline`.

use super::{Described, ImportError};

/// Longest command line.
pub const MAX_LEN: usize = 1 << 20;
/// Where a script's command ends.
const ENDS: [&str; 8] = ["&", "&&", ";", "|", "||", ">", "2>&1", ">>"];

/// What a command line tells.
///
/// # Errors
/// [`ImportError`], where the machine cannot be of a template.
pub fn describe(text: &str) -> Result<Described, ImportError> {
    if text.len() > MAX_LEN {
        return Err(ImportError::TooLong { limit: MAX_LEN });
    }
    let (words, is_script) = match text.contains('\0') {
        true => (text.split('\0').map(str::to_owned).collect(), false),
        false => (shlex::split(text).ok_or(ImportError::NotQemu)?, true),
    };
    let options = Options::of(&words, is_script)?;
    let kernel = options.last("kernel").or(options.part("machine", "kernel"));
    let kernel = kernel.ok_or(ImportError::OwnDisk)?;
    let initrd = options.last("initrd").or(options.part("machine", "initrd"));
    let cmdline = options.last("append").or(options.part("machine", "append"));
    let firmware = options.firmware().ok_or(ImportError::Bios)?;
    let machine = options.parts("machine").find(|(key, _)| key.is_empty() || key == "type");
    let machine = machine.map(|(_, value)| value);
    let mut open = vec![];
    if options.last("readconfig").is_some() {
        open.push("-readconfig is not looked at".to_owned());
    }
    let tpm = options.tpm();
    if tpm.is_none() {
        open.push("it has no TPM".to_owned());
    }
    let name = options.part("name", "").or(options.part("name", "guest"));
    if name.is_none() {
        open.push("it has no -name: one file serves all machines that boot so".to_owned());
    }
    Ok(Described {
        name,
        kernel,
        initrd: initrd.ok_or(ImportError::NoInitrd)?,
        cmdline: cmdline.unwrap_or_default(),
        memory: Some(options.memory()?),
        cpus: Some(options.cpus()?),
        firmware: Some(firmware),
        secure_boot: options.is_secure(),
        machine_type: machine,
        tpm,
        open,
        ..Described::default()
    })
}

/// The options with a value, in their order, without dashes.
struct Options(Vec<(String, String)>);

impl Options {
    const KNOWN: [&'static str; 14] = [
        "kernel",
        "initrd",
        "append",
        "m",
        "smp",
        "drive",
        "machine",
        "M",
        "blockdev",
        "bios",
        "name",
        "global",
        "device",
        "readconfig",
    ];

    fn of(words: &[String], is_script: bool) -> Result<Self, ImportError> {
        let is_qemu = |word: &String| {
            let program = word.rsplit('/').next().unwrap_or_default();
            program.starts_with("qemu-system-") || ["kvm", "qemu-kvm"].contains(&program)
        };
        let start = words.iter().position(is_qemu).ok_or(ImportError::NotQemu)?;
        let rest = words.iter().skip(start + 1);
        let mut words = rest.take_while(|word| !(is_script && ENDS.contains(&word.as_str())));
        let mut found = vec![];
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix('-') else { continue };
            let option = option.strip_prefix('-').unwrap_or(option);
            if !Self::KNOWN.contains(&option) {
                continue;
            }
            let Some(value) = words.next() else { break };
            if is_script && value.contains(['$', '`']) {
                return Err(ImportError::Shell { option: format!("-{option}") });
            }
            let option = if option == "M" { "machine" } else { option };
            found.push((option.to_owned(), value.clone()));
        }
        Ok(Self(found))
    }

    fn all(&self, option: &str) -> impl DoubleEndedIterator<Item = &str> {
        let all = self.0.iter().filter(move |(name, _)| name == option);
        all.map(|(_, value)| value.as_str())
    }

    fn last(&self, option: &str) -> Option<String> {
        self.all(option).next_back().map(str::to_owned)
    }

    /// Keys and values of all uses of an option, the last use first. The first value may have no key.
    fn parts(&self, option: &str) -> impl Iterator<Item = (String, String)> {
        self.all(option).rev().flat_map(parts)
    }

    fn part(&self, option: &str, key: &str) -> Option<String> {
        self.parts(option).find(|(found, _)| found == key).map(|(_, value)| value)
    }

    /// The firmware's code: the first flash, or what takes a BIOS's place.
    fn firmware(&self) -> Option<String> {
        let flashes = self.all("drive").map(parts).filter_map(|parts| {
            let of = |key: &str| value(&parts, key);
            let is_first = of("unit").is_none_or(|unit| unit == "0");
            (of("if")? == "pflash" && is_first).then(|| of("file")).flatten()
        });
        let node = self.part("machine", "pflash0").and_then(|node| self.file_of(&node, 0));
        let machine = self.part("machine", "firmware");
        flashes.into_iter().next().or(node).or(machine).or(self.last("bios"))
    }

    /// The file of a block device, through the formats that lie over it.
    fn file_of(&self, node: &str, depth: u8) -> Option<String> {
        let nodes = self.all("blockdev").map(parts);
        let parts =
            nodes.into_iter().find(|parts| value(parts, "node-name").as_deref() == Some(node))?;
        match (
            value(&parts, "filename").or_else(|| value(&parts, "file.filename")),
            value(&parts, "file"),
        ) {
            (Some(file), _) => Some(file),
            (None, Some(below)) if depth < 8 => self.file_of(&below, depth + 1),
            _ => None,
        }
    }

    fn is_secure(&self) -> bool {
        self.all("global").any(|text| {
            let parts = parts(text);
            let is = |key: &str, wanted: &str| value(&parts, key).as_deref() == Some(wanted);
            is("cfi.pflash01.secure", "on") || is("property", "secure") && is("value", "on")
        })
    }

    fn tpm(&self) -> Option<String> {
        let mut drivers = self.all("device").map(parts);
        drivers.find_map(|parts| {
            let driver = value(&parts, "driver").or_else(|| value(&parts, ""))?;
            let kind = driver.strip_prefix("tpm-")?;
            ["crb", "tis"].contains(&kind).then(|| kind.to_owned())
        })
    }

    /// MiB, as QEMU reads `-m`.
    fn memory(&self) -> Result<u64, ImportError> {
        let Some(text) = self.part("m", "").or(self.part("m", "size")) else { return Ok(128) };
        let refused = || ImportError::Number { what: "memory", found: text.clone() };
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (count, unit) = text.split_at_checked(end).ok_or_else(refused)?;
        let unit: u64 = match unit.to_ascii_lowercase().as_str() {
            "b" => 1,
            "k" => 1 << 10,
            "" | "m" => 1 << 20,
            "g" => 1 << 30,
            "t" => 1 << 40,
            _ => return Err(refused()),
        };
        let count: u64 = count.parse().map_err(|_| refused())?;
        let bytes = count.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(refused)?;
        Ok(bytes.div_ceil(1 << 20))
    }

    /// As QEMU reads `-smp`: what is left out is 1, but for the count itself.
    fn cpus(&self) -> Result<u32, ImportError> {
        let what = "number of processors";
        let number = |found: String| {
            let refused = ImportError::Number { what, found: found.clone() };
            found.parse::<u32>().ok().filter(|count| (1..=4096).contains(count)).ok_or(refused)
        };
        if let Some(count) = ["", "cpus", "maxcpus"].iter().find_map(|key| self.part("smp", key)) {
            return number(count);
        }
        let layers =
            ["drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"];
        let layers = layers.into_iter().filter_map(|layer| self.part("smp", layer)).map(number);
        layers.into_iter().try_fold(1_u32, |product, layer| {
            let product = product.checked_mul(layer?);
            product.ok_or(ImportError::Number { what, found: "too many".to_owned() })
        })
    }
}

/// `key=value,…` as QEMU splits it: a comma that is written twice stands for itself. libvirt writes
/// JSON.
fn parts(text: &str) -> Vec<(String, String)> {
    if text.starts_with('{') {
        return json_parts(text);
    }
    let mut whole = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ',' if rest.peek() != Some(&',') => whole.push(String::new()),
            c => {
                if c == ',' {
                    rest.next();
                }
                if let Some(last) = whole.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    let mut is_first = true;
    let parts = whole.into_iter().map(|part| {
        let first = std::mem::replace(&mut is_first, false);
        match part.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None if first => (String::new(), part),
            None => (part, "on".to_owned()),
        }
    });
    parts.collect()
}

/// The same of JSON; what is no text there is nothing that is asked for.
fn json_parts(text: &str) -> Vec<(String, String)> {
    let json: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let object = json.as_object().into_iter().flatten();
    object.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn value(parts: &[(String, String)], key: &str) -> Option<String> {
    parts.iter().find(|(found, _)| found == key).map(|(_, value)| value.clone())
}
