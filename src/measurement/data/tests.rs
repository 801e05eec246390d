use super::*;
use crate::measurement::digest::PcrBank;
use crate::measurement::event::EventDigest;

/// An event whose digest is that of its data.
fn event(pcr: u32, event_type: EventType, raw: &[u8]) -> Event {
    let bytes = PcrBank::Sha256.hash(raw).as_bytes().to_vec();
    let digests = vec![EventDigest { alg_id: 0xb, bytes }];
    Event { number: 0, pcr, event_type, digests, raw: raw.to_vec() }
}

#[track_caller]
fn described(pcr: u32, event_type: EventType, raw: &[u8], expected: &str) {
    assert_eq!(event(pcr, event_type, raw).data().to_string(), expected);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn variable_data(guid: Guid, name: &str, value: &[u8]) -> Vec<u8> {
    let mut raw = guid.as_bytes().to_vec();
    raw.extend((name.len() as u64).to_le_bytes());
    raw.extend((value.len() as u64).to_le_bytes());
    raw.extend(utf16(name));
    raw.extend(value);
    raw
}

#[test]
fn records_that_extend_nothing() {
    let no_action = EventType::NoAction;
    described(0, no_action, b"StartupLocality\0\x03", "TPM started at locality 3");
    described(0, no_action, b"SP800-155 Event\0\x01\x02", "record SP800-155 Event");
    let header = b"Spec ID Event02\0\0\0\0\0\x02\x01\0\x02\0";
    described(0, no_action, header, "log header Spec ID Event02, specification 1.2");
    described(0, no_action, b"short", "5 bytes that are not understood");
}

#[test]
fn firmware_code_in_both_forms() {
    let region = [0x1000u64.to_le_bytes(), 0x20u64.to_le_bytes()].concat();
    let blob = EventType::EfiPlatformFirmwareBlob;
    described(0, blob, &region, "firmware code at 0x1000, 32 bytes");
    let named = [&[4], b"PEI\0".as_slice(), &region].concat();
    let blob2 = EventType::EfiPlatformFirmwareBlob2;
    described(0, blob2, &named, "firmware code PEI at 0x1000, 32 bytes");
    described(0, EventType::PostCode, b"ACPI DATA", "ACPI DATA");
    described(0, EventType::PostCode, &region, "firmware code at 0x1000, 32 bytes");
    described(0, EventType::SCrtmContents, &named, "firmware code PEI at 0x1000, 32 bytes");
    described(0, EventType::EfiHcrtmEvent, b"HCRTM", "HCRTM");
    described(0, blob2, &[200, 1, 2], "3 bytes that are not understood");
}

#[test]
fn versions_are_text_or_guid() {
    let version = EventType::SCrtmVersion;
    described(0, version, &utf16("1.0\0"), "firmware version 1.0");
    described(0, version, b"GCE Virtual Firmware v1\0", "firmware version GCE Virtual Firmware v1");
    described(0, version, &[0, 0], "firmware version (empty)");
    let guid = Guid::GLOBAL_VARIABLE;
    described(0, version, guid.as_bytes(), "firmware version 8be4df61-93ca-11d2-aa0d-00e098032b8c");
}

#[test]
fn configuration_tables() {
    let mut tables = 1u64.to_le_bytes().to_vec();
    tables.extend(Guid::STUB_PAYLOAD.as_bytes());
    tables.extend([0; 8]);
    described(1, EventType::EfiHandoffTables, &tables, "1 configuration tables");
    let named = [&[7], b"SMBIOS\0".as_slice(), &tables].concat();
    described(1, EventType::EfiHandoffTables2, &named, "SMBIOS: 1 configuration tables");
    // A count that the data does not hold.
    described(1, EventType::EfiHandoffTables, &[0xff; 8], "8 bytes that are not understood");
}

#[test]
fn variables_of_secure_boot() {
    let config = EventType::EfiVariableDriverConfig;
    let global = Guid::GLOBAL_VARIABLE;
    described(7, config, &variable_data(global, "SecureBoot", &[1]), "SecureBoot on");
    described(7, config, &variable_data(global, "SecureBoot", &[]), "SecureBoot off");
    described(7, config, &variable_data(global, "SecureBoot", &[2]), "SecureBoot, 1 bytes");
    // One list of two SHA-256 entries, 48 bytes each.
    let mut list = hex::decode("2616c4c14c509240aca941f936934328").unwrap();
    for word in [28 + 96u32, 0, 48] {
        list.extend(word.to_le_bytes());
    }
    list.extend([0; 96]);
    let dbx = variable_data(global, "dbx", &list);
    described(7, config, &dbx, "dbx: 0 certificates, 2 hashes");
    let zero_sized = [&list[..24], &[0; 4], &list[28..]].concat();
    described(7, config, &variable_data(global, "dbx", &zero_sized), "dbx, 124 bytes");
    let authority = EventType::EfiVariableAuthority;
    let vouched = [global.as_bytes().as_slice(), &[1; 40]].concat();
    described(
        7,
        authority,
        &variable_data(global, "db", &vouched),
        "vouched for by db, owner 8be4df61-93ca-11d2-aa0d-00e098032b8c",
    );
    let sbat = variable_data(global, "SbatLevel", b"sbat,1,2024\n");
    described(7, authority, &sbat, "SbatLevel sbat,1,2024\\n");
    let boot = EventType::EfiVariableBoot;
    let order = variable_data(global, "BootOrder", &[1, 0, 0x0a, 0]);
    described(1, boot, &order, "BootOrder 0001,000A");
    described(7, config, &[0xff; 40], "40 bytes that are not understood");
}

#[test]
fn images_and_their_device_paths() {
    let image = |path: &[u8]| {
        let mut raw = [0x1000u64, 0x2000, 0].map(u64::to_le_bytes).concat();
        raw.extend((path.len() as u64).to_le_bytes());
        raw.extend(path);
        raw
    };
    let application = EventType::EfiBootServicesApplication;
    described(4, application, &image(&[]), "image, 8192 bytes");
    let file = utf16("\\EFI\\a\u{1b}[m.efi\0");
    let mut path = vec![4, 4, (file.len() + 4) as u8, 0];
    path.extend(&file);
    described(4, application, &image(&path), "image \\EFI\\a\\u{1b}[m.efi, 8192 bytes");
    let uri = [&[3, 24, 12, 0], b"http://a".as_slice(), &[0x7f, 0xff, 4, 0]].concat();
    described(4, application, &image(&uri), "image Uri(http://a), 8192 bytes");
    let root = [2, 1, 12, 0, 0xd0, 0x41, 0x08, 0x0a, 0, 0, 0, 0, 1, 1, 6, 0, 2, 3];
    described(4, application, &image(&root), "image PciRoot(0x0)/Pci(0x3,0x2), 8192 bytes");
    let nodes = |count| image(&[1, 5, 4, 0].repeat(count));
    let long = event(4, application, &nodes(DevicePath::MAX_NODES)).data().to_string();
    assert!(long.ends_with("/Path(1,5)/..., 8192 bytes"), "{long}");
    described(4, application, &nodes(DevicePath::MAX_NODES + 1), "image, 8192 bytes");
    // A node shorter than its own header: the path is unknown, the image is not.
    described(4, application, &image(&[4, 4, 2, 0]), "image, 8192 bytes");
}

#[test]
fn loaders_speak_by_pcr() {
    let ipl = EventType::Ipl;
    described(8, ipl, b"grub_cmd: linux /vmlinuz\0", "GRUB ran linux /vmlinuz");
    described(8, ipl, b"kernel_cmdline: /vmlinuz ro\0", "command line /vmlinuz ro");
    described(8, ipl, b"module_cmdline: x\0", "module_cmdline: x");
    described(9, ipl, b"(hd0,gpt2)/grub.cfg\0", "GRUB read (hd0,gpt2)/grub.cfg");
    described(11, ipl, &utf16(".linux\0"), "section .linux");
    described(12, ipl, &utf16("ro quiet\0"), "command line ro quiet");
    // What systemd only names is measured by other bytes than its name.
    let mut named = event(12, ipl, &utf16("Credentials initrd\0"));
    named.digests[0].bytes = vec![1; 32];
    assert_eq!(named.data().to_string(), "Credentials initrd");
    described(14, ipl, b"MokListX\0", "shim's MokListX");
    described(9, ipl, &[], "no data");
}

#[test]
fn tagged_events() {
    let tagged = |id: u32, text: &[u8]| {
        [&id.to_le_bytes(), &(text.len() as u32).to_le_bytes(), text].concat()
    };
    let tag = EventType::EventTag;
    let options = tagged(0x8f3b_22ed, b"LOADED_IMAGE::LoadOptions\0");
    described(9, tag, &options, "command line that the kernel was started with");
    let both = [tagged(0xf5bc_582a, &utf16("loader.conf\0")), tagged(0x1234, b"x")].concat();
    described(5, tag, &both, "loader.conf, tag 0x00001234 x");
    assert!(event(5, tag, &both).data().has_tag(Tag::LoaderConf));
    let short = &options[..options.len() - 1];
    assert!(matches!(event(9, tag, short).data(), EventData::Undecoded { length: 33, .. }));
}

#[test]
fn every_kind_is_an_object_that_names_itself() {
    let separator = event(0, EventType::Separator, &[0; 4]).data();
    assert_eq!(serde_json::to_string(&separator).unwrap(), r#"{"kind":"separator","value":0}"#);
    let unknown = event(0, EventType::Unknown(0x77), &[0xfe; 300]).data();
    let json = serde_json::to_value(&unknown).unwrap();
    assert_eq!(json["kind"], "undecoded");
    assert_eq!(json["length"], 300);
    assert_eq!(json["hex"].as_str().unwrap().len(), 512);
}
