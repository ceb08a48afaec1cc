//! W^X and address space layout randomisation: code and constants cannot be written, other memory
//! cannot be executed, and the heap's window has no other mapping.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::global_asm;
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

global_asm!(
    ".pushsection .text.own_page, \"ax\", @progbits",
    ".balign {page}",
    "own_page_of_code:",
    "ret",
    ".balign {page}",
    ".popsection",
    page = const PAGE_SIZE,
);

unsafe extern "C" {
    fn own_page_of_code();
}

/// Returns an address in the kernel's code. Its page has no other code, so that it can be made not
/// executable while a test runs.
fn code() -> *mut u8 {
    black_box(own_page_of_code as unsafe extern "C" fn()) as *mut u8
}

static CONSTANT: [u8; 64] = [7; 64];

/// Returns an address in the kernel's constants.
fn constant() -> *mut u8 {
    black_box(&raw const CONSTANT).cast_mut().cast()
}

/// Returns the address of the same byte in the mapping of physical memory.
fn alias(pointer: *mut u8) -> *mut u8 {
    let address = VirtAddr::from_ptr(pointer);
    let mapping = mapping_at(address).expect("it is mapped");
    physical::pointer(mapping.at(address)).as_ptr()
}

/// Calls the function whose machine code is at `pointer`.
fn execute(pointer: *const u8) {
    // SAFETY: this call is undefined behaviour on purpose: the tests show that it is caught.
    let function = unsafe { core::mem::transmute::<*const u8, extern "C" fn()>(pointer) };
    black_box(function)();
}

/// Writes the value that the byte has already.
fn rewrite(pointer: *mut u8) {
    // SAFETY: the write faults on purpose. If it does not, it changes no value.
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
    /// The loader writes a table of functions once, when it relocates the image.
    fn tables_cannot_be_written_through_physical_memory(
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
        let frame = frames::allocate(Purpose::Other).expect("memory is free");
        let memory = physical::pointer::<u8>(frame.start_address()).as_ptr();
        // SAFETY: the test owns the frame.
        unsafe { memory.write_volatile(RETURN) };
        execute(memory);
    }
}

kernel_test! {
    /// The second mapping of the code is not executable.
    fn code_cannot_be_executed_through_physical_memory(
        should_fault = "mapped, but not for this access; in the mapping of physical memory",
    ) {
        execute(alias(code()));
    }
}

kernel_test! {
    fn the_heap_cannot_be_executed(
        should_fault = "mapped, but not for this access; in the span of the heap",
    ) {
        let code = black_box(Box::new([RETURN; 16]));
        execute(code.as_ptr());
    }
}

kernel_test! {
    fn the_stack_cannot_be_executed(
        should_fault = "mapped, but not for this access; in the kernel's stack",
    ) {
        let code = black_box([RETURN; 16]);
        execute(code.as_ptr());
    }
}

kernel_test! {
    fn variables_cannot_be_executed(
        should_fault = "mapped, but not for this access; in the kernel's own code or data",
    ) {
        static mut VARIABLE: [u8; 16] = [RETURN; 16];
        execute((&raw const VARIABLE).cast());
    }
}

/// Sets the flags of the page of `pointer`.
fn protect(pointer: *mut u8, flags: PageTableFlags) {
    let page = Page::containing_address(VirtAddr::from_ptr(pointer));
    // SAFETY: the tests access the page as the flags allow, and restore the flags.
    unsafe { page_table::protect(page, flags | PageTableFlags::PRESENT) }.expect("a page of 4 KiB");
}

