use proptest::prelude::*;

use super::*;
use crate::artifact::sample::{Memory, image};
use crate::measurement::PcrBank;

const MACHINE: QemuMachine = QemuMachine { kind: MachineType::Q35, memory: 1 << 30 };

/// A PE image with a Linux header of boot protocol 2.15 in it.
fn kernel() -> Vec<u8> {
    let mut bytes = image(&[(".text", &[7; 9000])], 0);
    bytes[0x1f1..0x240].fill(0);
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
    bytes[0x236] = 0x3f;
    bytes
}

fn patched(bytes: &[u8], cmdline: &[u8], initrd: Option<u64>) -> Result<Vec<u8>, QemuKernelError> {
    let file = Memory(bytes.to_vec());
    let kernel = QemuKernel::new(&file, KernelBlob::Patched, MACHINE, cmdline, initrd)?;
    let mut seen = vec![0; bytes.len()];
    kernel.read_exact_at(0, &mut seen).unwrap();
    let mut tail = vec![0; 0x100];
    kernel.read_exact_at(0x215, &mut tail).unwrap();
    assert_eq!(tail, seen[0x215..0x315]);
    Ok(seen)
}

#[test]
fn the_header_is_filled_in_as_qemu_does() {
    let plain = kernel();
    let mut expected = plain.clone();
    expected[0x210] = 0xb0;
    expected[0x211] = 0x81;
    expected[0x224..0x226].copy_from_slice(&[0x00, 0xfe]);
    expected[0x228..0x22c].copy_from_slice(&[0, 0, 2, 0]);
    assert_eq!(patched(&plain, b"quiet", None), Ok(expected.clone()));
    // (0x3ffd8000 - 1 - 1000000) & ~0xfff
    expected[0x218..0x21c].copy_from_slice(&0x3fee_3000_u32.to_le_bytes());
    expected[0x21c..0x220].copy_from_slice(&1_000_000_u32.to_le_bytes());
    assert_eq!(patched(&plain, b"quiet", Some(1_000_000)), Ok(expected.clone()));
    expected[0x1fa..0x1fc].copy_from_slice(&[0x03, 0x03]);
    assert_eq!(patched(&plain, b"quiet vga=0x303 x", Some(1_000_000)), Ok(expected));

    let file = Memory(plain.clone());
    let unpatched = QemuKernel::new(&file, KernelBlob::Plain, MACHINE, b"", Some(1)).unwrap();
    let mut seen = vec![0; plain.len()];
    unpatched.read_exact_at(0, &mut seen).unwrap();
    assert_eq!(seen, plain);
}

#[test]
fn memory_and_the_kernel_bound_the_initrd() {
    let address = |bytes: &[u8]| u32::from_le_bytes(bytes[0x218..0x21c].try_into().unwrap());
    let mut old = kernel();
    old[0x236] = 0;
    old[0x22c..0x230].copy_from_slice(&0x37ff_ffff_u32.to_le_bytes());
    assert_eq!(address(&patched(&old, b"", Some(1)).unwrap()), 0x37ff_f000);
    let too_large = patched(&kernel(), b"", Some(1 << 30)).unwrap_err();
    assert!(matches!(too_large, QemuKernelError::InitrdTooLarge { .. }), "{too_large}");

    let low = |kind, memory| QemuMachine { kind, memory }.low_memory();
    assert_eq!(low(MachineType::Q35, 0x8000_0000), 0x8000_0000);
    assert_eq!(low(MachineType::Q35, 0xafff_ffff), 0xafff_ffff);
    assert_eq!(low(MachineType::Q35, 0xb000_0000), 0x8000_0000);
    assert_eq!(low(MachineType::Pc, 0xdfff_ffff), 0xdfff_ffff);
    assert_eq!(low(MachineType::Pc, 0xe000_0000), 0xc000_0000);
}

#[test]
fn what_qemu_would_not_start_is_refused() {
    let refused = |bytes: &[u8], cmdline: &[u8]| patched(bytes, cmdline, None).unwrap_err();
    assert_eq!(refused(b"MZ", b""), QemuKernelError::Protocol { found: 0 });
    let mut other = kernel();
    other[0x202] = 0;
    assert_eq!(refused(&other, b""), QemuKernelError::Protocol { found: 0 });
    assert!(matches!(refused(&kernel(), b"vga=big"), QemuKernelError::VideoMode { .. }));
    assert_eq!(video_mode(b"vga=ask"), Ok(Some(0xfffd)));
    assert_eq!(video_mode(b"novga=791 vga=1"), Ok(Some(791)));
}

#[test]
fn ovmf_adds_the_initrd_to_the_command_line() {
    let measured = |cmdline: &[u8], initrd| {
        let events = kernel_events(cmdline, initrd);
        let events = Pending::measure(&events, &[PcrBank::Sha256]).unwrap();
        events.iter().map(|event| event.digests.first().copied()).collect::<Vec<_>>()
    };
    let wide =
        |text: &str| Some(PcrBank::Sha256.hash(&ucs2::with_nul(&ucs2::widen(text.as_bytes()))));
    let known = PcrBank::Sha256.hash(b"initrd");
    let initrd = Content::Digests(vec![known]);
    assert_eq!(measured(b"quiet", Some(initrd)), [wide("quiet initrd=initrd"), Some(known)]);
    assert_eq!(measured(b"quiet", None), [wide("quiet")]);
    assert_eq!(measured(b"", None), []);
}

proptest! {
    #[test]
    fn no_kernel_and_command_line_panic(
        edits in prop::collection::vec((0x1f0_usize..0x240, any::<u8>()), 0..8),
        cmdline in prop::collection::vec(any::<u8>(), 0..64),
        initrd in prop::option::of(any::<u64>()),
        memory: u64,
    ) {
        let mut bytes = kernel();
        edits.into_iter().for_each(|(at, value)| bytes[at] = value);
        let file = Memory(bytes);
        let machine = QemuMachine { kind: MachineType::Pc, memory };
        let kernel = QemuKernel::new(&file, KernelBlob::Patched, machine, &cmdline, initrd);
        if let Ok(kernel) = kernel {
            prop_assert!(kernel.image().is_ok());
        }
    }
}
