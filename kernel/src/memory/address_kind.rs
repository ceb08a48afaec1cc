//! What an address belongs to, for reports of faults. No function here waits for a lock.

use core::fmt;
use core::ops::Range;

use heap::slab::SlabInfo;
use heap::vmem::SegmentKind;
use x86_64::VirtAddr;
use x86_64::structures::paging::{Page, Size4KiB};

use super::recently_unmapped::{self, UnmappedRange};
use super::stacks::StackKind;
use super::{PAGE_SIZE, arenas, kernel_addresses, page_table, physical, stacks};
use crate::heap::HEAP;

/// What an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// The page at address 0, which null pointers with an offset lead to.
    Null,
    /// The kernel's own code and data.
    Image,
    /// A stack.
    Stack(StackKind),
    /// The guard page below a stack.
    StackGuard(StackKind),
    /// The window of addresses for the heap.
    Heap {
        /// The present use of the address.
        now: HeapAddressKind,
        /// The range that was unmapped there recently, if the address is not in a mapped page of a
        /// span now.
        before: Option<UnmappedRange>,
    },
    /// The mapping of physical memory.
    PhysicalMemory,
    /// None of these.
    Unknown,
}

/// The use of an address in the window for the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeapAddressKind {
    /// A span: mapped pages.
    Span {
        /// The first address of the span.
        base: usize,
        /// The first address after the span.
        end: usize,
        /// The slab that contains the address.
        slab: Option<SlabInfo>,
    },
    /// A page of a span that the heap has given back, so that it is not mapped.
    Hole {
        /// The first address of the span.
        base: usize,
        /// The first address after the span.
        end: usize,
    },
    /// The guard page of a span.
    Guard {
        /// The first address of the span.
        base: usize,
        /// The first address of the guard page.
        end: usize,
    },
    /// The first page of the window, which is never mapped.
    LeadingGuard,
    /// No use.
    Unused,
    /// Unknown: the arena is locked.
    Locked,
}

unsafe extern "C" {
    /// The first byte of the kernel's image; the linker defines the symbol.
    static __executable_start: u8;
    /// The end of the kernel's image; the linker defines the symbol.
    static _end: u8;
}

/// Returns the addresses of the kernel's image.
pub(crate) fn image() -> Range<usize> {
    (&raw const __executable_start).addr()..(&raw const _end).addr()
}

/// Returns what `address` belongs to.
pub fn kind_of(address: VirtAddr) -> AddressKind {
    let page = Page::<Size4KiB>::containing_address(address);
    let start = page.start_address().as_u64() as usize;
    let window = arenas::window().filter(|window| window.level_4_entry() == page.p4_index());
    let is_leading_guard = window.is_some_and(|window| window.leading_guard().contains(&start));
    if let Some(stack) = stacks::kind_of_stack(start) {
        return AddressKind::Stack(stack);
    }
    let above = start.checked_add(PAGE_SIZE).filter(|_| !is_leading_guard);
    if let Some(stack) = above.and_then(stacks::kind_of_stack) {
        return AddressKind::StackGuard(stack);
    }
    if window.is_some() {
        let address = address.as_u64() as usize;
        let now = if is_leading_guard {
            HeapAddressKind::LeadingGuard
        } else {
            heap_kind_of(address)
        };
        let before = match now {
            HeapAddressKind::Span { .. } => None,
            _ => recently_unmapped::try_find(address),
        };
        return AddressKind::Heap { now, before };
    }
    match start {
        0 => AddressKind::Null,
        _ if image().contains(&start) => AddressKind::Image,
        _ if physical::is_mapping(address) => AddressKind::PhysicalMemory,
        _ => AddressKind::Unknown,
    }
}

/// Returns the use of an address in the window, behind the leading guard.
fn heap_kind_of(address: usize) -> HeapAddressKind {
    match kernel_addresses().try_segment_of(address) {
        None => HeapAddressKind::Locked,
        Some(Some(segment)) if segment.kind == SegmentKind::Allocated => {
            let (base, end) = (segment.base, segment.last + 1 - PAGE_SIZE);
            let at = VirtAddr::new(address as u64);
            if address < end && page_table::try_is_mapped(at) == Some(false) {
                HeapAddressKind::Hole { base, end }
            } else if address < end {
                let slab = HEAP.try_slab_of(address);
                HeapAddressKind::Span { base, end, slab }
            } else {
                HeapAddressKind::Guard { base, end }
            }
        }
        Some(_) => HeapAddressKind::Unused,
    }
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("in the page at address 0"),
            Self::Image => f.write_str("in the kernel's own code or data"),
            Self::Stack(stack) => write!(f, "in the {stack}"),
            Self::StackGuard(stack) => write!(f, "in the guard page below the {stack}"),
            Self::Heap { now, before: None } => now.fmt(f),
            Self::Heap {
                now,
                before: Some(UnmappedRange { base, size, span }),
            } => write!(
                f,
                "in a page of the heap that was unmapped: {base:#x} to {:#x} of the span at \
                 {span:#x}; now {now}",
                base + size
            ),
            Self::PhysicalMemory => f.write_str("in the mapping of physical memory"),
            Self::Unknown => f.write_str("unknown to the kernel"),
        }
    }
}

impl fmt::Display for HeapAddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span { base, end, slab } => {
                write!(f, "in the span of the heap from {base:#x} to {end:#x}")?;
                slab.map_or(Ok(()), |slab| write!(f, ", in {slab}"))
            }
            Self::Hole { base, end } => write!(
                f,
                "in a page that was given back, in the span of the heap from {base:#x} to {end:#x}"
            ),
            Self::Guard { base, end } => write!(
                f,
                "in the guard page of the span of the heap from {base:#x} to {end:#x}"
            ),
            Self::LeadingGuard => f.write_str("in the leading guard page of the heap's window"),
            Self::Unused => f.write_str("in unused addresses of the heap's window"),
            Self::Locked => f.write_str("in the heap's window, which is being changed"),
        }
    }
}
