//! Function names of a unikernel from its symbol table, which a stripped file lacks.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::section_header::SHT_SYMTAB;
use goblin::elf::sym::{STT_FUNC, STT_NOTYPE, Symtab};
use goblin::elf::{Elf, SectionHeader};
use hvt_abi::Gpa;

/// Address in a unikernel's code, relative to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Linker name of the function.
    pub name: &'a str,
    /// Bytes from the function's start.
    pub offset: u64,
}

/// Returns the function that contains `address`, if the ELF file has a symbol table with such a
/// function. No other property of the file is checked.
#[must_use]
pub fn symbol_at(file: &[u8], address: Gpa) -> Option<Symbol<'_>> {
    let header = Elf::parse_header(file).ok()?;
    let context = Ctx::new(Container::Big, Endian::Little);
    let offset = usize::try_from(header.e_shoff).ok()?;
    let sections = SectionHeader::parse(file, offset, usize::from(header.e_shnum), context).ok()?;
    let table = sections.iter().find(|section| section.sh_type == SHT_SYMTAB)?;
    let names = contents(file, sections.get(usize::try_from(table.sh_link).ok()?)?)?;
    let entries = contents(file, table)?;
    let count = entries.len() / goblin::elf::sym::sym64::SIZEOF_SYM;
    let symbols = Symtab::parse(entries, 0, count, context).ok()?;
    // The last symbol at or below the address. Labels of an assembler have no size.
    let found = symbols
        .iter()
        .filter(|symbol| symbol.st_shndx != 0 && matches!(symbol.st_type(), STT_FUNC | STT_NOTYPE))
        .filter_map(|symbol| Some((symbol, address.0.checked_sub(symbol.st_value)?)))
        .filter(|(symbol, offset)| match symbol.st_size {
            0 => in_code(&sections, symbol.st_shndx, address),
            size => *offset < size,
        })
        .min_by_key(|(symbol, offset)| (*offset, symbol.st_size == 0))?;
    let name = names.get(found.0.st_name..)?.split(|byte| *byte == 0).next()?;
    let name = core::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    Some(Symbol { name, offset: found.1 })
}

fn contents<'a>(file: &'a [u8], section: &SectionHeader) -> Option<&'a [u8]> {
    let start = usize::try_from(section.sh_offset).ok()?;
    let end = usize::try_from(section.sh_offset.checked_add(section.sh_size)?).ok()?;
    file.get(start..end)
}

/// Returns true if `index` is a code section that contains `address`.
fn in_code(sections: &[SectionHeader], index: usize, address: Gpa) -> bool {
    sections.get(index).is_some_and(|section| {
        section.is_executable() && address.0.checked_sub(section.sh_addr).is_some_and(|offset| offset < section.sh_size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    use goblin::elf::section_header::{SHF_ALLOC, SHF_EXECINSTR, SHT_PROGBITS, SHT_STRTAB};
    use proptest::prelude::*;

    use crate::image::fixture::{Elf as Builder, TEXT};

    const STT_OBJECT: u8 = 1;
    const NAMES: &[u8] = b"\0main\0label\0variable\0";

    /// A unikernel with the functions `main` at the start of its text, 0x100 bytes long, and
    /// `label` at 0x200, without a size, and with a `variable` at the address of `main`.
    fn file() -> Vec<u8> {
        let mut file = Builder::unikernel(&[]).build();
        let (symbols, names) = (file.len() as u64, file.len() as u64 + 4 * 24);
        let table = [
            (0, 0, 0, 0, 0),
            (1, STT_FUNC, 3, TEXT, 0x100),
            (6, STT_NOTYPE, 3, TEXT + 0x200, 0),
            (12, STT_OBJECT, 3, TEXT + 8, 8),
        ];
        for (name, kind, section, value, size) in table {
            file.extend(u32::to_le_bytes(name));
            file.extend([kind, 0]);
            file.extend(u16::to_le_bytes(section));
            file.extend([value, size].iter().flat_map(|field: &u64| field.to_le_bytes()));
        }
        file.extend(NAMES);
        let sections = file.len() as u64;
        let mut section = |kind: u32, flags: u32, [address, offset, size]: [u64; 3], link: u32| {
            file.extend([0, kind].iter().flat_map(|field| field.to_le_bytes()));
            file.extend([u64::from(flags), address, offset, size].iter().flat_map(|field| field.to_le_bytes()));
            file.extend([link, 0].iter().flat_map(|field| field.to_le_bytes()));
            file.extend([0; 16]);
        };
        section(0, 0, [0; 3], 0);
        section(SHT_SYMTAB, 0, [0, symbols, 4 * 24], 2);
        section(SHT_STRTAB, 0, [0, names, NAMES.len() as u64], 0);
        section(SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, [TEXT, 0, 0x300], 0);
        file[40..48].copy_from_slice(&sections.to_le_bytes());
        file[58..62].copy_from_slice(&[64, 0, 4, 0]);
        file
    }

    #[test]
    fn names_the_function_and_how_far_in_it_is() {
        let file = file();
        let at = |offset| symbol_at(&file, Gpa(TEXT + offset)).map(|symbol| (symbol.name, symbol.offset));
        assert_eq!(at(0), Some(("main", 0)));
        assert_eq!(at(9), Some(("main", 9)), "variables are not code");
        assert_eq!(at(0xff), Some(("main", 0xff)));
        assert_eq!(at(0x100), None);
        assert_eq!(at(0x210), Some(("label", 0x10)));
        assert_eq!(at(0x300), None, "the section has ended");
        assert_eq!(symbol_at(&file, Gpa(8)), None);
        assert_eq!(symbol_at(&Builder::unikernel(&[]).build(), Gpa(TEXT)), None);
    }

    proptest! {
        #[test]
        fn never_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), at in 0..0x400_u64, keep in any::<prop::sample::Index>()) {
            let mut file = file();
            let tail = file.len() - 0x200;
            for (index, byte) in changes {
                // Changes only the ELF header and the bytes behind the segments: the parser reads
                // nothing else.
                let index = index.index(0x240);
                let index = if index < 0x40 { index } else { tail + index - 0x40 };
                file[index] = byte;
            }
            let _ = symbol_at(&file, Gpa(TEXT + at));
            let _ = symbol_at(&file[..keep.index(file.len())], Gpa(TEXT + at));
        }
    }
}
