//! Fields of the VMCS and their encodings (SDM volume 3, appendix B), typed by width.

use core::marker::PhantomData;

/// A field and its width.
#[derive(Debug)]
pub(super) struct Field<T> {
    encoding: u32,
    width: PhantomData<T>,
}

impl<T> Clone for Field<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Field<T> {}

impl<W: Width> Field<W> {
    /// The encoding has to say the same width as the type.
    const fn new(encoding: u32) -> Self {
        assert!(encoding >> 13 == W::CODE, "wrong width");
        Self { encoding, width: PhantomData }
    }

    pub(super) const fn encoding(self) -> u32 {
        self.encoding
    }
}

/// Natural width: 64 bits on this architecture.
#[derive(Debug)]
pub(super) struct Natural;

/// The type of a field's value.
pub(super) trait Width {
    /// Bits 14:13 of the encoding.
    const CODE: u32;
    type Value: Into<u64>;
    fn truncate(value: u64) -> Self::Value;
}

macro_rules! widths {
    ($($width:ty = $code:literal, $value:ty;)*) => {
        $(impl Width for $width {
            const CODE: u32 = $code;
            type Value = $value;
            #[inline]
            fn truncate(value: u64) -> $value {
                value as $value
            }
        })*
    };
}

widths! {
    u16 = 0, u16;
    u64 = 1, u64;
    u32 = 2, u32;
    Natural = 3, u64;
}

