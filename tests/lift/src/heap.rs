//! The heap: all that this kernel writes for it. (`boot/src/forks.rs` counts the lines of code.)

use bootloader_api::BootInfo;
use heap_x86_64::{Heap, MapperMemory};
use x86_64::{VirtAddr, registers::control::Cr3, structures::paging::OffsetPageTable};

use crate::frames::UsableFrames;

type KernelMemory = MapperMemory<OffsetPageTable<'static>, UsableFrames>;

pub static MEMORY: KernelMemory = MapperMemory::new();

// SAFETY: one CPU runs. The kernel has no handlers.
#[global_allocator]
pub static HEAP: Heap<KernelMemory> = unsafe { Heap::new(&MEMORY) };

/// Makes allocations succeed.
///
/// # Safety
/// The bootloader has made `boot_info`, with the configuration of this kernel. It is called once.
pub unsafe fn start(boot_info: &BootInfo) {
    let offset = boot_info.physical_memory_offset.into_option();
    let offset = VirtAddr::new(offset.expect("the bootloader maps physical memory"));
    let table = offset + Cr3::read().0.start_address().as_u64();
    // SAFETY: the level 4 table is mapped there, and only this mapper changes it.
    let mapper = unsafe { OffsetPageTable::new(&mut *table.as_mut_ptr(), offset) };
    // SAFETY: by the memory map of the bootloader, no code uses the frames.
    let frames = unsafe { UsableFrames::new(&boot_info.memory_regions, offset) };
    // SAFETY: all memory is mapped at the offset, and there is one address space.
    unsafe { MEMORY.init(mapper, frames, offset) };
    // SAFETY: by the configuration of this kernel, the bootloader maps nothing in the upper half.
    unsafe { HEAP.init(0xffff_a000_0000_0000..0xffff_a040_0000_0000) }.expect("a window");
}
