//! Fuzz target for unikernel files.

use arbitrary::Arbitrary;
use hvt_abi::GuestRange;
use hvt_abi::manifest::Kind;
use hvt_core::boot::{BootConfig, BootPlan, CommandLine};
use hvt_core::image::Image;
use hvt_core::image::fixture::Elf;
use hvt_core::memory::Permissions;
use hvt_core::memory::fake::FakeMemory;

use crate::outcome::outcome;

/// A file that claims to be a unikernel.
#[derive(Arbitrary, Debug)]
pub enum File {
    /// Arbitrary bytes.
    Raw(Vec<u8>),
    /// A valid unikernel with a few fields overwritten, optionally truncated.
    Patched {
        /// Patches to apply.
        patches: Vec<Patch>,
        /// Length in bytes after truncation.
        cut: Option<u16>,
    },
}

/// Bytes to overwrite.
#[derive(Arbitrary, Debug)]
pub struct Patch {
    /// Offset of the patch: in the file's headers or, counted from the end of the file, in the
    /// notes.
    at: u16,
    from_end: bool,
    bytes: Value,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Byte(u8),
    Half(u16),
    Word(u32),
    Long(u64),
}

impl File {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Raw(bytes) => bytes,
            Self::Patched { patches, cut } => {
                let mut file = Elf::unikernel(&[("disk", Kind::Block), ("net0", Kind::Net)]).build();
                for Patch { at, from_end, bytes } in patches {
                    let at = if from_end { file.len().saturating_sub(at.into()) } else { at.into() };
                    let bytes = match bytes {
                        Value::Byte(value) => value.to_le_bytes().to_vec(),
                        Value::Half(value) => value.to_le_bytes().to_vec(),
                        Value::Word(value) => value.to_le_bytes().to_vec(),
                        Value::Long(value) => value.to_le_bytes().to_vec(),
                    };
                    file.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = from);
                }
                file.truncate(cut.map_or(usize::MAX, usize::from));
                file
            }
        }
    }
}

/// Maximum size of a guest that is loaded, in bytes.
const LOADED_MAX: u64 = 16 << 20;

/// Parses the file. If it is a valid unikernel, checks the invariants of unikernels and boots it.
/// Returns the names of the outcomes.
pub fn check(file: File) -> Vec<String> {
    let bytes = file.bytes();
    let image = match Image::parse(&bytes) {
        Ok(image) => image,
        Err(error) => {
            assert!(!error.to_string().contains('\n'));
            return vec![outcome("refused", &error)];
        }
    };
    let mut end = hvt_abi::GUEST_MIN_BASE;
    for segment in image.segments() {
        assert!(segment.range.start() >= end && !segment.range.is_empty());
        assert!(segment.range.covers(&GuestRange::new(segment.at, segment.bytes.len() as u64).unwrap()));
        assert!(!segment.access.contains(Permissions::WRITE | Permissions::EXECUTE));
        end = segment.range.end();
    }
    let mem_size = (end.0 + 1).next_multiple_of(hvt_abi::MEM_GRANULE).min(hvt_abi::MEM_MAX);
    let cmdline = CommandLine::default();
    let config = BootConfig { mem_size, cmdline: &cmdline, manifest: &[], cpu_cycle_freq: 1, net_ring: None };
    let plan = match BootPlan::new(&image, config) {
        Ok(plan) => plan,
        Err(error) => return vec![outcome("not placed", &error)],
    };
    if mem_size <= LOADED_MAX {
        let booted = plan.load(&FakeMemory::new(mem_size, &[0x5000, 0x10_0800])).unwrap();
        assert_eq!(booted.entry.rip, image.entry());
        return vec!["booted".to_owned()];
    }
    vec!["too large".to_owned()]
}
