//! Fields of the VMCS, typed by width (SDM volume 3, appendix B).

use core::marker::PhantomData;

use x86::vmx::vmcs::{control, guest, host, ro};

/// Field with the type of its width.
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
    /// The width in the encoding must match the type.
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

/// Type of a field's value.
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
    ($($width:ty { $($(#[$doc:meta])* $name:ident = $encoding:path;)* })*) => {
        $($($(#[$doc])* pub(super) const $name: Field<$width> = Field::new($encoding);)*)*

        /// Name and encoding of every field.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, u32)] = &[$($((stringify!($name), $encoding),)*)*];
    };
}

fields! {
    u16 {
        VIRTUAL_PROCESSOR_IDENTIFIER = control::VPID;
        GUEST_ES_SELECTOR = guest::ES_SELECTOR;
        GUEST_CS_SELECTOR = guest::CS_SELECTOR;
        GUEST_SS_SELECTOR = guest::SS_SELECTOR;
        GUEST_DS_SELECTOR = guest::DS_SELECTOR;
        GUEST_FS_SELECTOR = guest::FS_SELECTOR;
        GUEST_GS_SELECTOR = guest::GS_SELECTOR;
        GUEST_LDTR_SELECTOR = guest::LDTR_SELECTOR;
        GUEST_TR_SELECTOR = guest::TR_SELECTOR;
        HOST_ES_SELECTOR = host::ES_SELECTOR;
        HOST_CS_SELECTOR = host::CS_SELECTOR;
        HOST_SS_SELECTOR = host::SS_SELECTOR;
        HOST_DS_SELECTOR = host::DS_SELECTOR;
        HOST_FS_SELECTOR = host::FS_SELECTOR;
        HOST_GS_SELECTOR = host::GS_SELECTOR;
        HOST_TR_SELECTOR = host::TR_SELECTOR;
    }
    u64 {
        ADDRESS_OF_MSR_BITMAPS = control::MSR_BITMAPS_ADDR_FULL;
        TSC_OFFSET = control::TSC_OFFSET_FULL;
        EPT_POINTER = control::EPTP_FULL;
        ENCLS_EXITING_BITMAP = control::ENCLS_EXITING_BITMAP_FULL;
        GUEST_PHYSICAL_ADDRESS = ro::GUEST_PHYSICAL_ADDR_FULL;
        VMCS_LINK_POINTER = guest::LINK_PTR_FULL;
        GUEST_IA32_DEBUGCTL = guest::IA32_DEBUGCTL_FULL;
        GUEST_IA32_PAT = guest::IA32_PAT_FULL;
        GUEST_IA32_EFER = guest::IA32_EFER_FULL;
        HOST_IA32_PAT = host::IA32_PAT_FULL;
        HOST_IA32_EFER = host::IA32_EFER_FULL;
    }
    u32 {
        PIN_BASED_CONTROLS = control::PINBASED_EXEC_CONTROLS;
        PRIMARY_CONTROLS = control::PRIMARY_PROCBASED_EXEC_CONTROLS;
        EXCEPTION_BITMAP = control::EXCEPTION_BITMAP;
        PAGE_FAULT_ERROR_CODE_MASK = control::PAGE_FAULT_ERR_CODE_MASK;
        PAGE_FAULT_ERROR_CODE_MATCH = control::PAGE_FAULT_ERR_CODE_MATCH;
        CR3_TARGET_COUNT = control::CR3_TARGET_COUNT;
        EXIT_CONTROLS = control::VMEXIT_CONTROLS;
        EXIT_MSR_STORE_COUNT = control::VMEXIT_MSR_STORE_COUNT;
        EXIT_MSR_LOAD_COUNT = control::VMEXIT_MSR_LOAD_COUNT;
        ENTRY_CONTROLS = control::VMENTRY_CONTROLS;
        ENTRY_MSR_LOAD_COUNT = control::VMENTRY_MSR_LOAD_COUNT;
        ENTRY_INTERRUPTION_INFORMATION = control::VMENTRY_INTERRUPTION_INFO_FIELD;
        ENTRY_EXCEPTION_ERROR_CODE = control::VMENTRY_EXCEPTION_ERR_CODE;
        SECONDARY_CONTROLS = control::SECONDARY_PROCBASED_EXEC_CONTROLS;
        VM_INSTRUCTION_ERROR = ro::VM_INSTRUCTION_ERROR;
        EXIT_REASON = ro::EXIT_REASON;
        EXIT_INTERRUPTION_INFORMATION = ro::VMEXIT_INTERRUPTION_INFO;
        EXIT_INTERRUPTION_ERROR_CODE = ro::VMEXIT_INTERRUPTION_ERR_CODE;
        IDT_VECTORING_INFORMATION = ro::IDT_VECTORING_INFO;
        IDT_VECTORING_ERROR_CODE = ro::IDT_VECTORING_ERR_CODE;
        EXIT_INSTRUCTION_LENGTH = ro::VMEXIT_INSTRUCTION_LEN;
        GUEST_ES_LIMIT = guest::ES_LIMIT;
        GUEST_CS_LIMIT = guest::CS_LIMIT;
        GUEST_SS_LIMIT = guest::SS_LIMIT;
        GUEST_DS_LIMIT = guest::DS_LIMIT;
        GUEST_FS_LIMIT = guest::FS_LIMIT;
        GUEST_GS_LIMIT = guest::GS_LIMIT;
        GUEST_LDTR_LIMIT = guest::LDTR_LIMIT;
        GUEST_TR_LIMIT = guest::TR_LIMIT;
        GUEST_GDTR_LIMIT = guest::GDTR_LIMIT;
        GUEST_IDTR_LIMIT = guest::IDTR_LIMIT;
        GUEST_ES_ACCESS_RIGHTS = guest::ES_ACCESS_RIGHTS;
        GUEST_CS_ACCESS_RIGHTS = guest::CS_ACCESS_RIGHTS;
        GUEST_SS_ACCESS_RIGHTS = guest::SS_ACCESS_RIGHTS;
        GUEST_DS_ACCESS_RIGHTS = guest::DS_ACCESS_RIGHTS;
        GUEST_FS_ACCESS_RIGHTS = guest::FS_ACCESS_RIGHTS;
        GUEST_GS_ACCESS_RIGHTS = guest::GS_ACCESS_RIGHTS;
        GUEST_LDTR_ACCESS_RIGHTS = guest::LDTR_ACCESS_RIGHTS;
        GUEST_TR_ACCESS_RIGHTS = guest::TR_ACCESS_RIGHTS;
        GUEST_INTERRUPTIBILITY_STATE = guest::INTERRUPTIBILITY_STATE;
        GUEST_ACTIVITY_STATE = guest::ACTIVITY_STATE;
        GUEST_IA32_SYSENTER_CS = guest::IA32_SYSENTER_CS;
        GUEST_PREEMPTION_TIMER_VALUE = guest::VMX_PREEMPTION_TIMER_VALUE;
        HOST_IA32_SYSENTER_CS = host::IA32_SYSENTER_CS;
    }
    Natural {
        CR0_GUEST_HOST_MASK = control::CR0_GUEST_HOST_MASK;
        CR4_GUEST_HOST_MASK = control::CR4_GUEST_HOST_MASK;
        CR0_READ_SHADOW = control::CR0_READ_SHADOW;
        CR4_READ_SHADOW = control::CR4_READ_SHADOW;
        EXIT_QUALIFICATION = ro::EXIT_QUALIFICATION;
        GUEST_LINEAR_ADDRESS = ro::GUEST_LINEAR_ADDR;
        GUEST_CR0 = guest::CR0;
        GUEST_CR3 = guest::CR3;
        GUEST_CR4 = guest::CR4;
        GUEST_ES_BASE = guest::ES_BASE;
        GUEST_CS_BASE = guest::CS_BASE;
        GUEST_SS_BASE = guest::SS_BASE;
        GUEST_DS_BASE = guest::DS_BASE;
        GUEST_FS_BASE = guest::FS_BASE;
        GUEST_GS_BASE = guest::GS_BASE;
        GUEST_LDTR_BASE = guest::LDTR_BASE;
        GUEST_TR_BASE = guest::TR_BASE;
        GUEST_GDTR_BASE = guest::GDTR_BASE;
        GUEST_IDTR_BASE = guest::IDTR_BASE;
        GUEST_DR7 = guest::DR7;
        GUEST_RSP = guest::RSP;
        GUEST_RIP = guest::RIP;
        GUEST_RFLAGS = guest::RFLAGS;
        GUEST_PENDING_DEBUG_EXCEPTIONS = guest::PENDING_DBG_EXCEPTIONS;
        GUEST_IA32_SYSENTER_ESP = guest::IA32_SYSENTER_ESP;
        GUEST_IA32_SYSENTER_EIP = guest::IA32_SYSENTER_EIP;
        HOST_CR0 = host::CR0;
        HOST_CR3 = host::CR3;
        HOST_CR4 = host::CR4;
        HOST_FS_BASE = host::FS_BASE;
        HOST_GS_BASE = host::GS_BASE;
        HOST_TR_BASE = host::TR_BASE;
        HOST_GDTR_BASE = host::GDTR_BASE;
        HOST_IDTR_BASE = host::IDTR_BASE;
        HOST_IA32_SYSENTER_ESP = host::IA32_SYSENTER_ESP;
        HOST_IA32_SYSENTER_EIP = host::IA32_SYSENTER_EIP;
        HOST_RSP = host::RSP;
        HOST_RIP = host::RIP;
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
}
