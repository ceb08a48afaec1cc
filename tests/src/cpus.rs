//! The CPUs of the machine, by the firmware's tables.

use core::arch::x86_64::__cpuid;

use kernel::acpi::{self, AcpiError};
use kernel::kernel_test;

kernel_test! {
    fn the_cpu_that_booted_is_the_first_in_the_tables() {
        let cpus = acpi::tables().unwrap().cpus().unwrap();
        // Bits 24 to 31 of EBX: the number of the interrupt controller of this CPU.
        let this = __cpuid(1).ebx >> 24;
        assert_eq!(cpus.apic_ids().first(), Some(&this));
        assert_eq!(cpus.left_out(), 0);
        assert_ne!(cpus.local_apic(), 0);
    }

    fn tables_that_a_machine_lacks_are_missing() {
        let tables = acpi::tables().unwrap();
        assert_eq!(tables.find(*b"NONE"), Err(AcpiError::Missing(*b"NONE")));
    }
}
