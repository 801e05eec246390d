//! How a machine is started so that it gets its file.

use vmseal::template::DeliveryKind;

/// How a machine is started so that it gets its file.
pub struct Handover {
    /// The option of QEMU.
    pub qemu: Option<String>,
    /// What the XML of its domain says.
    pub libvirt: Option<String>,
    /// What else happens to the file.
    other: Option<&'static str>,
}

impl Handover {
    /// That of a file.
    pub fn of(kind: DeliveryKind, path: &str) -> Self {
        // A comma in a name is written twice.
        let (option, xml) = (path.replace(',', ",,"), attribute(path));
        match kind {
            DeliveryKind::Files => Self { qemu: None, libvirt: None, other: None },
            DeliveryKind::FwCfg => Self {
                qemu: Some(format!("-fw_cfg name=opt/org.vmseal/policy,file={option}")),
                libvirt: Some(format!(
                    "<sysinfo type='fwcfg'><entry name='opt/org.vmseal/policy' file='{xml}'/></sysinfo>"
                )),
                other: None,
            },
            DeliveryKind::Disk => Self {
                qemu: Some(format!("-drive if=virtio,format=raw,readonly=on,file={option}")),
                libvirt: Some(format!(
                    "<disk type='file' device='disk'><driver name='qemu' type='raw'/>\
                     <source file='{xml}'/><target dev='vdz' bus='virtio'/><readonly/></disk>"
                )),
                other: None,
            },
            DeliveryKind::Qubesdb => Self {
                qemu: None,
                libvirt: None,
                other: Some("the extension of dom0 gives each machine its own when it starts"),
            },
        }
    }

    /// For people, line by line.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let qemu = self.qemu.as_ref().map(|option| format!("start each with {option}"));
        let libvirt = self.libvirt.as_ref().map(|xml| format!("or by libvirt: {xml}"));
        qemu.into_iter().chain(libvirt).chain(self.other.map(str::to_owned))
    }
}

/// A value between single quotes.
fn attribute(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}
