//! Code and constants cannot be written, nothing else can be executed, and the heap's window is its own.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::hint::black_box;
use core::ops::Range;

use kernel::entropy::{Origin, Seed};
use kernel::kernel_test;
use kernel::memory::frames::{self, Purpose};
use kernel::memory::page_table::{self, for_each_mapping, mapping_at};
use kernel::memory::protection::{self, Mismatch};
use kernel::memory::randomisation::Window;
use kernel::memory::{PAGE_SIZE, arenas, mapped_pages, physical};
use x86_64::VirtAddr;
use x86_64::instructions::random::RdRand;
use x86_64::structures::paging::{Page, PageTableFlags};

use crate::support::filled;

const HIGHER_HALF: VirtAddr = VirtAddr::new(0xffff_8000_0000_0000);

/// The machine code of `ret`.
const RETURN: u8 = 0xc3;

/// An address in the kernel's code.
fn code() -> *mut u8 {
    black_box(code as fn() -> *mut u8) as *mut u8
}

static CONSTANT: [u8; 64] = [7; 64];

/// An address in the kernel's constants.
fn constant() -> *mut u8 {
    black_box(&raw const CONSTANT).cast_mut().cast()
}

/// The same byte in the mapping of physical memory.
fn alias(pointer: *mut u8) -> *mut u8 {
    let address = VirtAddr::from_ptr(pointer);
    let mapping = mapping_at(address).expect("it is mapped");
    physical::pointer(mapping.at(address)).as_ptr()
}

/// Calls the function whose machine code is there.
fn execute(pointer: *const u8) {
    // SAFETY: it is not: this is what the tests show.
    let function = unsafe { core::mem::transmute::<*const u8, extern "C" fn()>(pointer) };
    black_box(function)();
}

/// Writes what is there already.
fn rewrite(pointer: *mut u8) {
    // SAFETY: it changes nothing, if it can be done, which it must not.
    unsafe { pointer.write_volatile(pointer.read_volatile()) };
}

kernel_test! {
    fn code_cannot_be_written(should_fault = "cannot write to") {
        rewrite(code());
    }
}

kernel_test! {
    fn code_cannot_be_written_through_physical_memory(
        should_fault = "mapped, but not for this access; in the mapping of physical memory",
    ) {
        rewrite(alias(code()));
    }
}

kernel_test! {
    fn constants_cannot_be_written_through_physical_memory(
        should_fault = "mapped, but not for this access; in the mapping of physical memory",
    ) {
        rewrite(alias(constant()));
    }
}

kernel_test! {
    /// A table of functions is written once, when the image is relocated.
    fn tables_of_functions_cannot_be_written_through_physical_memory(
        should_fault = "mapped, but not for this access; in the mapping of physical memory",
    ) {
        static FUNCTIONS: [fn() -> *mut u8; 2] = [code, constant];
        rewrite(alias(black_box(&raw const FUNCTIONS).cast_mut().cast()));
    }
}

kernel_test! {
    fn physical_memory_cannot_be_executed(
        should_fault = "mapped, but not for this access; in the mapping of physical memory",
    ) {
        let frame = frames::allocate(Purpose::Other).expect("there is memory");
        let memory = physical::pointer::<u8>(frame.start_address()).as_ptr();
        // SAFETY: the frame is the test's.
        unsafe { memory.write_volatile(RETURN) };
        execute(memory);
    }
}

kernel_test! {
    /// The code itself, where it is mapped a second time.
    fn code_cannot_be_executed_through_physical_memory(
        should_fault = "mapped, but not for this access; in the mapping of physical memory",
    ) {
        execute(alias(code()));
    }
}

kernel_test! {
    fn the_heap_cannot_be_executed(should_fault = "mapped, but not for this access; in the span of the heap") {
        let code = black_box(Box::new([RETURN; 16]));
        execute(code.as_ptr());
    }
}

kernel_test! {
    fn the_stack_cannot_be_executed(should_fault = "mapped, but not for this access; in the kernel's stack") {
        let code = black_box([RETURN; 16]);
        execute(code.as_ptr());
    }
}

kernel_test! {
    fn variables_cannot_be_executed(should_fault = "mapped, but not for this access; in the kernel's own code or data") {
        static mut VARIABLE: [u8; 16] = [RETURN; 16];
        execute((&raw const VARIABLE).cast());
    }
}

/// The flags that the page of `pointer` has.
fn protect(pointer: *mut u8, flags: PageTableFlags) {
    let page = Page::containing_address(VirtAddr::from_ptr(pointer));
    // SAFETY: the tests use what the flags allow, and put them back.
    unsafe { page_table::protect(page, flags | PageTableFlags::PRESENT) }.expect("a page of 4 KiB");
}

