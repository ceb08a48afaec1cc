//! The code that brings a CPU from 16-bit mode to 64-bit mode, and where it lies.
//!
//! ```text
//! below 1 MiB   │ code, parameters │ level 4 table │ level 3 │ level 2 │
//!                                    a copy of the kernel's, and the first 2 MiB at address 0
//! ```
//!
//! Four pages that the memory map calls usable, and that the kernel never allocates. The CPU runs
//! the code at its physical address. Only its first page tables map the code there: those of the
//! kernel never do, so they have no page that is writable and executable.
//!
//! The CPU gets the control registers of the boot CPU, and with them the same protection.

use core::arch::global_asm;
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};

use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use x86_64::registers::control::{Cr0, Cr3, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::structures::paging::{PageTable, PageTableFlags};
use x86_64::{PhysAddr, VirtAddr};

use crate::memory::physical;

/// The number of pages.
const PAGES: u64 = 4;
/// The size of a page in bytes.
const PAGE: u64 = 4096;
/// The offset of the parameters in the first page.
const PARAMETERS: usize = 0x800;
/// The end of the memory that 16-bit code can use, apart from that of old devices.
const END: u64 = 0xa0000;

/// What the code reads.
#[repr(C)]
struct Parameters {
    /// The global descriptor table: no segment, 64-bit code, data.
    segments: [u64; 3],
    /// The first byte of 64-bit code: an offset and a segment.
    far_offset: u32,
    far_segment: u16,
    /// The limit and the address of the table of segments, without a gap.
    segments_limit: u16,
    segments_address: u32,
    cr0: u32,
    cr3: u32,
    cr4: u32,
    efer: u32,
    /// 1 if a CPU may start; the CPU makes it 0.
    ticket: AtomicU32,
    number: u64,
    stack: u64,
    entry: u64,
    level_4_table: u64,
}

const CODE_SEGMENT: u16 = 8;

global_asm!(
    ".pushsection .rodata.trampoline, \"a\", @progbits",
    ".code16",
    "trampoline_begin:",
    "cli",
    "cld",
    // The segment of this page.
    "movw %cs, %ax",
    "movw %ax, %ds",
    "xorl %eax, %eax",
    "xchgl %eax, {parameters} + {ticket}",
    "testl %eax, %eax",
    "jz 2f",
    "movl {parameters} + {cr4}, %eax",
    "movl %eax, %cr4",
    "movl {parameters} + {cr3}, %eax",
    "movl %eax, %cr3",
    "movl $0xc0000080, %ecx",
    "xorl %edx, %edx",
    "movl {parameters} + {efer}, %eax",
    "wrmsr",
    "lgdtl {parameters} + {segments_limit}",
    // Protection and paging at once: from 16-bit mode to 64-bit mode.
    "movl {parameters} + {cr0}, %eax",
    "movl %eax, %cr0",
    "ljmpl *{parameters} + {far_offset}",
    "2: hlt",
    "jmp 2b",
    ".code64",
    "trampoline_long:",
    "movw ${data}, %ax",
    "movw %ax, %ss",
    "movw %ax, %ds",
    "movw %ax, %es",
    "movq trampoline_begin + {parameters} + {stack}(%rip), %rsp",
    "movq trampoline_begin + {parameters} + {number}(%rip), %rdi",
    "movq trampoline_begin + {parameters} + {level_4_table}(%rip), %rsi",
    // The end of backtraces.
    "xorl %ebp, %ebp",
    "pushq $0",
    "jmpq *trampoline_begin + {parameters} + {entry}(%rip)",
    "trampoline_end:",
    ".popsection",
    parameters = const PARAMETERS,
    ticket = const offset_of!(Parameters, ticket),
    cr0 = const offset_of!(Parameters, cr0),
    cr3 = const offset_of!(Parameters, cr3),
    cr4 = const offset_of!(Parameters, cr4),
    efer = const offset_of!(Parameters, efer),
    segments_limit = const offset_of!(Parameters, segments_limit),
    far_offset = const offset_of!(Parameters, far_offset),
    stack = const offset_of!(Parameters, stack),
    number = const offset_of!(Parameters, number),
    level_4_table = const offset_of!(Parameters, level_4_table),
    entry = const offset_of!(Parameters, entry),
    data = const CODE_SEGMENT + 8,
    options(att_syntax)
);

unsafe extern "C" {
    static trampoline_begin: u8;
    static trampoline_long: u8;
    static trampoline_end: u8;
}

/// The function that a CPU arrives at: with its number, and the address of the kernel's level 4
/// table.
pub(super) type Entry = extern "C" fn(usize, u64) -> !;

/// The pages of the trampoline.
pub(super) struct Trampoline {
    page: PhysAddr,
}

impl Trampoline {
    /// Finds memory for the pages, and copies the code there. `None` if there is no memory.
    pub(super) fn new(memory_map: &[MemoryRegion]) -> Option<Self> {
        let page = find(memory_map)?;
        let this = Self {
            page: PhysAddr::new(page),
        };
        let begin = &raw const trampoline_begin;
        let length = (&raw const trampoline_end).addr() - begin.addr();
        assert!(length <= PARAMETERS);
        let code = physical::pointer::<u8>(this.page);
        // SAFETY: the code is a part of the kernel's image. The memory is usable by the memory map,
        // and the kernel allocates none below 1 MiB.
        unsafe { ptr::copy_nonoverlapping(begin, code.as_ptr(), length) };
        Some(this)
    }

    /// Returns the address of the code.
    pub(super) fn page(&self) -> PhysAddr {
        self.page
    }

    /// Returns the address of a page table, of the level 4 to 2.
    fn table(&self, level: u64) -> PhysAddr {
        self.page + (5 - level) * PAGE
    }

    /// Makes the page tables a copy of the kernel's, with the first 2 MiB at address 0.
    fn fill_tables(&self) {
        let (kernel, _) = Cr3::read();
        let kernel = physical::pointer::<PageTable>(kernel.start_address());
        let [mut top, mut middle, mut low] =
            [4, 3, 2].map(|level| physical::pointer::<PageTable>(self.table(level)));
        // SAFETY: only this module uses the memory. The contents of a page table may be any bytes.
        let top = unsafe { top.as_mut() };
        // SAFETY: as above.
        let middle = unsafe { middle.as_mut() };
        // SAFETY: as above.
        let low = unsafe { low.as_mut() };
        // SAFETY: CR3 leads to the table. What changes in it meanwhile, the CPUs do not need.
        top.clone_from(unsafe { kernel.as_ref() });
        middle.zero();
        low.zero();
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        top[0].set_addr(self.table(3), flags);
        middle[0].set_addr(self.table(2), flags);
        low[0].set_addr(PhysAddr::zero(), flags | PageTableFlags::HUGE_PAGE);
    }

    fn parameters(&self) -> NonNull<Parameters> {
        physical::pointer(self.page + PARAMETERS as u64)
    }

    /// Lets one CPU start: with the number `number`, on `stack`, at `entry`.
    pub(super) fn prepare(&self, number: usize, stack: VirtAddr, entry: Entry) {
        // With all that the kernel has mapped by now, the stack among it.
        self.fill_tables();
        let long = (&raw const trampoline_long).addr() - (&raw const trampoline_begin).addr();
        let segments = self.page + (PARAMETERS + offset_of!(Parameters, segments)) as u64;
        let (kernel, _) = Cr3::read();
        // Of the bits that are left out, one can be set in 64-bit mode only, and the other says
        // that the CPU is in it.
        let cr4 = Cr4::read() - Cr4Flags::PCID;
        let efer = Efer::read() - EferFlags::LONG_MODE_ACTIVE;
        // All addresses are below 1 MiB, and the upper halves of the registers have no bits.
        let parameters = Parameters {
            segments: [0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff],
            far_offset: (self.page + long as u64).as_u64() as u32,
            far_segment: CODE_SEGMENT,
            segments_limit: size_of::<[u64; 3]>() as u16 - 1,
            segments_address: segments.as_u64() as u32,
            cr0: Cr0::read_raw() as u32,
            cr3: self.table(4).as_u64() as u32,
            cr4: cr4.bits() as u32,
            efer: efer.bits() as u32,
            ticket: AtomicU32::new(0),
            number: number as u64,
            stack: stack.as_u64(),
            entry: entry as usize as u64,
            level_4_table: kernel.start_address().as_u64(),
        };
        let memory = self.parameters();
        // SAFETY: only this module uses the memory. The CPU that started last has arrived, or can
        // start no more: there is no ticket.
        unsafe { memory.write(parameters) };
        // SAFETY: the parameters were written above, and all that a CPU changes is atomic.
        let parameters = unsafe { memory.as_ref() };
        parameters.ticket.store(1, Ordering::Release);
    }

    /// Lets no CPU start any more. Returns `false` if one has begun to.
    pub(super) fn cancel(&self) -> bool {
        let parameters = self.parameters();
        // SAFETY: `prepare` has written the parameters, and all that a CPU changes is atomic.
        let parameters = unsafe { parameters.as_ref() };
        parameters.ticket.swap(0, Ordering::SeqCst) != 0
    }
}

/// Returns the lowest usable address with room for the pages, above page 0.
fn find(memory_map: &[MemoryRegion]) -> Option<u64> {
    memory_map
        .iter()
        .filter(|region| region.kind == MemoryRegionKind::Usable)
        .filter_map(|region| {
            let start = region.start.max(PAGE).next_multiple_of(PAGE);
            (start + PAGES * PAGE <= region.end.min(END)).then_some(start)
        })
        .min()
}
