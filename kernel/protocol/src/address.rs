//! Where the kernel is in the address space.

/// The first address of the higher half.
///
/// The bootloader loads the position-independent kernel at the beginning of the range that it gives
/// it, and the kernel gives it the higher half. A debugger needs this address to find the kernel's
/// symbols.
pub const KERNEL_BASE: u64 = 0xffff_8000_0000_0000;

/// The symbol of the function that calls the kernel's main function. A debugger stops there.
///
/// `kernel::entry_point!` makes the function, because the compiler may inline the main function
/// itself, whose symbol then does not exist.
pub const KERNEL_MAIN: &str = "call_kernel_main";