kernel_test! {
    /// Each rule, broken, is found; put right, it is not.
    fn a_broken_rule_is_found() {
        const READ: PageTableFlags = PageTableFlags::NO_EXECUTE;
        const WRITE: PageTableFlags = READ.union(PageTableFlags::WRITABLE);
        const EXECUTE: PageTableFlags = PageTableFlags::empty();
        let mut block = filled(0, 2 * PAGE_SIZE);
        let heap = block.as_mut_ptr();
        let page = |pointer: *mut u8| VirtAddr::from_ptr(pointer).align_down(PAGE_SIZE as u64);
        let cases = [
            (code(), EXECUTE | PageTableFlags::WRITABLE, EXECUTE, Mismatch::WritableCode { address: page(code()) }),
            (heap, EXECUTE, WRITE, Mismatch::Executable { address: page(heap) }),
        ];
        assert_eq!(protection::check(), Ok(()));
        for (pointer, bad, good, violation) in cases {
            protect(pointer, bad);
            let found = protection::check();
            protect(pointer, good);
            assert_eq!(found, Err(violation));
        }
        for (image, good) in [(code(), EXECUTE), (constant(), READ)] {
            // Writable by its alias, by itself, and by an address of the heap.
            let frame = mapping_at(page(image)).expect("it is mapped").physical;
            protect(alias(image), WRITE);
            let by_alias = protection::check();
            protect(alias(image), READ);
            assert_eq!(by_alias, Err(Mismatch::WritableAlias { address: page(image), frame }));
            protect(image, WRITE);
            let by_itself = protection::check();
            protect(image, good);
            assert_eq!(by_itself, Err(Mismatch::WritableAlias { address: page(image), frame }));
        }
        assert_eq!(protection::check(), Ok(()));
    }
}

kernel_test! {
    /// What the boot stages have left there is gone.
    fn the_lower_half_maps_nothing() {
        let mut lowest = None;
        for_each_mapping(|mapping| lowest = lowest.or(Some(mapping.start)));
        assert!(lowest.is_some_and(|address| address >= HIGHER_HALF), "{lowest:?}");
    }
}

kernel_test! {
    /// Two seeds give two places, and every place is free.
    fn the_heaps_window_can_lie_anywhere_that_is_unused() {
        let own = arenas::window().expect("memory is set up");
        let is_free = |index| index == own.level_4_entry() || page_table::is_level_4_entry_unused(index);
        let choose = |seed| Window::choose(Seed::of_host(seed), is_free).expect("entries are unused");
        assert_eq!(choose(own.seed.value), *own, "the seed that was given chose this place");
        assert_ne!(choose(1), choose(2));
        for seed in 0..2000 {
            let Range { start, end } = choose(seed).addresses();
            assert_eq!(start % (1 << 30), 0);
            for address in [start, end - 1] {
                let address = VirtAddr::try_new(address as u64).expect("it is canonical");
                assert!(address >= HIGHER_HALF && is_free(address.p4_index()), "{address:?}");
            }
        }
    }
}

kernel_test! {
    /// Without a seed of the host, the place is chosen by one of the machine's.
    fn a_seed_that_is_gathered_is_not_the_last_one() {
        let (first, second) = (Seed::gather(), Seed::gather());
        assert_ne!(first.value, second.value);
        // A run with `--cpu max` has the one, QEMU's usual CPU the other.
        let origin = RdRand::new().map_or(Origin::Clocks, |_| Origin::Cpu);
        assert_eq!((first.origin, second.origin), (origin, origin));
    }
}

kernel_test! {
    /// Regression scenario 26: the frames of the heap are mapped in its window, once, and in the mapping of physical
    /// memory; nothing else is in the window.
    fn nothing_is_shared_with_the_heaps_window() {
        let block = filled(1, 3 << 20);
        let mut frames = Vec::with_capacity(2 * mapped_pages::mapped());
        let window = arenas::window().expect("memory is set up").addresses();
        for_each_mapping(|mapping| {
            if window.contains(&(mapping.start.as_u64() as usize)) {
                assert!(mapping.size == PAGE_SIZE as u64 && mapping.writable && !mapping.executable);
                frames.push(mapping.physical);
            }
        });
        assert_eq!(frames.len(), mapped_pages::mapped());
        frames.sort_unstable();
        assert!(frames.windows(2).all(|pair| pair[0] < pair[1]), "a frame is mapped twice");
        let mut others = 0;
        for_each_mapping(|mapping| {
            let outside = !window.contains(&(mapping.start.as_u64() as usize));
            if outside && mapping.start != physical::address(mapping.physical) {
                others += 1;
                assert!(mapping.size == PAGE_SIZE as u64);
                assert!(frames.binary_search(&mapping.physical).is_err(), "{mapping:x?} is a page of the heap");
            }
        });
        assert!(others > 100, "{others} pages of the image, of stacks and of what was handed over");
        drop(block);
    }
}
