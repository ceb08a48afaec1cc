use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use super::*;

/// The system's allocator. It counts the bytes that each thread requests.
struct Counting;

thread_local! {
    static REQUESTED: Cell<usize> = const { Cell::new(0) };
}

/// Counts a request of this thread. A thread that is about to end is not counted any more.
fn count(bytes: usize) {
    let _ = REQUESTED.try_with(|requested| requested.set(requested.get() + bytes));
}

// SAFETY: each method calls the same method of `System` with the same arguments. Counting allocates
// no memory, because the thread-local variable has a constant initial value and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller gives a layout whose size is not zero.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller gives a layout whose size is not zero.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller gives a block of `System` with its layout, and a size that is not
        // zero.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives a block of `System` with its layout.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls `work`, and returns its result and the number of bytes that it requested.
fn requested_by<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = REQUESTED.get();
    let result = work();
    (result, REQUESTED.get() - before)
}

/// Returns the header of a trace with one operation.
fn header(slots: u32) -> Vec<u8> {
    let header = trace::Header {
        operations: 1,
        slots,
        peak: 8,
    };
    header.encode().to_vec()
}

#[test]
fn the_traces_of_the_repository_are_well_formed() {
    let project = Project::find().unwrap();
    let names = names(&project).unwrap();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        load(&project, &name).unwrap();
    }
}

#[test]
fn a_repository_without_traces_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let why = |project: &Project| load(project, "cc").unwrap_err().to_string();
    let project = Project::at(folder.path());
    let line = why(&project);
    assert!(
        line.ends_with("(tests/traces has none: get it back, or name a file)"),
        "{line}"
    );
    fs::create_dir_all(project.traces()).unwrap();
    assert_eq!(why(&project), line);
    fs::write(project.traces().join("git.trace"), "").unwrap();
    let line = why(&project);
    assert!(line.ends_with("(the repository has git)"), "{line}");
}

#[test]
fn a_header_that_claims_four_billion_slots_costs_no_memory() {
    let bytes = header(u32::MAX);
    let (result, requested) = requested_by(|| check(&bytes));
    assert_eq!(
        result,
        Err(TraceError::TooManySlots {
            slots: u32::MAX,
            operations: 1
        })
    );
    assert_eq!(requested, 0, "bytes");
}

#[test]
fn a_valid_trace_costs_one_word_a_slot() {
    let mut bytes = header(1);
    let layout = Layout::new::<u64>();
    trace::Operation::Allocate { slot: 0, layout }.encode(|byte| bytes.push(byte));
    let (result, requested) = requested_by(|| check(&bytes));
    assert_eq!(result, Ok(()));
    assert_eq!(requested, size_of::<usize>(), "bytes");
}

#[test]
fn without_the_default_trace_a_kernel_boots_without_one() {
    let default = load_chosen(&Project::find().unwrap(), None).unwrap();
    assert_eq!(default.unwrap().name, DEFAULT_TRACE);
    let folder = tempfile::tempdir().unwrap();
    let fork = Project::at(folder.path());
    assert_eq!(load_chosen(&fork, None).unwrap(), None);
    assert_eq!(names(&fork).unwrap(), [""; 0]);
    let line = load_chosen(&fork, Some("json")).unwrap_err().to_string();
    assert!(line.contains("tests/traces has none"), "{line}");
}
