//! Physical memory as the kernel can reach it: the bootloader maps all of it at an offset.
//!
//! This is the one place where addresses become pointers.

use core::ptr::{self, NonNull};

use bootloader_api::info::{MemoryRegionKind, MemoryRegions};
use spin::Once;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use super::InitError;
use super::frames::{self, FRAME_SIZE, Frames, Group};

/// The mapping of physical memory.
struct Mapping {
    /// Where address 0 is mapped.
    offset: VirtAddr,
    /// Where memory ends, and so does what is kept of the mapping.
    end: PhysAddr,
}

static MAPPING: Once<Mapping> = Once::new();

/// The registers of devices lie below. They stay mapped where there is less memory, too.
const LEAST_END: PhysAddr = PhysAddr::new(1 << 32);

fn mapping() -> &'static Mapping {
    MAPPING.get().expect("memory was not set up")
}

/// The offset of the mapping of physical memory.
pub(super) fn offset() -> VirtAddr {
    mapping().offset
}

/// Where physical memory ends.
pub(super) fn end() -> PhysAddr {
    mapping().end
}

/// Whether physical memory is mapped at `address`.
pub(super) fn is_mapping(address: VirtAddr) -> bool {
    MAPPING
        .get()
        .is_some_and(|&Mapping { offset, end }| (offset..offset + end.as_u64()).contains(&address))
}

/// Where a physical address is mapped.
///
/// # Panics
/// Before memory was set up.
pub fn address(address: PhysAddr) -> VirtAddr {
    offset() + address.as_u64()
}

/// Where the kernel reaches a physical address.
///
/// # Panics
/// Before memory was set up.
pub fn pointer<T>(physical: PhysAddr) -> NonNull<T> {
    let address = address(physical).as_u64();
    NonNull::new(ptr::with_exposed_provenance_mut(address as usize))
        .expect("physical memory is mapped above address 0")
}

/// The frame that the kernel reaches at `pointer`.
pub(super) fn frame_at(pointer: NonNull<u8>) -> PhysFrame {
    let address = VirtAddr::from_ptr(pointer.as_ptr()) - offset();
    PhysFrame::containing_address(PhysAddr::new(address))
}

/// Fills a frame with zeros.
///
/// # Safety
/// The frame is memory, and nobody uses it.
pub unsafe fn clear(frame: PhysFrame) {
    let page = pointer::<u8>(frame.start_address());
    // SAFETY: all memory is mapped there, writable, and by the caller's promise nobody uses this.
    unsafe { page.write_bytes(0, FRAME_SIZE as usize) };
}

/// Remembers where the mapping is, and makes an allocator of the frames that the bootloader left.
///
/// # Safety
/// All physical memory is mapped at `offset`, `regions` is true, and this is called once.
pub(super) unsafe fn init(
    offset: VirtAddr,
    regions: &MemoryRegions,
) -> Result<Frames<'static>, InitError> {
    let end = regions
        .iter()
        .filter(|region| {
            matches!(
                region.kind,
                MemoryRegionKind::Usable | MemoryRegionKind::Bootloader
            )
        })
        .map(|region| PhysAddr::new(region.end))
        .fold(LEAST_END, PhysAddr::max);
    MAPPING.call_once(|| Mapping { offset, end });

    let ranges = |usable: bool| {
        regions
            .iter()
            .filter(move |region| (region.kind == MemoryRegionKind::Usable) == usable)
            .map(|region| region.start..region.end)
    };

    let end = ranges(true).map(|range| range.end).max().unwrap_or(0);
    let groups = Frames::groups_below(end).ok_or(InitError::NoRoomForFrameTable { end })?;
    let bytes = (groups * size_of::<Group>()) as u64;
    let table = frames::place_table(ranges(true), ranges(false), bytes)
        .ok_or(InitError::NoRoomForFrameTable { end })?;

    let memory = pointer::<Group>(PhysAddr::new(table.start));
    // SAFETY: by the memory map nobody uses this memory, which is mapped, aligned to a page and long
    // enough, and it is not among the frames that are handed out. Each group is written first.
    let groups = unsafe {
        for index in 0..groups {
            memory.add(index).write(Group::EMPTY);
        }
        core::slice::from_raw_parts_mut(memory.as_ptr(), groups)
    };

    let mut frames = Frames::new(groups);
    ranges(true).for_each(|range| frames.add(range));
    // Where regions overlap, the one that is not usable is right.
    ranges(false).for_each(|range| frames.remove(range));
    frames.remove(table);
    Ok(frames)
}
