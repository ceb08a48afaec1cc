//! Access to physical memory, all of which the bootloader maps at an offset.
//!
//! Only this module turns physical addresses into pointers.

use core::ptr::{self, NonNull};

use bootloader_api::info::{MemoryRegionKind, MemoryRegions};
use spin::Once;
use x86_64::structures::paging::PhysFrame;
use x86_64::{PhysAddr, VirtAddr};

use super::InitError;
use super::frames::{self, FRAME_SIZE, Frames, Group};

/// The mapping of physical memory.
struct Mapping {
    /// The address that physical address 0 is mapped at.
    offset: VirtAddr,
    /// The end of memory, up to which the mapping stays in place.
    end: PhysAddr,
}

static MAPPING: Once<Mapping> = Once::new();

/// The least end of the mapping: registers of devices lie below 4 GiB even if memory ends lower.
const LEAST_END: PhysAddr = PhysAddr::new(1 << 32);

/// Returns the mapping of physical memory.
fn mapping() -> &'static Mapping {
    MAPPING.get().expect("the memory is not initialised")
}

/// Returns the offset of the mapping of physical memory.
pub(super) fn offset() -> VirtAddr {
    mapping().offset
}

/// Returns the end of physical memory, or 4 GiB if that is higher.
pub(crate) fn end() -> PhysAddr {
    mapping().end
}

/// Returns whether `address` is in the mapping of physical memory.
pub(super) fn is_mapping(address: VirtAddr) -> bool {
    MAPPING
        .get()
        .is_some_and(|&Mapping { offset, end }| (offset..offset + end.as_u64()).contains(&address))
}

/// Returns the address that a physical address is mapped at.
///
/// # Panics
/// Panics before the memory is initialised.
pub fn address(address: PhysAddr) -> VirtAddr {
    offset() + address.as_u64()
}

/// Returns a pointer to a physical address.
///
/// # Panics
/// Panics before the memory is initialised.
pub fn pointer<T>(physical: PhysAddr) -> NonNull<T> {
    let address = address(physical).as_u64();
    NonNull::new(ptr::with_exposed_provenance_mut(address as usize))
        .expect("physical memory is mapped above address 0")
}

/// Fills a frame with zeros.
///
/// # Safety
/// The frame is memory, not a device, and no other code uses the frame.
pub unsafe fn clear(frame: PhysFrame) {
    let page = pointer::<u8>(frame.start_address());
    // SAFETY: all memory is mapped there and writable. The caller guarantees that the frame is
    // memory which no other code uses.
    unsafe { page.write_bytes(0, FRAME_SIZE as usize) };
}

/// Stores where the mapping is, and creates the allocator of all usable frames.
///
/// # Safety
/// * All physical memory is mapped at `offset`.
/// * `regions` is the memory map of this machine.
/// * This function is called once.
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
    let table = frames::locate_table(ranges(true), ranges(false), bytes)
        .ok_or(InitError::NoRoomForFrameTable { end })?;

    let memory = pointer::<Group>(PhysAddr::new(table.start));
    for index in 0..groups {
        let group = memory.as_ptr().wrapping_add(index);
        // SAFETY: by the memory map no other code uses this memory. It is mapped, aligned to a
        // frame and large enough for `groups`.
        unsafe { group.write(Group::EMPTY) };
    }
    // SAFETY: each group was written in the loop. No other code gets the memory: below it is
    // removed from the frames that can be allocated.
    let groups = unsafe { core::slice::from_raw_parts_mut(memory.as_ptr(), groups) };

    let mut frames = Frames::new(groups);
    ranges(true).for_each(|range| frames.add(range));
    // Where regions overlap, memory is usable only if all of them say so.
    ranges(false).for_each(|range| frames.remove(range));
    frames.remove(table);
    Ok(frames)
}