kernel_test! {
    /// The check finds each rule that is broken, and finds no mismatch after the repair.
    fn a_broken_protection_rule_is_found() {
        const READ: PageTableFlags = PageTableFlags::NO_EXECUTE;
        const WRITE: PageTableFlags = READ.union(PageTableFlags::WRITABLE);
        const EXECUTE: PageTableFlags = PageTableFlags::empty();
        let mut block = filled(0, 2 * PAGE_SIZE);
        let heap = block.as_mut_ptr();
        let page = |pointer: *mut u8| VirtAddr::from_ptr(pointer).align_down(PAGE_SIZE as u64);
        let cases = [
            (
                code(),
                EXECUTE | PageTableFlags::WRITABLE,
                EXECUTE,
                Mismatch::WritableCode {
                    address: page(code()),
                },
            ),
            (
                heap,
                EXECUTE,
                WRITE,
                Mismatch::Executable {
                    address: page(heap),
                },
            ),
        ];
        assert_eq!(protection::check(), Ok(()));
        for (pointer, bad, good, mismatch) in cases {
            protect(pointer, bad);
            let found = protection::check();
            protect(pointer, good);
            assert_eq!(found, Err(mismatch));
        }
        for (image, good) in [(code(), EXECUTE), (constant(), READ)] {
            // Writable at its alias, and at its own address.
            let frame = mapping_at(page(image)).expect("it is mapped").physical;
            protect(alias(image), WRITE);
            let by_alias = protection::check();
            protect(alias(image), READ);
            assert_eq!(
                by_alias,
                Err(Mismatch::WritableAlias {
                    address: page(image),
                    frame
                })
            );
            protect(image, WRITE);
            let by_itself = protection::check();
            protect(image, good);
            assert_eq!(
                by_itself,
                Err(Mismatch::WritableAlias {
                    address: page(image),
                    frame
                })
            );
        }
        assert_eq!(protection::check(), Ok(()));
    }
}

kernel_test! {
    /// The mappings of the bootloader are removed.
    fn the_lower_half_maps_nothing() {
        let mut lowest = None;
        for_each_mapping(|mapping| lowest = lowest.or(Some(mapping.start)));
        assert!(lowest.is_some_and(|address| address >= HIGHER_HALF), "{lowest:?}");
    }
}

kernel_test! {
    /// Two seeds give two windows, and every window is at unused addresses.
    fn the_window_can_be_at_any_unused_address() {
        let own = arenas::window().expect("memory is set up");
        let is_free =
            |index| index == own.level_4_entry() || page_table::is_level_4_entry_unused(index);
        let choose =
            |seed| Window::choose(Seed::of_host(seed), is_free).expect("entries are unused");
        assert_eq!(
            choose(own.seed.value),
            *own,
            "the seed of the host chose this window"
        );
        assert_ne!(choose(1), choose(2));
        for seed in 0..2000 {
            let Range { start, end } = choose(seed).addresses();
            assert_eq!(start % (1 << 30), 0);
            for address in [start, end - 1] {
                let address = VirtAddr::try_new(address as u64).expect("it is canonical");
                assert!(
                    address >= HIGHER_HALF && is_free(address.p4_index()),
                    "{address:?}"
                );
            }
        }
    }
}

kernel_test! {
    /// Without a seed from the host, a seed of the machine chooses the window.
    fn gathered_seeds_differ() {
        let (first, second) = (Seed::gather(), Seed::gather());
        assert_ne!(first.value, second.value);
        // With `--cpu max` the CPU has a generator; QEMU's default CPU has none.
        let origin = RdRand::new().map_or(Origin::Clocks, |_| Origin::Cpu);
        assert_eq!((first.origin, second.origin), (origin, origin));
    }
}

kernel_test! {
    /// Regression scenario 26: frames of the heap are mapped once in the window, and in the mapping
    /// of physical memory. The window has no other mapping.
    fn frames_of_the_heap_have_no_other_mapping() {
        let block = filled(1, 3 << 20);
        let mut frames = Vec::with_capacity(2 * mapped_pages::mapped());
        let window = arenas::window().expect("memory is set up").addresses();
        for_each_mapping(|mapping| {
            if window.contains(&(mapping.start.as_u64() as usize)) {
                assert!(
                    mapping.size == PAGE_SIZE as u64 && mapping.writable && !mapping.executable
                );
                frames.push(mapping.physical);
            }
        });
        assert_eq!(frames.len(), mapped_pages::mapped());
        frames.sort_unstable();
        assert!(
            frames.windows(2).all(|pair| pair[0] < pair[1]),
            "a frame is mapped twice"
        );
        let mut others = 0;
        for_each_mapping(|mapping| {
            let outside = !window.contains(&(mapping.start.as_u64() as usize));
            if outside && mapping.start != physical::address(mapping.physical) {
                others += 1;
                assert!(mapping.size == PAGE_SIZE as u64);
                assert!(
                    frames.binary_search(&mapping.physical).is_err(),
                    "{mapping:x?} is a page of the heap"
                );
            }
        });
        assert!(
            others > 100,
            "{others} pages of the image, of stacks and of what was handed over"
        );
        drop(block);
    }
}
