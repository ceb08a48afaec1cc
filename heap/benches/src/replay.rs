//! Driving a peer through a recorded trace.

use std::alloc::Layout;
use std::ptr;

use crate::peer::Peer;
use crate::trace::{Operation, Trace};

/// The recorded programs.
pub const TRACES: [&str; 4] = ["cc", "git", "python", "sqlite"];

/// The trace of that name, or `None` if there is none.
pub fn trace(name: &str) -> Option<Trace> {
    let bytes: &[u8] = match name {
        "cc" => include_bytes!("../../../tests/traces/cc.trace"),
        "git" => include_bytes!("../../../tests/traces/git.trace"),
        "python" => include_bytes!("../../../tests/traces/python.trace"),
        "sqlite" => include_bytes!("../../../tests/traces/sqlite.trace"),
        _ => return None,
    };
    Some(Trace::parse(bytes).expect("the trace is not damaged"))
}

/// A block, or null for none.
#[derive(Clone, Copy)]
pub struct Slot {
    ptr: *mut u8,
    layout: Layout,
}

/// Empty slots for a trace.
pub fn slots(trace: &Trace) -> Vec<Slot> {
    vec![
        Slot {
            ptr: ptr::null_mut(),
            layout: Layout::new::<()>()
        };
        trace.slots
    ]
}

/// Replays a trace and frees what it leaves behind, so that the slots are empty again. Returns
/// whether there was room for everything; if not, the allocator is of no more use.
pub fn replay<P: Peer>(peer: &mut P, trace: &Trace, slots: &mut [Slot]) -> bool {
    for &operation in &trace.operations {
        // SAFETY: a trace allocates into empty slots, and frees and resizes full ones. It has no
        // sizes of zero.
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
    for slot in slots {
        if !slot.ptr.is_null() {
            // SAFETY: the block is live.
            unsafe { peer.deallocate(slot.ptr, slot.layout) };
            slot.ptr = ptr::null_mut();
        }
    }
    true
}
