//! Driving a peer through a trace.

use std::alloc::Layout;
use std::ptr;

use crate::peer::Peer;
use crate::trace::{Operation, Trace};

/// A block, or null if the slot is empty.
#[derive(Clone, Copy)]
pub struct Slot {
    ptr: *mut u8,
    layout: Layout,
}

impl Slot {
    /// Returns the first address and the number of bytes of the block, if there is one.
    pub fn block(&self) -> Option<(usize, usize)> {
        (!self.ptr.is_null()).then(|| (self.ptr.addr(), self.layout.size()))
    }
}

/// Returns empty slots for a trace.
pub fn slots(trace: &Trace) -> Vec<Slot> {
    vec![
        Slot {
            ptr: ptr::null_mut(),
            layout: Layout::new::<()>()
        };
        trace.slots
    ]
}

/// Replays a trace and frees the blocks that remain, so that the slots are empty again. Returns
/// whether memory sufficed; if not, the allocator must not be used further.
pub fn replay<P: Peer>(peer: &mut P, trace: &Trace, slots: &mut [Slot]) -> bool {
    let had_room = replay_part(peer, &trace.operations, slots);
    if had_room {
        free_rest(peer, slots);
    }
    had_room
}

/// Replays operations with the blocks that are in the slots. Returns whether memory sufficed.
pub fn replay_part<P: Peer>(peer: &mut P, operations: &[Operation], slots: &mut [Slot]) -> bool {
    for &operation in operations {
        // SAFETY: a trace allocates into empty slots, frees and resizes full ones, and has no sizes
        // of zero.
        unsafe {
            match operation {
                Operation::Allocate { slot, layout } => {
                    let ptr = peer.allocate(layout);
                    if ptr.is_null() {
                        return false;
                    }
                    slots[slot] = Slot { ptr, layout };
                }
                Operation::Free { slot } => {
                    let Slot { ptr, layout } = slots[slot];
                    peer.deallocate(ptr, layout);
                    slots[slot].ptr = ptr::null_mut();
                }
                Operation::Reallocate { slot, new_size } => {
                    let Slot { ptr, layout } = slots[slot];
                    let ptr = peer.reallocate(ptr, layout, new_size);
                    if ptr.is_null() {
                        return false;
                    }
                    let layout = Layout::from_size_align_unchecked(new_size, layout.align());
                    slots[slot] = Slot { ptr, layout };
                }
            }
        }
    }
    true
}

/// Frees the blocks in the slots.
pub fn free_rest<P: Peer>(peer: &mut P, slots: &mut [Slot]) {
    for slot in slots {
        if !slot.ptr.is_null() {
            // SAFETY: the block is live.
            unsafe { peer.deallocate(slot.ptr, slot.layout) };
            slot.ptr = ptr::null_mut();
        }
    }
}