macro_rules! fields {
    ($($width:ty { $($(#[$doc:meta])* $name:ident = $encoding:literal;)* })*) => {
        $($($(#[$doc])* pub(super) const $name: Field<$width> = Field::new($encoding);)*)*

        /// Name and encoding of every field.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, u32)] = &[$($((stringify!($name), $encoding),)*)*];
    };
}

fields! {
    u16 {
        VIRTUAL_PROCESSOR_IDENTIFIER = 0x0000;
        GUEST_ES_SELECTOR = 0x0800;
        GUEST_CS_SELECTOR = 0x0802;
        GUEST_SS_SELECTOR = 0x0804;
        GUEST_DS_SELECTOR = 0x0806;
        GUEST_FS_SELECTOR = 0x0808;
        GUEST_GS_SELECTOR = 0x080a;
        GUEST_LDTR_SELECTOR = 0x080c;
        GUEST_TR_SELECTOR = 0x080e;
        HOST_ES_SELECTOR = 0x0c00;
        HOST_CS_SELECTOR = 0x0c02;
        HOST_SS_SELECTOR = 0x0c04;
        HOST_DS_SELECTOR = 0x0c06;
        HOST_FS_SELECTOR = 0x0c08;
        HOST_GS_SELECTOR = 0x0c0a;
        HOST_TR_SELECTOR = 0x0c0c;
    }
    u64 {
        ADDRESS_OF_MSR_BITMAPS = 0x2004;
        TSC_OFFSET = 0x2010;
        EPT_POINTER = 0x201a;
        ENCLS_EXITING_BITMAP = 0x202e;
        GUEST_PHYSICAL_ADDRESS = 0x2400;
        VMCS_LINK_POINTER = 0x2800;
        GUEST_IA32_DEBUGCTL = 0x2802;
        GUEST_IA32_PAT = 0x2804;
        GUEST_IA32_EFER = 0x2806;
        HOST_IA32_PAT = 0x2c00;
        HOST_IA32_EFER = 0x2c02;
    }
    u32 {
        PIN_BASED_CONTROLS = 0x4000;
        PRIMARY_CONTROLS = 0x4002;
        EXCEPTION_BITMAP = 0x4004;
        PAGE_FAULT_ERROR_CODE_MASK = 0x4006;
        PAGE_FAULT_ERROR_CODE_MATCH = 0x4008;
        CR3_TARGET_COUNT = 0x400a;
        EXIT_CONTROLS = 0x400c;
        EXIT_MSR_STORE_COUNT = 0x400e;
        EXIT_MSR_LOAD_COUNT = 0x4010;
        ENTRY_CONTROLS = 0x4012;
        ENTRY_MSR_LOAD_COUNT = 0x4014;
        ENTRY_INTERRUPTION_INFORMATION = 0x4016;
        ENTRY_EXCEPTION_ERROR_CODE = 0x4018;
        SECONDARY_CONTROLS = 0x401e;
        VM_INSTRUCTION_ERROR = 0x4400;
        EXIT_REASON = 0x4402;
        EXIT_INTERRUPTION_INFORMATION = 0x4404;
        EXIT_INTERRUPTION_ERROR_CODE = 0x4406;
        IDT_VECTORING_INFORMATION = 0x4408;
        IDT_VECTORING_ERROR_CODE = 0x440a;
        EXIT_INSTRUCTION_LENGTH = 0x440c;
        GUEST_ES_LIMIT = 0x4800;
        GUEST_CS_LIMIT = 0x4802;
        GUEST_SS_LIMIT = 0x4804;
        GUEST_DS_LIMIT = 0x4806;
        GUEST_FS_LIMIT = 0x4808;
        GUEST_GS_LIMIT = 0x480a;
        GUEST_LDTR_LIMIT = 0x480c;
        GUEST_TR_LIMIT = 0x480e;
        GUEST_GDTR_LIMIT = 0x4810;
        GUEST_IDTR_LIMIT = 0x4812;
        GUEST_ES_ACCESS_RIGHTS = 0x4814;
        GUEST_CS_ACCESS_RIGHTS = 0x4816;
        GUEST_SS_ACCESS_RIGHTS = 0x4818;
        GUEST_DS_ACCESS_RIGHTS = 0x481a;
        GUEST_FS_ACCESS_RIGHTS = 0x481c;
        GUEST_GS_ACCESS_RIGHTS = 0x481e;
        GUEST_LDTR_ACCESS_RIGHTS = 0x4820;
        GUEST_TR_ACCESS_RIGHTS = 0x4822;
        GUEST_INTERRUPTIBILITY_STATE = 0x4824;
        GUEST_ACTIVITY_STATE = 0x4826;
        GUEST_IA32_SYSENTER_CS = 0x482a;
        GUEST_PREEMPTION_TIMER_VALUE = 0x482e;
        HOST_IA32_SYSENTER_CS = 0x4c00;
    }
    Natural {
        CR0_GUEST_HOST_MASK = 0x6000;
        CR4_GUEST_HOST_MASK = 0x6002;
        CR0_READ_SHADOW = 0x6004;
        CR4_READ_SHADOW = 0x6006;
        EXIT_QUALIFICATION = 0x6400;
        GUEST_LINEAR_ADDRESS = 0x640a;
        GUEST_CR0 = 0x6800;
        GUEST_CR3 = 0x6802;
        GUEST_CR4 = 0x6804;
        GUEST_ES_BASE = 0x6806;
        GUEST_CS_BASE = 0x6808;
        GUEST_SS_BASE = 0x680a;
        GUEST_DS_BASE = 0x680c;
        GUEST_FS_BASE = 0x680e;
        GUEST_GS_BASE = 0x6810;
        GUEST_LDTR_BASE = 0x6812;
        GUEST_TR_BASE = 0x6814;
        GUEST_GDTR_BASE = 0x6816;
        GUEST_IDTR_BASE = 0x6818;
        GUEST_DR7 = 0x681a;
        GUEST_RSP = 0x681c;
        GUEST_RIP = 0x681e;
        GUEST_RFLAGS = 0x6820;
        GUEST_PENDING_DEBUG_EXCEPTIONS = 0x6822;
        GUEST_IA32_SYSENTER_ESP = 0x6824;
        GUEST_IA32_SYSENTER_EIP = 0x6826;
        HOST_CR0 = 0x6c00;
        HOST_CR3 = 0x6c02;
        HOST_CR4 = 0x6c04;
        HOST_FS_BASE = 0x6c06;
        HOST_GS_BASE = 0x6c08;
        HOST_TR_BASE = 0x6c0a;
        HOST_GDTR_BASE = 0x6c0c;
        HOST_IDTR_BASE = 0x6c0e;
        HOST_IA32_SYSENTER_ESP = 0x6c10;
        HOST_IA32_SYSENTER_EIP = 0x6c12;
        HOST_RSP = 0x6c14;
        HOST_RIP = 0x6c16;
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    /// Bits of an encoding (SDM volume 3, 25.11.2): access type 0, index 9:1, group 11:10, bit 12 zero.
    #[test]
    fn encodings_say_what_the_names_say() {
        for &(name, encoding) in ALL {
            assert_eq!(encoding & 1, 0, "{name}: full access");
            assert_eq!(encoding >> 12 & 1, 0, "{name}: reserved");
            let group = encoding >> 10 & 3;
            let read_only = [
                "EXIT_REASON",
                "EXIT_QUALIFICATION",
                "VM_INSTRUCTION_ERROR",
                "GUEST_LINEAR_ADDRESS",
                "GUEST_PHYSICAL_ADDRESS",
            ]
            .contains(&name)
                || name.starts_with("IDT_VECTORING")
                || name.starts_with("EXIT_IN");
            let is_shadow = name.contains("_GUEST_HOST_MASK");
            let expected = match name {
                _ if read_only => 1,
                _ if is_shadow => 0,
                "VMCS_LINK_POINTER" => 2,
                _ if name.starts_with("GUEST_") => 2,
                _ if name.starts_with("HOST_") => 3,
                _ => 0,
            };
            assert_eq!(group, expected, "{name}: group");
        }
    }

    #[test]
    fn no_encoding_occurs_twice() {
        let distinct: BTreeSet<u32> = ALL.iter().map(|&(_, encoding)| encoding).collect();
        assert_eq!(distinct.len(), ALL.len());
    }

    /// Within each group and width the index counts up in the order of the manual's table, where this crate has all of a
    /// run: spot checks at the ends of appendix B's tables.
    #[test]
    fn ends_of_the_manuals_tables() {
        for (field, encoding) in [
            (GUEST_TR_SELECTOR.encoding(), 0x080e),
            (HOST_TR_SELECTOR.encoding(), 0x0c0c),
            (GUEST_IA32_EFER.encoding(), 0x2806),
            (HOST_IA32_EFER.encoding(), 0x2c02),
            (SECONDARY_CONTROLS.encoding(), 0x401e),
            (EXIT_INSTRUCTION_LENGTH.encoding(), 0x440c),
            (GUEST_TR_ACCESS_RIGHTS.encoding(), 0x4822),
            (GUEST_IA32_SYSENTER_CS.encoding(), 0x482a),
            (GUEST_LINEAR_ADDRESS.encoding(), 0x640a),
            (GUEST_IA32_SYSENTER_EIP.encoding(), 0x6826),
            (HOST_RIP.encoding(), 0x6c16),
        ] {
            assert_eq!(field, encoding);
        }
    }
}
