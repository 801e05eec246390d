//! A domain of libvirt, as `virsh dumpxml` prints it.

use roxmltree::{Document, Node, ParsingOptions};

use super::{Described, ImportError};

/// Longest XML of a domain.
pub const MAX_LEN: usize = 4 << 20;
/// Most elements, attributes and texts of one.
const MAX_NODES: u32 = 1 << 16;
/// Namespace of options that a domain hands to QEMU as they are.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// What the XML of a domain tells that is given its kernel.
///
/// # Errors
/// [`ImportError`], where no template can be made of the machine.
pub fn describe(xml: &str) -> Result<Described, ImportError> {
    let described = started(xml)?;
    match (described.kernel.as_str(), described.initrd.as_str()) {
        ("", _) => Err(ImportError::OwnDisk),
        (_, "") => Err(ImportError::NoInitrd),
        _ => Ok(described),
    }
}

/// What the XML of a domain tells, of one that starts from its own disk too: then kernel, initrd and
/// command line are empty.
///
/// # Errors
/// [`ImportError`], where the machine cannot be of a template.
pub fn started(xml: &str) -> Result<Described, ImportError> {
    if xml.len() > MAX_LEN {
        return Err(ImportError::TooLong { limit: MAX_LEN });
    }
    // Without a DTD there are no entities to expand.
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(xml, options)
        .map_err(|error| ImportError::NotXml { cause: error.to_string() })?;
    let domain = document.root_element();
    let kind = domain.attribute("type").unwrap_or_default();
    if domain.tag_name().name() != "domain" || !["kvm", "qemu"].contains(&kind) {
        let found = format!("<{} type='{kind}'>", domain.tag_name().name());
        return Err(ImportError::NotDomain { found });
    }
    let os = child(domain, "os").ok_or(ImportError::Bios)?;
    let text = |name: &str| child(os, name).and_then(|node| node.text()).map(str::to_owned);
    let loader = child(os, "loader");
    let firmware = loader.and_then(|node| node.text()).map(|path| path.trim().to_owned());
    if firmware.is_none() && os.attribute("firmware") != Some("efi") {
        return Err(ImportError::Bios);
    }
    let machine_type = child(os, "type").and_then(|node| node.attribute("machine"));
    let mut described = Described {
        name: child(domain, "name").and_then(|node| node.text()).map(str::to_owned),
        kernel: text("kernel").unwrap_or_default(),
        initrd: text("initrd").unwrap_or_default(),
        cmdline: text("cmdline").unwrap_or_default(),
        memory: child(domain, "memory").map(memory).transpose()?,
        cpus: child(domain, "vcpu").map(cpus).transpose()?,
        firmware,
        secure_boot: loader.and_then(|node| node.attribute("secure")) == Some("yes"),
        machine_type: machine_type.map(str::to_owned),
        ..Described::default()
    };
    described.tpm = tpm(domain);
    described.open = open(domain, os, &described);
    Ok(described)
}

/// Whether a domain is to be handed signatures, by the firmware's configuration or from a folder of them;
/// of a text that is no XML too.
pub fn is_handed_signatures(xml: &str) -> bool {
    ["org.vmseal/", "/vmseal-templates/"].iter().any(|mark| xml.contains(mark))
}

/// What the domain tells and a template does not.
fn open(domain: Node<'_, '_>, os: Node<'_, '_>, described: &Described) -> Vec<String> {
    let mut open = vec![];
    let version = tpm_backend(domain).map(|backend| backend.attribute("version"));
    if described.tpm.is_some() && version == Some(None) {
        open.push("the version of its TPM is not told: it must be 2.0".to_owned());
    }
    if described.tpm.is_none() {
        open.push("it has no TPM 2.0".to_owned());
    }
    if described.firmware.is_none() {
        open.push("firmware: libvirt chooses it when the machine starts".to_owned());
    }
    if domain.children().any(|node| node.tag_name().namespace() == Some(QEMU)) {
        open.push("it hands QEMU options of its own, which may change what is measured".to_owned());
    }
    if child(os, "shim").is_some() {
        open.push("it starts the kernel by a shim, which is not looked at".to_owned());
    }
    if devices(domain).any(|node| node.has_tag_name("memory")) {
        open.push("memory: some of it is plugged in".to_owned());
    }
    open
}

/// The kind of its TPM 2.0.
fn tpm(domain: Node<'_, '_>) -> Option<String> {
    let backend = tpm_backend(domain)?;
    if backend.attribute("version").is_some_and(|version| version != "2.0") {
        return None;
    }
    let model = backend.parent_element()?.attribute("model").unwrap_or("tpm-tis");
    Some(model.trim_start_matches("tpm-").to_owned())
}

fn tpm_backend<'a, 'input>(domain: Node<'a, 'input>) -> Option<Node<'a, 'input>> {
    let tpm = devices(domain).find(|node| node.has_tag_name("tpm"))?;
    child(tpm, "backend")
}

/// Memory in MiB, as libvirt rounds it for QEMU.
fn memory(node: Node<'_, '_>) -> Result<u64, ImportError> {
    let (text, unit) = (node.text().unwrap_or_default(), node.attribute("unit").unwrap_or("KiB"));
    let refused = || ImportError::Number { what: "memory", found: format!("{text} {unit}") };
    let unit = match unit {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return Err(refused()),
    };
    let count: u64 = text.trim().parse().map_err(|_| refused())?;
    let bytes = count.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(refused)?;
    Ok(bytes.div_ceil(1 << 20))
}

/// Processors that are there when the machine starts.
fn cpus(node: Node<'_, '_>) -> Result<u32, ImportError> {
    let found = node.attribute("current").or(node.text()).unwrap_or_default();
    let refused = || ImportError::Number { what: "number of processors", found: found.to_owned() };
    found.trim().parse().ok().filter(|count| *count > 0).ok_or_else(refused)
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

fn devices<'a, 'input>(domain: Node<'a, 'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    child(domain, "devices").into_iter().flat_map(|devices| devices.children())
}
