//! Where the kernel is in the address space.

/// The first address of the higher half.
///
/// The bootloader loads the position-independent kernel at the beginning of the range that it gives
/// it, and the kernel gives it the higher half. A debugger needs this address to find the kernel's
/// symbols.
pub const KERNEL_BASE: u64 = 0xffff_8000_0000_0000;
