//! Regression tests for bugs that other allocators shipped. The numbers are those of `TESTING.md`,
//! which says where each bug was reported; 18, 20, 22, 23, 24 and 26 need a kernel and are in
//! `tests/src`.

#[path = "regressions/blocks.rs"]
mod blocks;
mod common;
#[path = "regressions/resizing.rs"]
mod resizing;
#[path = "regressions/sources.rs"]
mod sources;

use std::alloc::Layout;
use std::fs;
use std::path::Path;

use common::memory::Memory;
use heap::talc::source::Claim;
use heap::talc::{DefaultBinning, TalcLock, min_first_heap_size};

const MIN: usize = min_first_heap_size::<DefaultBinning>();

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Returns an allocator with a lock over one range of memory.
fn lock(memory: &Memory) -> TalcLock<spin::Mutex<()>, Claim> {
    // SAFETY: in each test the memory outlives the allocator.
    TalcLock::new(unsafe { Claim::new(memory.base(), memory.size()) })
}

#[test]
fn r10_pointers_are_made_from_integers_in_two_places() {
    fn scan(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                scan(&path, found);
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines() {
                let code = line.split("//").next().unwrap();
                let casts = ["as *mut", "as *const"]
                    .iter()
                    .any(|cast| code.contains(cast) && code.contains("addr"));
                let made = ["with_exposed_provenance", "transmute", "usize as *"]
                    .iter()
                    .any(|name| code.contains(name));
                if casts || made {
                    found.push(format!("{}: {code}", path.display()));
                }
            }
        }
    }
    let mut found = Vec::new();
    scan(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    found.sort();
    let [slab, heap] = &found[..] else {
        panic!("{found:#?}")
    };
    // The pointer of a block may permit access to the block only, so its slab is found by address.
    assert!(slab.contains("slab/slab.rs"), "{slab}");
    // An arena's addresses are integers: where they become a heap, they become pointers.
    assert!(heap.contains("source/arena/acquire.rs"), "{heap}");
}
